"""Blends' out-of-fold logits -> trained refiners, and what they gain."""
