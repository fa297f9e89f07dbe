"""Floor 4: the `cluster` command, emulated fleets and the files for `ray up`."""
