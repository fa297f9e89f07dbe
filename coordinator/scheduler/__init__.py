"""Pure scheduling: which runs of which requests go into the next step. No clock, network or threads."""
