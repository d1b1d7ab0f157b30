"""Official networks from the user's checkout of their repositories, behind the contract.

This executes the checkout's code, on purpose: it is the user who names it. The networks are measured, never trained.
Names and signatures are those of cfchen-duke/ProtoPNet at commit 81bf2b7, JackeyWang96/TesNet at 870a77a,
gmum/ProtoPool at 2bd4288, jdonnelly36/Deformable-ProtoPNet at 92d3ab6, hqhQAQ/EvalProtoPNet at ab33e5d,
cwangrun/ST-ProtoPNet at 935aaa1 and Henrymachiyu/This-looks-like-those_ProtoConcepts at 44b846c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines import extension_stubs, external_repository, st_protopnet
from baselines.deformable import DeformableProtoPNetModel
from bench.contract import CellError, Explanation, FitContext, PartPrototypeModel, PrototypeTable, RequestError, Sizes
from bench.core.seeding import derive

_ABSENT = ("ones", "alfa")
"""Constants of the official code that converted files leave out."""

FOLDERS = dict.fromkeys(("st-protopnet", "support-st"), "cropped or full") | {"protoconcepts": "of the base"}
"""Folders of the repositories that have several networks."""

_CONCEPTS = {"protopnet": "model_ctrl_caps.py", "tesnet": "model_cap.py", "protopool": "model_cap_final.py"}
"""Files of ProtoConcepts, by the network that they extend."""

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
        self.backbone = network.features
        # Each network calls `features` on its input: from here on its input is features.
        network.features = nn.Identity()
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


def _make_evalprotopnet(module: Any, plan: NetworkArguments) -> Any:
    return module.construct_OursNet(**_family(plan) | {"add_on_layers_type": "regular"})


def _make_st_protopnet(module: Any, plan: NetworkArguments) -> Any:
    return module.construct_STProtoPNet(**_family(plan) | {"add_on_layers_type": "regular"})


def _make_protoconcepts(module: Any, plan: NetworkArguments) -> Any:
    if hasattr(module, "Protopool_cap"):
        sizes = plan.P, plan.K, plan.C, False, plan.architecture, False, "regular", plan.activation, plan.D, True
        network = module.Protopool_cap(*sizes)
    else:
        network = getattr(module, "construct_TesNet", None) or module.construct_PPNet
        network = network(**_family(plan))
    # Whether the mask counts is in no state dict; one that was never set has no effect.
    network.masked = network.pruned = True
    return network


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


def _look_evalprotopnet(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    # `conv_features` calls `features.forward_all`, whose second value only the loss needs.
    z = network.add_on_layers(features)
    maps = network._project2basis(z)
    return network.forward_SA_module(maps.amax((2, 3))), maps


def _look_st_protopnet(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    logits = dict(zip(("trivial", "support"), network(features)[0], strict=True))
    maps = [-getattr(network, f"push_forward_{name}")(features)[1] for name in network.measured]
    # The network for whole images has no activation in its add-on layers, and shows cosines not below 0.
    whole = not isinstance(network.add_on_layers_trivial[0], nn.Conv2d)
    shown = torch.cat(maps, 1)
    return sum(logits[name] for name in network.measured), shown.relu() if whole else shown


def _look_protoconcepts(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    several = features if len(features) > 1 else features.repeat(2, 1, 1, 1)
    logits = network(several)[0][: len(features)]
    if hasattr(network, "_project2basis"):
        return logits, network._project2basis(network.conv_features(features))
    return logits, network.distance_2_similarity(network.prototype_distances(features))


def _look_protopool(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    # One image alone loses its dimension in the official code, so it is never alone.
    several = features if len(features) > 1 else features.repeat(2, 1, 1, 1)
    logits = network(several, gumbel_scale=0)[0][: len(features)]
    return logits, network.distance_2_similarity(network.prototype_distances(features))


NETWORKS: dict[str, tuple[Callable[[Any, NetworkArguments], Any], Callable[[Any, Tensor], tuple[Tensor, Tensor]]]] = {
    "protopnet": (_make_protopnet, _look_protopnet),
    "tesnet": (_make_tesnet, _look_tesnet),
    "protopool": (_make_protopool, _look_protopool),
    "deformable": (_make_deformable, _look_deformable),
    "evalprotopnet": (_make_evalprotopnet, _look_evalprotopnet),
    **dict.fromkeys(("st-protopnet", "support-st"), (_make_st_protopnet, _look_st_protopnet)),
    "protoconcepts": (_make_protoconcepts, _look_protoconcepts),
}
"""For each method, the constructor from its :func:`module_of`, and the function from features to logits and maps."""


def module_of(config: Any) -> str:
    """Return the file of the checkout that defines the network."""
    return _CONCEPTS.get(getattr(config, "base", ""), "model.py")


def check(method: str, config: Any, sizes: Sizes) -> None:
    """Check that ``config.source`` looks like a checkout with this network; its code is not run here.

    Raises:
        RequestError: if it does not, with the reason.
    """
    root, file = config.source.path, module_of(config)
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
    opened = external_repository.imported_module(root, module_of(task.config), extension, extension_stubs.stand_ins())
    with torch.random.fork_rng(devices=[]), opened as (module, lent):
        if method == "deformable" and "DCN" in lent:
            # The compiled extension is for CUDA and old releases of torch; the result records the replacement.
            task.progress.note("DCN is not installed: its operation is computed here in its place")
            task.facts["DCN replaced"] = 1.0
        torch.manual_seed(derive(task.seed, "official"))
        try:
            with external_repository.contained(torch.device("cpu")):
                network = make(module, plan)
                if plan.whole > plan.P and not hasattr(network, "proto_presence"):
                    network.prune_prototypes(list(range(plan.P, plan.whole)))
        except (AttributeError, TypeError, KeyError) as error:
            raise CellError(f"{root} makes no {method} that is known ({type(error).__name__}: {error})") from error
    if checkpoint is not None:
        _load(network, checkpoint.weights, task.config.checkpoint.path)
    network.eval()
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
        more = {"part": (sizes["H"], sizes["W"]), "hidden": sizes["O"]} if "H" in sizes else {}
        # A rigid network has a plain convolution without padding, on whose smaller map its weights were trained.
        more["deformed"] = facts.get("attributes", {}).get("using_deform") is not False
        return NetworkArguments(task.backbone_name, image, *known, facts["activation"], facts["add_on"], **more)
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
