"""The table that all measuring commands print."""

import torch

from bench.diagnostics.measurements import conditions, describe, measurement_table, timed
from bench.report.renderers import as_markdown


def test_table_marks_missing_cells_and_keeps_notes():
    rows = [{"method": "a", "s": "1"}, {"method": "long name"}]
    text = as_markdown([measurement_table("speed", ["above"], ("method", "s"), rows, ["below"])])
    assert "| a         |   1 |" in text
    assert "| long name |   - |" in text
    assert text.index("speed") < text.index("long name") < text.index("above") < text.index("below")


def test_timer_returns_the_result_and_seconds():
    result, seconds = timed(torch.device("cpu"), torch.add, torch.tensor(1), torch.tensor(2))
    assert result == 3
    assert 0 < seconds < 60


def test_conditions_name_the_machine_and_its_load():
    machine = conditions(torch.device("cpu"))
    assert set(machine) == {"device", "hardware", "threads", "load", "partbench"}
    assert len(describe({**machine, "load": 0.0})) == 1
    assert "the machine is busy" in describe({**machine, "load": 1e6})[1]
