"""A bundle: the exported stages, their description, and the proof that they equal the network."""
