"""int8 bundles by explicit Q/DQ, and what they cost."""
