"""Stored results: reading, selecting, aggregating, comparing, exporting."""
