"""What runs a spec: one contract, several backends."""
