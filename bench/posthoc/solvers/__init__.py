"""Solvers of the decomposition: factorisations, their starting points, and a batched L-BFGS."""
