"""From the store to tables; nothing here looks at anything else."""

from bench.report.block import Block
from bench.report.comparison import comparison
from bench.report.render import as_markdown, as_text, report, report_table
from bench.report.tables import paper_table

__all__ = ["Block", "as_markdown", "as_text", "comparison", "paper_table", "report", "report_table"]
