"""HTML report: a folder of pages that open from disk."""

from bench.report.html.build import write_site

__all__ = ["write_site"]
