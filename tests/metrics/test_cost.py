"""Cost: the median of batches, parameters and time of the fit."""

import pytest

from bench.contract import NotApplicable
from metrics.cost import Cost
from tests.support.ragged_model import measure


def test_cost_is_the_median_of_all_batches_but_the_first(monkeypatch):
    seconds = [50.0, 1.0, 2.0, 3.0, 100.0]
    clock = iter([time for second in seconds for time in (0.0, second)])
    monkeypatch.setattr("metrics.cost.perf_counter", lambda: next(clock))
    assert measure(Cost, batches=[[i] for i in range(5)]).value == 2500.0


def test_cost():
    found = measure(Cost, batches=[[0, 1], [2, 3]], fit_seconds=12.5)
    assert found.value > 0
    assert (found.n, found.also) == (4, {"parameters": 0.0, "fit": 12.5})
    with pytest.raises(NotApplicable, match="no test image"):
        measure(Cost, batches=[[]])
