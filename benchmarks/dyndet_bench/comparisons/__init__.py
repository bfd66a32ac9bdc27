"""A served detector beside something else: bare ONNX Runtime, other serving systems, Triton's own client."""
