"""Several servers of one detector: whose turn it is, who is left out, who comes back."""
