"""COCO data sets: annotations, letterboxed pictures, and the builder of the demo's."""
