"""Floor 4: what a person asks for."""
