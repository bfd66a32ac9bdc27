"""Two-stage networks: Dy-Faster R-CNN and Dy-Mask R-CNN, with composite backbones and shared heads."""
