"""Every registered method keeps the contract: the checks of ``bench check``, one test for each."""

import pytest
import torch

from bench import registry
from bench.check import methods
from bench.contract import PrototypeTable

METHODS = sorted(registry.names("methods"))


@pytest.fixture(scope="module", params=METHODS)
def fitted(request, tmp_path_factory):
    return methods.prepare(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("check", methods.CHECKS)
def test_method(fitted, check):
    methods.CHECKS[check](fitted)


def test_padded_rows_of_a_table_with_ragged_classes():
    table = PrototypeTable(torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]]))
    assert table.of(torch.tensor([1, 0, 2])).tolist() == [[1, 2, 3], [0, 2, -1], [-1, -1, -1]]
