"""What several cells share comes first, once."""

import pytest

from bench.runner.launchers.tasks import black_box_folder, prepared_folder, units_of
from tests.support.small_birds import few_birds, planned


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    return few_birds(folder), folder / "home"


def test_images_then_black_boxes_then_cells(place):
    data, home = place
    cells = planned(data, home, methods=("ours", "protopnet"), seeds=(0, 1))
    units = units_of(cells, home)
    assert [unit.stage for unit in units] == ["data", "black-box", "black-box", *[None] * len(cells)]
    assert units[1].needs == units[2].needs == (units[0].name,)
    needs = {(unit.cell.spec.method, unit.cell.spec.seed): unit.needs for unit in units if unit.stage is None}
    for seed, box in ((0, units[1].name), (1, units[2].name)):
        assert needs["ours", seed] == needs["blackbox", seed] == (units[0].name, box)
        assert needs["protopnet", seed] == needs["constant", seed] == (units[0].name,)


def test_what_one_cell_wants_it_makes_itself(place):
    data, home = place
    (unit,) = units_of(planned(data, home, methods=("ours",), controls=False), home)
    assert (unit.stage, unit.needs) == (None, ())


def test_what_is_there_is_not_made_again(place, tmp_path):
    data, _ = place
    cells = planned(data, tmp_path, methods=("ours",))
    prepared_folder(cells[0].spec, tmp_path).mkdir(parents=True)
    assert [unit.stage for unit in units_of(cells, tmp_path)].count("data") == 0
    box = black_box_folder(next(cell.spec for cell in cells if cell.spec.black_box), tmp_path)
    box.result.mkdir(parents=True)
    assert all(unit.stage is None and not unit.needs for unit in units_of(cells, tmp_path))
