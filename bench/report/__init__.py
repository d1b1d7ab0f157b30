"""Tables from the store; nothing here looks at anything else."""

from bench.report.paper_tables.build import paper_table
from bench.report.renderers.text import as_markdown, as_text, report, report_table
from bench.report.run_table import comparison
from bench.report.table import Block

__all__ = ["Block", "as_markdown", "as_text", "comparison", "paper_table", "report", "report_table"]
