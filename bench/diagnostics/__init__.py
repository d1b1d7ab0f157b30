"""Checks and measurements of the harness itself."""
