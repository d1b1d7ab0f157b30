"""Fits on synthetic images for ``torchrun tests/support/torchrun_fits.py FOLDER``.

Rank 0 writes weights and losses to FOLDER.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from baselines.deformable import DeformableProtoPNet
from baselines.evalprotopnet import EvalProtoPNet
from baselines.protopnet import ProtoPNet
from baselines.protopool import ProtoPool
from baselines.tesnet import TesNet
from bench.config.schedule import Phase, Schedule
from bench.diagnostics.synthetic import task
from bench.models.classifier import Classifier
from bench.training import trainer as train
from bench.training.black_box import ClassifierLearner
from bench.training.distributed import FollowerDone, ProcessGroup
from bench.training.trainer import Trainer
from tests.support.samples import Silent, SmallNet, stripes


def schedule(batch_size: int, *phases: Phase) -> Schedule:
    return Schedule(batch_size=batch_size, phases=phases)


JOINT = {"backbone": 0.01, "add_on": 0.01, "prototypes": 0.01}
LAST = Phase(name="last", epochs=3, lr={"last_layer": 0.01}, freeze_norm=True)
# 33 images: a last batch of 5 for batches of 7, of one image, less than there are ranks, for batches of 8.
METHODS = {
    "protopnet": (ProtoPNet, {"per_class": 2, "depth": 8}, (
        8, Phase(name="joint", epochs=2, lr=JOINT, action="project"), LAST
    )),
    "tesnet": (TesNet, {"per_class": 2, "depth": 8}, (
        7, Phase(name="joint", epochs=2, lr=JOINT, action="project"), LAST
    )),
    "protopool": (ProtoPool, {"prototypes": 12, "slots": 2, "depth": 8, "gumbel_epochs": 2}, (
        7, Phase(name="joint", epochs=2, lr={**JOINT, "presence": 0.01}, action="project"), LAST
    )),
    "deformable": (DeformableProtoPNet, {"per_class": 2, "hidden": 4}, (
        7,
        Phase(name="prototypes", lr={"prototypes": 0.01}, action="open_offsets"),
        Phase(name="joint", epochs=2, lr={"backbone": 0.01, "prototypes": 0.01, "offsets": 0.001}, action="project"),
    )),
    "evalprotopnet": (EvalProtoPNet, {"per_class": 2, "depth": 8}, (
        7, Phase(name="joint", epochs=2, lr=JOINT, action="project"), LAST
    )),
}  # fmt: skip


def fits(folder: Path, group: ProcessGroup) -> dict[str, Any]:
    """Return weights and losses of every fit; empty on all ranks but 0."""
    # In double precision: the order of sums is then the only difference, and a small one.
    train._FABRIC_PRECISION = {**train._FABRIC_PRECISION, "fp32": "64-true"}
    samples, results = stripes(per_class=11), {}
    samples.images = samples.images.double()
    with contextlib.suppress(FollowerDone):
        torch.manual_seed(0)
        learner = ClassifierLearner(Classifier(SmallNet(), 3))
        trainer = Trainer(folder / "classifier", torch.device("cpu"), "fp32", 0, Silent(), group)
        rates = {"backbone": 0.01, "head": 0.01}
        trainer.fit(learner, schedule(8, Phase(name="all", epochs=3, lr=rates)), samples)
        results["classifier"] = state(learner, trainer)
    for name, (kind, config, (batch_size, *phases)) in METHODS.items():
        with contextlib.suppress(FollowerDone):
            settings = kind.Config(**config, schedule=schedule(batch_size, *phases))
            given = task(folder / name, samples, settings, Silent())
            given.trainer = Trainer(folder / name, given.device, "fp32", 0, Silent(), group)
            results[name] = state(kind().fit(given), given.trainer)
    return results


def state(module: nn.Module, trainer: Trainer) -> dict[str, Any]:
    losses = [
        {name: value for name, value in row.items() if name not in ("seconds", "phase")} for row in trainer.history
    ]
    return {"weights": module.state_dict(), "losses": losses}


def main() -> None:
    group = ProcessGroup.of_torchrun()
    group.join(torch.device("cpu"))
    results = fits(Path(sys.argv[1]), group)
    if group.rank == 0:
        torch.save(results, Path(sys.argv[1]) / "fits.pt")
    group.leave()


if __name__ == "__main__":
    main()
