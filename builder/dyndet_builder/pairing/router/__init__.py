"""The router of a pair: how it is fitted, and its place in a graph."""
