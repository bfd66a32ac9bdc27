"""Two-stage networks for tests."""
