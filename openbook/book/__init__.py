"""Floor 2: a memory one can open, version and swap."""
