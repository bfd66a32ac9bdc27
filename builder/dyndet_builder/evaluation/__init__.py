"""COCO average precision of a checkpoint, a bundle or a server at any threshold."""
