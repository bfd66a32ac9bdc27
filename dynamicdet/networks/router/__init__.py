"""The router: its form, its layers, and the ranks that difficulties are."""
