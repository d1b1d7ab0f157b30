"""The table that all measuring commands print."""

import doctest

import torch

from bench.diagnostics import measurements
from bench.diagnostics.measurements import Measurements, conditions, describe, timed


def test_examples_print_as_documented():
    assert doctest.testmod(measurements).failed == 0


def test_table_marks_missing_cells_and_keeps_notes():
    rows = [{"method": "a", "s": "1"}, {"method": "long name"}]
    assert Measurements(["above"], ("method", "s"), rows, ["below"]).text().splitlines() == [
        "above", "", "method     s", "a          1", "long name  -", "", "below",
    ]  # fmt: skip


def test_timer_returns_the_result_and_seconds():
    result, seconds = timed(torch.device("cpu"), torch.add, torch.tensor(1), torch.tensor(2))
    assert result == 3
    assert 0 < seconds < 60


def test_conditions_name_the_machine_and_its_load():
    machine = conditions(torch.device("cpu"))
    assert set(machine) == {"device", "hardware", "threads", "load", "partbench"}
    assert len(describe({**machine, "load": 0.0})) == 1
    assert "the machine is busy" in describe({**machine, "load": 1e6})[1]
