"""Whether routing between two detectors pays: accuracy over mean latency, targets, and the verdict."""
