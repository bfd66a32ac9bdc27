"""`dyndet detect`: images, videos and folders through a server."""
