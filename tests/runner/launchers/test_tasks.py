"""What several cells share comes first, once."""

import pytest

from bench.runner.launchers.tasks import black_box_folder, prepared_folder, tasks_of
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
