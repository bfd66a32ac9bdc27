"""ONNX detectors of others: what a file is, what it does not tell, and one graph from pictures to boxes."""
