"""`dyndet train` and its commands."""
