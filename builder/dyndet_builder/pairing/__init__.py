"""Two detectors that share nothing: their answers, the router between them, whether it pays, and their bundle."""
