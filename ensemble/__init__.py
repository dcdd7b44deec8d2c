"""Test-time augmentation, prediction, voting and stacking at full resolution."""
