"""The report of a detector under load."""
