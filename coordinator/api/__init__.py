"""The OpenAI-shaped HTTP API over the engine."""
