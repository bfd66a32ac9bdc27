"""Takes picture files apart, so that a decoder sees only what makes pixels; needs only the standard library."""
