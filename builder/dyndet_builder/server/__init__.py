"""A Triton server: started here, in Docker, or running elsewhere."""
