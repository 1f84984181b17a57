"""Floor 4: the measurements behind every table of the docs."""
