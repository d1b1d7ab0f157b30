"""Values of a metric on the controls, on a small tree in place of the demo birds."""

import pytest

from bench.data.cub import Cub
from bench.diagnostics import control_values
from tests.support.cub_trees import Quiet, make_tree


@pytest.fixture
def home(tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "birds", 12)
    monkeypatch.setattr(control_values, "open_dataset", lambda *_: Cub(tree))
    return tmp_path / "home"


def values(metric, home):
    return dict(control_values.on_controls(metric, home, Quiet()))


def test_places_that_never_move_are_not_distinct(home):
    found = values("distinctiveness", home)
    assert list(found) == ["constant", "center", "random", "random_fixed", "untrained"]
    assert found["center"].startswith("n/a: no test image has a class with two prototypes")
    assert 85 < float(found["random"].removesuffix(" %")) < 98


def test_controls_predict_nothing_but_for_an_untrained_network(home):
    found = values("accuracy", home)
    assert found["center"] == "n/a: it predicts no class"
    assert found["untrained"].endswith(" %")


def test_what_the_data_set_lacks_is_said(home):
    assert "no object masks" in values("mask_energy", home)["random"]
