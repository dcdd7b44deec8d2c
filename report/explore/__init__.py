"""A page about the data before any training."""
