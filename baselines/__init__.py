"""Baseline networks, one file each, built from the shared parts in ``layers``."""
