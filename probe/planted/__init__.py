"""Models whose weights are written by hand, so that every head's job is known."""
