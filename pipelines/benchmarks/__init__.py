"""Measurements: ways to do the same work, side by side in one run on one machine."""
