"""int8 bundles with explicit Q/DQ, and their cost."""
