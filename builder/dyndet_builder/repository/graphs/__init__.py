"""Graphs that a repository has instead of a stage's own."""
