"""Solvers of the decomposition: factorisations and their starting points."""
