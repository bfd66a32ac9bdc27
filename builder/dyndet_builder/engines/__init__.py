"""TensorRT engines of a bundle: built here, or by a script on a machine with TensorRT and the GPU."""
