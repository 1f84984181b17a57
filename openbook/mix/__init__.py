"""Floor 3: where the model and the book meet: sources, weights, decoding, evidence."""
