"""`dyndet try`: a page on this machine to try a served detector with pictures of one's own."""
