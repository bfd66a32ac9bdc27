"""COCO data sets: annotations, letterboxed images, and the builder of the demo's data set."""
