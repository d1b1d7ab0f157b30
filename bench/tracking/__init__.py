"""The MLflow mirror of the store, and MLflow's own interface to look at it."""

from bench.tracking.local import serve
from bench.tracking.mirror import Counts, Mirror

__all__ = ["Counts", "Mirror", "serve"]
