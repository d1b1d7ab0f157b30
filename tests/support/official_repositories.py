"""Runs code in checkouts of the official repositories beside ours, on the same weights.

OFFICIAL_CODE names the folder of the checkouts, under the names that ``git clone`` gives them.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import ModuleType

import pytest
import torch

from baselines import external_repository, official_files

ROOT = os.environ.get("OFFICIAL_CODE")
CPU = torch.device("cpu")


def stand_in(name, **contents):
    """A module for what the compared functions only import, or draw pictures with."""
    module = ModuleType(name)
    vars(module).update(contents)
    return module


UNUSED = (
    stand_in("cv2", INTER_CUBIC=2, resize=lambda image, dsize, interpolation: torch.zeros(dsize[::-1]).numpy()),
    stand_in("torchsummary", summary=None), stand_in("graphviz"), stand_in("pytorch_warmup"),
    stand_in("configargparse", ArgumentParser=object, Namespace=object, YAMLConfigFileParser=object, ArgParser=object),
    stand_in("filelock", FileLock=object),
)  # fmt: skip


@contextmanager
def official(folder, file):
    """A file of a checkout, imported and run without traces, on the CPU and silently."""
    place = Path(ROOT) / folder
    if not place.is_dir():
        pytest.skip(f"no checkout {folder} in OFFICIAL_CODE")
    with (
        external_repository.imported_module(place, file, (), UNUSED) as (module, _),
        external_repository.contained(CPU),
        redirect_stderr(io.StringIO()),
    ):
        yield module


def settled(network):
    """In eval mode, in double precision, with batch statistics and last layers that are not at their start."""
    for name, tensor in network.state_dict().items():
        if "running_mean" in name:
            tensor.uniform_(-0.1, 0.1)
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
        if "last_layer" in name or "presence" in name:
            tensor += 0.1 * torch.randn_like(tensor)
    return network.double().eval()


def loaded(method, model, state):
    """Our model with the weights of an official network, all of them."""
    given = official_files.named_as_ours(method, {k: v.clone() for k, v in state.items()}, model.state_dict().keys())
    given = {name: values for name, values in given.items() if name.split(".")[-1] not in ("ones", "alfa")}
    missing, unknown = model.load_state_dict(given, strict=False)
    assert not unknown
    assert not [name for name in missing if "prototypes." not in name and "slots" not in name]
    return model.eval()


class Recorder:
    """In place of an optimiser: keeps the gradients, and moves nothing."""

    def __init__(self, network):
        self.network, self.steps = network, []

    def zero_grad(self):
        self.network.zero_grad(set_to_none=True)

    def step(self):
        named = self.network.named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def slopes(method, learner, theirs, images, labels):
    """Largest difference between the gradients of our loss and an official step's, and our terms."""
    learner.model.zero_grad(set_to_none=True)
    terms = learner(images, labels, "joint")
    terms["loss"].backward()
    ours = {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}
    theirs = official_files.named_as_ours(method, theirs, learner.model.state_dict().keys())
    assert set(ours) == set(theirs)
    return max(apart(ours[name], theirs[name]) for name in ours), terms


def apart(ours, theirs):
    """Largest absolute difference."""
    return float((ours.detach() - theirs.detach()).abs().max())


def report(name, bound=1e-10, **differences):
    """Print the largest differences, and require them to be below the bound."""
    print(f"\n{name}: " + ", ".join(f"{what} {value:.1e}" for what, value in differences.items()), end="")  # noqa: T201
    assert max(differences.values()) < bound
