"""The harness: it runs methods on data sets, measures them and keeps what came out."""

__version__ = "0.1.0"
