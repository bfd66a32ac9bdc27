"""Files that deploy a repository, and how many replicas a promise needs."""
