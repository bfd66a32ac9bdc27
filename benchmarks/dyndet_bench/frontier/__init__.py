"""A dynamic detector beside static ones on the same server: accuracy over latency, and what routing is worth."""
