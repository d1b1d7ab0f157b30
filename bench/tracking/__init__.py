"""The MLflow mirror of the store, and MLflow's own interface to look at it."""

from bench.tracking.follow import Follower, until_end_of_input
from bench.tracking.guide import address
from bench.tracking.invocation import Counts
from bench.tracking.local import serve
from bench.tracking.mirror import Mirror

__all__ = ["Counts", "Follower", "Mirror", "address", "serve", "until_end_of_input"]
