"""A repository that is served and measured under load."""
