"""A plan at work, event by event: what `predict` says in formulas, and what it cannot say, many requests at once."""
