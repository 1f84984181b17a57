"""What gives a next-token distribution for the same continuation."""
