"""Intervals and tests on stored per-unit samples."""
