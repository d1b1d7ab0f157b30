"""MLflow mirror of the store, and MLflow's own interface to look at it."""

from bench.report.mlflow.experiment_note import address
from bench.report.mlflow.live import Follower, until_end_of_input
from bench.report.mlflow.mirror import Mirror
from bench.report.mlflow.run import Counts
from bench.report.mlflow.server import serve

__all__ = ["Counts", "Follower", "Mirror", "address", "serve", "until_end_of_input"]
