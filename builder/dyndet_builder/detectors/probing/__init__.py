"""Finds out by trial how a detector of others takes pictures, where neither its file nor its makers say."""
