"""Floor 2: executes the shards a node was given; knows nothing of planner or coordinator."""
