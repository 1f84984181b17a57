"""What is chosen of what may come next: greedy, sampling, beams; under a constraint, up to a stop string."""
