"""Every registered method keeps the contract: the checks of ``bench check``, one test for each."""

import pytest
import torch

from bench.contract import PrototypeTable
from bench.core import registry
from bench.diagnostics.conformance import methods
from metrics.feature_sampling import in_double

METHODS = sorted(registry.names("methods"))


@pytest.fixture(scope="module", params=METHODS)
def fitted(request, tmp_path_factory):
    return methods.prepare(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("check", methods.CHECKS)
def test_method(fitted, check):
    methods.CHECKS[check](fitted)


def test_the_head_runs_in_double_precision(fitted):
    """Axioms are measured there: the log similarity of a distance near 0 shows single rounding as 1e-2."""
    with torch.no_grad():
        features = fitted.model.backbone(fitted.samples.images[10:16])
        logits = fitted.model.logits(features)
        double = in_double(fitted.model).logits(features.double())
    torch.testing.assert_close(double.to(logits.dtype), logits, rtol=2e-2, atol=1e-1)


def test_padded_rows_of_a_table_with_ragged_classes():
    table = PrototypeTable(torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]]))
    assert table.of(torch.tensor([1, 0, 2])).tolist() == [[1, 2, 3], [0, 2, -1], [-1, -1, -1]]
