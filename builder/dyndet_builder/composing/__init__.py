"""One ONNX file from the stages of a bundle: it routes itself, with no other part of dyndet."""
