"""Connections to a server over gRPC and HTTP, and what makes the calls of a session through them."""
