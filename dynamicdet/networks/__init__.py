"""Networks as data, their checkpoints and their costs."""
