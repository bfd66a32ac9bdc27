"""Compares a served detector: with bare ONNX Runtime, other ways to serve, and Triton's own client."""
