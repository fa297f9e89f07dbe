"""Floor 3: who is in the fleet, the serving engine and the HTTP API."""
