"""MLflow mirror of the store, and MLflow's own interface to look at it."""

from bench.report.mlflow.mirror import Mirror
from bench.report.mlflow.run_writer import Counts
from bench.report.mlflow.server import address, serve

__all__ = ["Counts", "Mirror", "address", "serve"]
