"""`dyndet bench` and its commands."""
