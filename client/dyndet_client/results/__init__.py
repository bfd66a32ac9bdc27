"""What a server answers, beside detections: its operating points; and how people see detections."""
