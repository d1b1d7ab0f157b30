"""The prototype networks at their smallest, with what they have in common and what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import layers
from baselines.cosine_head import CosineHead
from baselines.deformable import DeformableProtoPNet
from baselines.evalprotopnet import EvalProtoPNet
from baselines.pixpnet import PixPNet
from baselines.protopnet import ProtoPNet
from baselines.protopool import ProtoPool
from baselines.protopshare import ProtoPShare
from baselines.prototree import ProtoTree
from baselines.st_protopnet import STProtoPNet, SupportST
from baselines.tesnet import TesNet
from bench.config.schedule import Phase, Schedule
from bench.contract import FitContext, PartPrototypeModel
from tests.support.samples import stripes, task

LAST = Phase(name="last", epochs=5, lr={"last_layer": 0.01}, freeze_norm=True)


def _at_source(model: Any, maps: Tensor) -> Tensor:
    """Values of ``(N, P, h, w)`` maps where each prototype with a source was projected from."""
    table = model.prototypes
    (held,) = (table.source_image >= 0).nonzero(as_tuple=True)
    row, column = table.source_patch[held].unbind(1)
    return maps[table.source_image[held], held, row, column]


def _distance(model: Any, images: Tensor) -> Tensor:
    return _at_source(model, model.distances(model.backbone(images)))


def _angle(model: Any, images: Tensor) -> Tensor:
    z = model.add_on_layers(model.backbone(images))
    return 1 - _at_source(model, layers.cosines(z, layers.projections(z, model.prototype_vectors)))


def _angle_of_branches(model: Any, images: Tensor) -> Tensor:
    features = model.backbone(images)
    return 1 - _at_source(model, torch.cat([branch.maps(features)[1] for branch in model.branches.values()], 1))


def _angle_inside(model: Any, images: Tensor) -> Tensor:
    # Parts are outside at the border; the projection is linear and the map is not, so that the cosine is nearly 1.
    maps = model.explain(images).maps
    maps[:, :, [0, -1]] = maps[:, :, :, [0, -1]] = 1.0
    return 1 - _at_source(model, maps)


@dataclass(frozen=True)
class Network:
    """A network and the smallest settings with which it learns :func:`stripes`.

    Attributes:
        method: its class.
        settings: of its ``Config``, without the schedule.
        rates: of a phase in which all but the last layer learns.
        modules: group of a schedule -> name of the model's attribute.
        to_source: distance of each projected prototype to the patch that it was projected onto.
        tolerance: largest such distance.
        learns: further settings with which it learns for sure.
        opening: phases before the first in which all of ``rates`` can be used.
        projected: phases without training after a projection.
    """

    method: Any
    settings: Mapping[str, Any]
    rates: Mapping[str, float]
    modules: Mapping[str, str]
    to_source: Callable[[Any, Tensor], Tensor]
    tolerance: float = 1e-4
    learns: Mapping[str, Any] = field(default_factory=dict)
    opening: tuple[Phase, ...] = ()
    projected: tuple[Phase, ...] = ()

    def last(self, epochs: int = LAST.epochs) -> tuple[Phase, ...]:
        """What follows a projection: a phase of the last layer alone, if there is one."""
        return (*self.projected, LAST.model_copy(update={"epochs": epochs})) if "last_layer" in self.modules else ()

    def config(self, *phases: Phase, **changed: Any) -> Any:
        """Settings with these phases after the opening ones."""
        schedule = Schedule(batch_size=12, phases=(*self.opening, *phases))
        return self.method.Config(**{**self.settings, **changed}, schedule=schedule)

    def joint(self, epochs: int, action: str | None = None) -> Phase:
        """A phase in which all but the last layer learns."""
        return Phase(name="joint", epochs=epochs, lr=self.rates, action=action)

    def fit(self, folder: Path, *phases: Phase, **changed: Any) -> tuple[FitContext, PartPrototypeModel]:
        """Train on the stripes."""
        work = task(folder, stripes(), self.config(*phases, **changed))
        return work, self.method().fit(work)


def _rates(*groups: str) -> dict[str, float]:
    return dict.fromkeys(groups, 0.01)


def _angle_of_features(model: Any, images: Tensor) -> Tensor:
    return 1 - _at_source(model, model.explain(images).maps)


_MODULES = {
    "backbone": "backbone", "add_on": "add_on_layers", "prototypes": "prototype_vectors", "last_layer": "last_layer",
}  # fmt: skip
_JOINT = _rates("backbone", "add_on", "prototypes")

NETWORKS = {
    "protopnet": Network(ProtoPNet, {"per_class": 2, "depth": 8}, _JOINT, _MODULES, _distance),
    "tesnet": Network(TesNet, {"per_class": 2, "depth": 8}, _JOINT, _MODULES, _angle),
    "protopool": Network(
        ProtoPool,
        {"prototypes": 12, "slots": 2, "depth": 8, "gumbel_epochs": 2},
        _JOINT | _rates("presence"),
        _MODULES | {"presence": "proto_presence"},
        _distance,
        learns={"mixup": 0, "gumbel_epochs": 15, "cluster": 0.1, "separation": 0.01},
    ),
    "deformable": Network(
        DeformableProtoPNet,
        {"per_class": 2, "hidden": 4},
        _rates("backbone", "prototypes") | {"offsets": 0.001},
        {name: _MODULES[name] for name in ("backbone", "prototypes", "last_layer")} | {"offsets": "conv_offset"},
        _angle_inside,
        tolerance=0.03,
        opening=(Phase(name="rigid", epochs=1, lr=_rates("backbone", "prototypes"), action="open_offsets"),),
    ),
    "cosine-head": Network(
        CosineHead,
        {"per_class": 2},
        _rates("backbone", "prototypes"),
        {name: _MODULES[name] for name in ("backbone", "prototypes", "last_layer")},
        _angle_of_features,
    ),
    "evalprotopnet": Network(EvalProtoPNet, {"per_class": 2, "depth": 8}, _JOINT, _MODULES, _angle),
    "st-protopnet": Network(STProtoPNet, {"per_class": 2, "depth": 8}, _JOINT, _MODULES, _angle_of_branches),
    # In its other form.
    "support-st": Network(
        SupportST, {"per_class": 2, "depth": 8, "form": "full"}, _JOINT, _MODULES, _angle_of_branches
    ),
    "pixpnet": Network(
        PixPNet, {"per_class": 2, "depth": 8}, _JOINT, {name: _MODULES[name] for name in _JOINT}, _distance,
    ),
    "protopshare": Network(
        ProtoPShare, {"per_class": 3, "depth": 8, "merges": 2}, _JOINT, _MODULES, _distance,
        projected=(Phase(name="merging", action="merge"),),
    ),
    "prototree": Network(
        ProtoTree, {"levels": 3, "depth": 8}, _JOINT, {name: _MODULES[name] for name in _JOINT}, _distance,
        tolerance=2e-3,  # the root of a square that is rounded
    ),
}  # fmt: skip


def changed_groups(network: Network, before: PartPrototypeModel, after: PartPrototypeModel) -> set[str]:
    """Groups of parameters in which two models differ."""
    groups = {module: group for group, module in network.modules.items()}
    old, new = dict(before.named_parameters()), dict(after.named_parameters())

    def group(name: str) -> str:
        """Of the first part of the name that is a group's module: networks of branches have them in each branch."""
        return next(groups[part] for part in name.split(".") if part in groups)

    return {group(name) for name in old if not torch.allclose(old[name], new[name], rtol=0, atol=1e-6)}


def reached_groups(learner: Any, value: Tensor) -> set[str]:
    """Groups of parameters that a term of the loss sends a gradient into."""
    reached = set()
    for name, parameters in learner.groups().items():
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        if any(gradient is not None and gradient.any() for gradient in gradients):
            reached.add(name)
    return reached
