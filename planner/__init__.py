"""Floor 2: pure functions from fleet, model and goal to a plan. No Ray, gRPC, torch, clock or disk."""
