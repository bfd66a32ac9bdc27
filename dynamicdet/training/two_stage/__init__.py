"""How two-stage detectors are trained: what their anchors and proposals learn, and the losses."""
