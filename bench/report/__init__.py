"""From the store to tables; nothing here looks at anything else."""

from bench.report.block import Block
from bench.report.comparison import comparison
from bench.report.render import as_markdown, as_text, report

__all__ = ["Block", "as_markdown", "as_text", "comparison", "report"]
