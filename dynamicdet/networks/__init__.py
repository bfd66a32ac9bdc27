"""Networks as data, their checkpoints, and what they cost."""
