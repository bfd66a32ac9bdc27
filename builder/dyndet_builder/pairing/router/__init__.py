"""The router of a pair: what it reads, what it learns, the rules it has to beat, and its place in a graph."""
