"""Official networks from the user's checkout of their repositories, behind the contract.

This executes the checkout's code, on purpose: it is the user who names it. The networks are measured, never trained.
Names and signatures are those of cfchen-duke/ProtoPNet at commit 81bf2b7, JackeyWang96/TesNet at 870a77a,
gmum/ProtoPool at 2bd4288, jdonnelly36/Deformable-ProtoPNet at 92d3ab6 and M-Nauta/ProtoTree at 789be85.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines import extension_stubs, external_repository, official_trees, soft_tree
from baselines.deformable import DeformableProtoPNetModel
from baselines.prototree import ProtoTreeModel
from bench.contract import CellError, Explanation, FitContext, PartPrototypeModel, PrototypeTable, RequestError, Sizes
from bench.core.seeding import derive

_ABSENT = ("ones", "alfa")
"""Constants of the official code that converted files leave out."""

_CERTAIN = 1e4
"""Logit whose softmax among zeros is 1 and zeros, exactly, in single precision."""


@dataclass(frozen=True)
class NetworkArguments:
    """Arguments of an official network: letters as in :data:`baselines.official_files.SHAPES`."""

    architecture: str
    image: int
    C: int
    P: int
    K: int
    D: int
    activation: str = "log"
    convolutions: int = 2
    part: tuple[int, int] = (2, 2)
    hidden: int = 128
    deformed: bool = True
    turns: Tensor | None = None

    @property
    def whole(self) -> int:
        """Number of prototypes before pruning: the least multiple of the classes."""
        return -(-self.P // self.C) * self.C


class OfficialModel(PartPrototypeModel):
    """Official network behind the contract.

    Args:
        network: network as its repository builds it; its backbone is removed from it.
        look: network and features -> logits ``(N, C)`` and similarity maps ``(N, P, h, w)``.
        identity: table of prototypes by class, bool ``(P, C)``.
        weights: weight of each prototype's map for each class ``(C, P)``.
        border: as in the contract.
    """

    weights: Tensor

    def __init__(
        self, network: Any, look: Callable[..., Any], identity: Tensor, weights: Tensor, border: int = 0
    ) -> None:
        super().__init__()
        self.border = border
        body = "_net" if hasattr(network, "_net") else "features"
        self.backbone = getattr(network, body)
        # Each network calls `features` on its input: from here on its input is features.
        setattr(network, body, nn.Identity())
        self.network, self.look = network, look
        self.prototypes = PrototypeTable(identity)
        self.register_buffer("weights", weights.detach().clone())

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return the method's similarities before upsampling as maps, their maxima as scores."""
        with external_repository.contained(features.device):
            logits, maps = self.look(self.network, features)
        scores = maps.amax((2, 3))
        if classes is None:
            return Explanation(logits, maps, scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self.pick(maps, indices), self.pick(scores, indices), indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the displayed map: similarity maps with their weights for the class."""
        return torch.einsum("nphw,np->nhw", self.head(features).maps, self.weights[classes])


class OfficialTree(OfficialModel):
    """Official ProtoTree behind the contract; ``weights`` are its leaves' parameters ``(L, C)``."""

    turns: Tensor

    not_additive = ProtoTreeModel.not_additive

    def __init__(self, network: Any, look: Callable[..., Any], identity: Tensor, leaves: Tensor, turns: Tensor) -> None:
        super().__init__(network, look, identity, leaves)
        self.register_buffer("turns", turns)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the sum of the maps of the prototypes that are found on the way to the class."""
        seen = self.head(features)
        found = soft_tree.found(-seen.scores.log(), self.turns, self.weights, classes)
        return torch.einsum("nphw,np->nhw", seen.maps, found.to(seen.maps))


def _make_prototree(module: Any, plan: NetworkArguments) -> Any:
    assert plan.turns is not None
    return official_trees.make(module, plan.architecture, plan.C, plan.D, plan.turns)


def _make_protopnet(module: Any, plan: NetworkArguments) -> Any:
    return module.construct_PPNet(**_family(plan))


def _make_tesnet(module: Any, plan: NetworkArguments) -> Any:
    return module.construct_TesNet(**_family(plan))


def _family(plan: NetworkArguments) -> dict[str, Any]:
    return {
        "base_architecture": plan.architecture,
        "pretrained": False,
        "img_size": plan.image,
        "prototype_shape": (plan.whole, plan.D, 1, 1),
        "num_classes": plan.C,
        "prototype_activation_function": "linear" if plan.activation == "linear" else "log",
        "add_on_layers_type": "regular" if plan.convolutions == 2 else "bottleneck",
    }


def _make_deformable(module: Any, plan: NetworkArguments) -> Any:
    return module.construct_PPNet(
        base_architecture=plan.architecture,
        pretrained=False,
        img_size=plan.image,
        prototype_shape=(plan.whole, plan.D, *plan.part),
        num_classes=plan.C,
        m=0.1,
        add_on_layers_type="upsample",
        using_deform=plan.deformed,
        incorrect_class_connection=-0.5,
        deformable_conv_hidden_channels=plan.hidden,
        prototype_dilation=2,
    )


def _make_protopool(module: Any, plan: NetworkArguments) -> Any:
    return module.PrototypeChooser(
        num_prototypes=plan.P,
        num_descriptive=plan.K,
        num_classes=plan.C,
        arch=plan.architecture,
        pretrained=False,
        add_on_layers_type="log",
        prototype_activation_function=plan.activation,
        proto_depth=plan.D,
        use_last_layer=True,
    )


# Signs: `push_forward` returns distances in ProtoPNet, negative projections in TesNet, similarities in Deformable
# ProtoPNet; ProtoPool has `prototype_distances` instead. Maps are similarities, larger = more present.
def _look_protopnet(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    return network(features)[0], network.distance_2_similarity(network.push_forward(features)[1])


def _look_tesnet(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    return network(features)[0], -network.push_forward(features)[1]


def _look_deformable(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    # The second of the outputs beside the training logits: the logits without the margin.
    return network(features, is_train=False)[1][1], network.push_forward(features)[1]


def _look_protopool(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    # One image alone loses its dimension in the official code, so it is never alone.
    several = features if len(features) > 1 else features.repeat(2, 1, 1, 1)
    logits = network(several, gumbel_scale=0)[0][: len(features)]
    return logits, network.distance_2_similarity(network.prototype_distances(features))


def _look_prototree(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = network(features)[0]
    # A class of probability 0 has no logarithm.
    logits = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
    return logits, torch.exp(-network.forward_partial(features)[1])


NETWORKS: dict[str, tuple[Callable[[Any, NetworkArguments], Any], Callable[[Any, Tensor], tuple[Tensor, Tensor]]]] = {
    "protopnet": (_make_protopnet, _look_protopnet),
    "tesnet": (_make_tesnet, _look_tesnet),
    "protopool": (_make_protopool, _look_protopool),
    "deformable": (_make_deformable, _look_deformable),
    "prototree": (_make_prototree, _look_prototree),
    "protopshare": (_make_protopnet, _look_protopnet),
}
"""For each method, the constructor from its file and the function from features to logits and maps."""

_FILES = {"prototree": "util/net.py"}
"""Files of the networks that are not in ``model.py``."""


def check(method: str, root: Path, sizes: Sizes) -> None:
    """Check that the folder looks like a checkout with this network; its code is not run here.

    Raises:
        RequestError: if it does not, with the reason.
    """
    if method not in NETWORKS:
        raise RequestError(
            f"{method}.source: its official code is not run here; {method}.checkpoint measures its files"
        )
    file = _FILES.get(method, "model.py")
    if not (root / file).is_file():
        raise RequestError(f"{method}.source: {root} has no {file}: name a checkout of the official repository")
    if not re.match(r"(resnet|vgg|densenet)\d", sizes.backbone):
        raise RequestError(f"{method}.source: the official code knows no {sizes.backbone}: --backbones resnet34")


def build(method: str, task: FitContext, checkpoint: Any) -> OfficialModel:
    """Build the official network with the weights of a converted file, or random ones drawn from the task's seed.

    Args:
        method: name of the method.
        task: task whose ``config.source`` is the checkout.
        checkpoint: a :class:`baselines.official_checkpoints.ConvertedCheckpoint` or ``None``.

    Raises:
        CellError: if the checkout does not build that network, or the weights do not fit it.
    """
    make, look = NETWORKS[method]
    root, plan = task.config.source.path, _plan(task, checkpoint)
    extension = ("Deformable-Convolution-V2-PyTorch",)
    file = _FILES.get(method, "model.py")
    opened = external_repository.imported_module(root, file, extension, extension_stubs.stand_ins())
    with torch.random.fork_rng(devices=[]), opened as (module, lent):
        if method == "deformable" and "DCN" in lent:
            # The compiled extension is for CUDA and old releases of torch; the result records the replacement.
            task.progress.note("DCN is not installed: its operation is computed here in its place")
            task.facts["DCN replaced"] = 1.0
        torch.manual_seed(derive(task.seed, "official"))
        try:
            with external_repository.contained(torch.device("cpu")):
                network = make(module, plan)
                if plan.whole > plan.P and method not in ("protopool", "prototree"):
                    network.prune_prototypes(list(range(plan.P, plan.whole)))
        except (AttributeError, TypeError, KeyError) as error:
            raise CellError(f"{root} makes no {method} that is known ({type(error).__name__}: {error})") from error
    if checkpoint is not None:
        weights = checkpoint.weights
        weights = official_trees.official_state(network, weights) if method == "prototree" else weights
        _load(network, weights, task.config.checkpoint.path)
    network.eval()
    if method == "prototree":
        leaves = torch.stack([one for name, one in network.state_dict().items() if name.endswith("_dist_params")])
        turns = plan.turns[plan.turns.any(1)]
        return OfficialTree(network, look, soft_tree.reachable(turns, leaves), leaves, turns)
    if method == "protopool":
        return OfficialModel(network, look, *_settle(network))
    identity = network.prototype_class_identity if checkpoint is None else checkpoint.identity
    border = DeformableProtoPNetModel.border if method == "deformable" and plan.deformed else 0
    return OfficialModel(network, look, identity > 0, network.last_layer.weight, border)


def _plan(task: FitContext, checkpoint: Any) -> NetworkArguments:
    config = task.config
    image, classes = task.train.size, task.train.classes
    if checkpoint is not None:
        facts = checkpoint.facts
        sizes = facts["sizes"]
        known = [sizes[letter] for letter in ("C", "P", "K", "D")]
        more: dict[str, Any] = {"part": (sizes["H"], sizes["W"]), "hidden": sizes["O"]} if "H" in sizes else {}
        # A rigid network has a plain convolution without padding, on whose smaller map its weights were trained.
        more["deformed"] = facts.get("attributes", {}).get("using_deform") is not False
        more["turns"] = checkpoint.state.get("turns")
        return NetworkArguments(task.backbone_name, image, *known, facts["activation"], facts["add_on"], **more)
    if hasattr(config, "levels"):
        turns = soft_tree.complete_tree(config.levels)
        return NetworkArguments(task.backbone_name, image, classes, turns.shape[1], 0, config.depth, turns=turns)
    slots = getattr(config, "slots", None)
    per_class = config.per_class if slots is None else slots
    pool = config.per_class * classes if slots is None else config.prototypes
    depth = getattr(config, "depth", None) or int(task.backbone().channels)  # type: ignore[arg-type]
    return NetworkArguments(task.backbone_name, image, classes, pool, per_class, depth)


def _load(network: Any, weights: dict[str, Tensor], file: Path) -> None:
    try:
        result = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CellError(f"{file} does not fit the official network: {str(error).splitlines()[-1].strip()}") from error
    missing = [name for name in result.missing_keys if name not in _ABSENT and not name.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        names = ", ".join([*missing, *result.unexpected_keys][:4])
        raise CellError(f"{file} does not fit the official network: {names}")


@torch.no_grad()
def _settle(network: Any) -> tuple[Tensor, Tensor]:
    """Put one prototype into every slot of ProtoPool, the one of its largest presence.

    Returns:
        Table of prototypes in the slots of classes, bool ``(P, C)``, and their weights for each class ``(C, P)``.
    """
    # The official code draws Gumbel noise at inference too, so that scores cannot be repeated; a presence of 0 and 1
    # alone is the same at any temperature.
    presence = network.proto_presence
    certain = torch.zeros_like(presence).scatter(1, presence.argmax(1, keepdim=True), 1.0)
    presence.copy_(_CERTAIN * certain)
    by_slot = network.last_layer.weight.unflatten(1, (len(presence), -1))
    return certain.any(2).T, torch.einsum("cdk,dpk->cp", by_slot, certain)
