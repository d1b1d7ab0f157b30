"""Tests of the harness, its baselines and its metrics."""
