"""The forms that inputs and outputs of detectors have, those that cannot be used, and how a graph ends."""
