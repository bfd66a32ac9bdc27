"""A bundle: the exported stages, their description, and the proof that they match the network."""
