"""Builds a calibrated Triton model repository from a dynamic detector's checkpoint."""
