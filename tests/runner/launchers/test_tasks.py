"""Tasks of a launcher: shared stages come first and once, and a stage alone is retried after transient failures."""

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core import registry
from bench.models.tiny import TinyNet
from bench.results.store import Store
from bench.runner.launchers.tasks import black_box_folder, prepared_folder, tasks_of, write_down
from tests.support.small_birds import few_birds, planned


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return few_birds(folder), folder / "home"


def test_images_then_black_boxes_then_cells(place):
    data, home = place
    cells = planned(data, home, methods=("ours", "protopnet"), seeds=(0, 1))
    tasks = tasks_of(cells, home)
    assert [task.stage for task in tasks] == ["data", "black-box", "black-box", *[None] * len(cells)]
    assert tasks[1].needs == tasks[2].needs == (tasks[0].name,)
    needs = {(task.cell.spec.method, task.cell.spec.seed): task.needs for task in tasks if task.stage is None}
    for seed, box in ((0, tasks[1].name), (1, tasks[2].name)):
        assert needs["ours", seed] == needs["blackbox", seed] == (tasks[0].name, box)
        assert needs["protopnet", seed] == needs["constant", seed] == (tasks[0].name,)


def test_what_one_cell_wants_it_makes_itself(place):
    data, home = place
    (task,) = tasks_of(planned(data, home, methods=("ours",), controls=False), home)
    assert (task.stage, task.needs) == (None, ())


def test_what_is_there_is_not_made_again(place, tmp_path):
    data, _ = place
    cells = planned(data, tmp_path, methods=("ours",))
    prepared_folder(cells[0].spec, tmp_path).mkdir(parents=True)
    assert [task.stage for task in tasks_of(cells, tmp_path)].count("data") == 0
    box = black_box_folder(next(cell.spec for cell in cells if cell.spec.black_box), tmp_path)
    box.result.mkdir(parents=True)
    assert all(task.stage is None and not task.needs for task in tasks_of(cells, tmp_path))


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
