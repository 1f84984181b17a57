"""Keys and values a model keeps between calls."""
