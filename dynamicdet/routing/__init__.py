"""The two routes of a network on a data set, and the training of the router."""
