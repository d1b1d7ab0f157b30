"""Starting weights for the backbones of a run, where data sets and parts of a suite have different ones."""

import pytest
import torch

from bench.config.plan import Context, plan_all
from bench.config.schema import Request
from bench.contract import RequestError
from bench.core import registry
from bench.models import weights
from tests.support.samples import Silent
from tests.support.small_birds import few_birds

BACKBONES = {"cub": "squeezenet1_1", "demo": "tiny"}
"""Of each data set, where none is asked for."""


@pytest.fixture
def files(tmp_path_factory):
    """Weights of both backbones: name -> file."""
    folder = tmp_path_factory.mktemp("weights")
    for name in BACKBONES.values():
        torch.save(registry.load("backbones", name)().state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in BACKBONES.values()}


@pytest.fixture
def started(tmp_path, files):
    """Plan requests on two data sets with weights for these backbones: what each backbone's cells start from."""
    data = few_birds(tmp_path)

    def plan(given, *requests):
        overrides = {"cub.backbones": ["squeezenet1_1"], "pretrained": False, "demo.reader": "cub"}
        common = {"methods": ("protopnet",), "recipe": "demo", "controls": False}
        common["overrides"] = {**overrides, "cub.folder": data.name, "demo.folder": data.name}
        context = Context(tmp_path / "home", Silent(), data.parent, {name: files[name] for name in given})
        cells = plan_all([Request.model_validate({**common, **request}) for request in requests], context)
        return {cell.spec.backbone: cell.spec.weights_digest for cell in cells}

    return plan


def expected(files, *given):
    return {name: weights.digest(file) if name in given else "random" for name, file in files.items()}


@pytest.mark.parametrize("given", [("tiny",), ("squeezenet1_1",), ("squeezenet1_1", "tiny")])
def test_given_weights_start_each_data_sets_backbone(started, files, given):
    assert started(given, {"datasets": ("cub", "demo")}) == expected(files, *given)


@pytest.mark.parametrize("given", [("tiny",), ("squeezenet1_1",)])
def test_suite_part_takes_the_data_sets_backbone(started, files, given):
    parts = {"datasets": ("cub",)}, {"datasets": ("demo",), "backbones": ("tiny",)}
    assert started(given, *parts) == expected(files, *given)


def test_a_part_of_a_checkpoint_is_other_weights(started, files, tmp_path):
    state = torch.load(files["tiny"])
    held = {"model": state, "model_ema": {f"module.{key}": value + 1 for key, value in state.items()}}
    torch.save(held, tmp_path / "training.pth")
    files["tiny"] = tmp_path / "training.pth"
    whole = started(("tiny",), {"datasets": ("cub", "demo")})["tiny"]
    files["tiny"] = tmp_path / "training.pth#model_ema"
    part = started(("tiny",), {"datasets": ("cub", "demo")})["tiny"]
    assert len({whole, part, "random"}) == 3
    files["tiny"] = tmp_path / "training.pth#nothing"
    with pytest.raises(RequestError, match=r"has no part 'nothing' with weights; it has model, model_ema"):
        started(("tiny",), {"datasets": ("cub", "demo")})


def test_weights_that_nothing_starts_from_are_a_mistake(started, files):
    with pytest.raises(RequestError, match=r"--weights tiny=...: this run uses squeezenet1_1; add --backbones tiny"):
        started(("tiny",), {"datasets": ("cub",)})
    with pytest.raises(RequestError, match=r"--weights squeezenet1_1=...: this run uses tiny"):
        started(("squeezenet1_1",), *[{"datasets": ("cub", "demo"), "backbones": ("tiny",)}] * 2)
