"""Routers: what they learn, how they are fitted, the free rules that they have to beat, and how both compare."""
