"""Compiled pixel loops: numpy and numba only."""
