"""A stage that cells share, as a process of its own does it: tried again where what went wrong may pass."""

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core import registry
from bench.models.tiny import TinyNet
from bench.results.store import Store
from bench.runner.launchers.summary import write_down
from bench.runner.launchers.tasks import black_box_folder
from tests.support.small_birds import few_birds, planned


class Flaky(TinyNet):
    """Cannot be built so many times."""

    failures = 0

    def __init__(self):
        super().__init__()
        if Flaky.failures:
            Flaky.failures -= 1
            raise OSError(5, "Input/output error")


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Train a cell's black box with a backbone that fails so often: exit code, output, the cell, the black box."""
    catalogue = {kind: dict(names) for kind, names in registry.CATALOGUE.items()}
    monkeypatch.setattr(registry, "CATALOGUE", catalogue)
    registry.register("backbones", "flaky", Flaky)
    home = tmp_path / "home"
    monkeypatch.setenv("BENCH_HOME", str(home))
    request = {"methods": ("blackbox",), "backbones": ("flaky",), "controls": False}
    (cell,) = planned(few_birds(tmp_path), home, **request)
    write_down([cell], Store(home), lambda one: "")

    def call(failures, *arguments):
        monkeypatch.setattr(Flaky, "failures", failures)
        command = ["cell", cell.spec.id, "--only", "black-box", "--device", "cpu", *arguments]
        return CliRunner().invoke(main, command), Store(home).cell(cell.spec.id), black_box_folder(cell.spec, home)

    return call


def test_what_may_pass_is_tried_again_and_leaves_no_failure(stage):
    result, cell, box = stage(1)
    assert result.exit_code == 0, result.output
    assert "Input/output error: trying again" in result.output
    assert box.done
    assert cell.failure is None


@pytest.mark.parametrize(("failures", "retries"), [(1, 0), (3, 2)])
def test_what_does_not_pass_is_recorded(stage, failures, retries):
    result, cell, box = stage(failures, "--retries", str(retries))
    assert result.exit_code == 1
    assert "Input/output error" in cell.failure["reason"]
    assert not box.done
