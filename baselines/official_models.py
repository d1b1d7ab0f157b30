"""Official networks from the user's checkout of their repositories, behind the contract.

This executes the checkout's code, on purpose: it is the user who names it. The networks are measured, never trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines import extension_stubs, external_repository, official_trees, soft_tree, st_protopnet
from baselines.deformable import DeformableProtoPNetModel
from baselines.official_networks import FOLDERS, NETWORKS, NetworkArguments, module_of
from baselines.prototree import ProtoTreeModel
from bench.contract import CellError, Explanation, FitContext, PartPrototypeModel, PrototypeTable, RequestError, Sizes
from bench.core.seeding import derive

_ABSENT = ("ones", "alfa")
"""Constants of the official code that converted files leave out."""

_CERTAIN = 1e4
"""Logit whose softmax among zeros is 1 and zeros, exactly, in single precision."""


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


def check(method: str, config: Any, sizes: Sizes) -> None:
    """Check that ``config.source`` looks like a checkout with this network; its code is not run here.

    Raises:
        RequestError: if it does not, with the reason.
    """
    if method not in NETWORKS:
        raise RequestError(
            f"{method}.source: its official code is not run here; {method}.checkpoint measures its files"
        )
    root, file = config.source.path, module_of(method, config)
    if not (root / file).is_file():
        within = f", in it the folder {FOLDERS[method]}" if method in FOLDERS else ""
        raise RequestError(f"{method}.source: {root} has no {file}: name a checkout of the official repository{within}")
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
    file = module_of(method, task.config)
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
                if plan.whole > plan.P and method != "prototree" and not hasattr(network, "proto_presence"):
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
    if hasattr(network, "proto_presence"):
        return OfficialModel(network, look, *_unmasked(network, *_settle(network)))
    identity = network.prototype_class_identity if checkpoint is None else checkpoint.identity
    border = DeformableProtoPNetModel.border if method == "deformable" and plan.deformed else 0
    if hasattr(task.config, "branches"):
        network.measured = st_protopnet.names(task.config.branches)
        weights = torch.cat([getattr(network, f"last_layer_{name}").weight for name in network.measured], 1)
        identity = identity.repeat(len(network.measured), 1)
    else:
        weights = _aggregation(network) if method == "evalprotopnet" else network.last_layer.weight
    return OfficialModel(network, look, *_unmasked(network, identity > 0, weights), border)


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
    slots = config.per_class if getattr(config, "base", "") == "protopool" else getattr(config, "slots", None)
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
def _aggregation(network: Any) -> Tensor:
    """Return the weights of EvalProtoPNet's sums of own scores as those of a last layer ``(C, P)``."""
    own = network.activation_weight.view(network.num_classes, -1)
    return torch.block_diag(*(own.softmax(1) * own.shape[1]))


@torch.no_grad()
def _unmasked(network: Any, identity: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the table ``(P, C)`` and the weights ``(C, P)`` without the prototypes that ProtoConcepts masked."""
    mask = getattr(network, "non_vis_mask", None)
    if mask is None:
        return identity, weights
    mask = mask.amin((0, 2)) if mask.ndim == 3 else mask
    return identity & (mask > 0)[:, None], weights * mask


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
