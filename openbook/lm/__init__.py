"""Floor 1: a language model one can read: what it is, how it attends, what it keeps."""
