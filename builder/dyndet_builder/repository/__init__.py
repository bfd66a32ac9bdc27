"""A Triton model repository: rendered from a bundle, and read back."""
