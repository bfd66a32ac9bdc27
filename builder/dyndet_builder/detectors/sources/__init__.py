"""What files beside an ONNX file, and the metadata inside it, say about a detector."""
