"""gradbias."""
