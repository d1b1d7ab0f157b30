"""Baseline networks, one file each, on the shared vocabulary of ``layers``."""
