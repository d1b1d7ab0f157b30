"""Plots of stored numbers."""
