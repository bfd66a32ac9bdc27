"""TensorRT engines of a bundle: built here, or by a script where TensorRT and the GPU are."""
