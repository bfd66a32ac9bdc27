"""`dyndet detect`: pictures, videos and folders through a server."""
