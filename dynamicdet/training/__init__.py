"""Training of both detectors: batches, augmentation, assignment, losses, the loop."""
