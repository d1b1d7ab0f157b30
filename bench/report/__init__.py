"""Tables from the store; nothing here looks at anything else."""

from bench.report.paper_tables.build import paper_table
from bench.report.renderers import write
from bench.report.run_table import comparison, with_beyond_chance
from bench.report.table import Table
from bench.report.worth import worth

__all__ = ["Table", "comparison", "paper_table", "with_beyond_chance", "worth", "write"]
