"""COCO average precision of both routes and any mix of them."""
