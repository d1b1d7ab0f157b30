"""Every registered metric keeps the contract: the checks of ``bench check``, one test for each."""

import pytest

from bench.core import registry
from bench.diagnostics.conformance import metrics


@pytest.fixture(scope="module", params=sorted(registry.names("metrics")))
def measured(request, tmp_path_factory):
    return metrics.prepare(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("check", metrics.CHECKS)
def test_metric(measured, check):
    metrics.CHECKS[check](measured)
