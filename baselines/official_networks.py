"""Networks in the official repositories: the file that defines each, its constructor, its logits and its maps.

Names and signatures are those of cfchen-duke/ProtoPNet at commit 81bf2b7, JackeyWang96/TesNet at 870a77a,
gmum/ProtoPool at 2bd4288, jdonnelly36/Deformable-ProtoPNet at 92d3ab6, hqhQAQ/EvalProtoPNet at ab33e5d,
cwangrun/ST-ProtoPNet at 935aaa1, Henrymachiyu/This-looks-like-those_ProtoConcepts at 44b846c and M-Nauta/ProtoTree at
789be85.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from baselines import official_trees

FOLDERS = dict.fromkeys(("st-protopnet", "support-st"), "cropped or full") | {"protoconcepts": "of the base"}
"""Folders of the repositories that have several networks."""

_CONCEPTS = {"protopnet": "model_ctrl_caps.py", "tesnet": "model_cap.py", "protopool": "model_cap_final.py"}
"""Files of ProtoConcepts, by the network that they extend."""


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


def _make_prototree(module: Any, plan: NetworkArguments) -> Any:
    assert plan.turns is not None
    return official_trees.make(module, plan.architecture, plan.C, plan.D, plan.turns)


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


def _constructed(name: str, **other: Any) -> Callable[[Any, NetworkArguments], Any]:
    """Return the call of a module's constructor that has ProtoPNet's arguments, but for ``other``."""
    return lambda module, plan: getattr(module, name)(**_family(plan) | other)


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


def _look_prototree(network: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = network(features)[0]
    # A class of probability 0 has no logarithm.
    logits = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
    return logits, torch.exp(-network.forward_partial(features)[1])


NETWORKS: dict[str, tuple[Callable[[Any, NetworkArguments], Any], Callable[[Any, Tensor], tuple[Tensor, Tensor]]]] = {
    **dict.fromkeys(("protopnet", "protopshare"), (_constructed("construct_PPNet"), _look_protopnet)),
    "tesnet": (_constructed("construct_TesNet"), _look_tesnet),
    "protopool": (_make_protopool, _look_protopool),
    "deformable": (_make_deformable, _look_deformable),
    # One convolution or two: these constructors know the type of the add-on layers by the name "regular" alone.
    "evalprotopnet": (_constructed("construct_OursNet", add_on_layers_type="regular"), _look_evalprotopnet),
    **dict.fromkeys(
        ("st-protopnet", "support-st"),
        (_constructed("construct_STProtoPNet", add_on_layers_type="regular"), _look_st_protopnet),
    ),
    "protoconcepts": (_make_protoconcepts, _look_protoconcepts),
    "prototree": (_make_prototree, _look_prototree),
}
"""For each method, the constructor from its :func:`module_of`, and the function from features to logits and maps."""


def module_of(method: str, config: Any) -> str:
    """Return the file of the checkout that defines the network."""
    return "util/net.py" if method == "prototree" else _CONCEPTS.get(getattr(config, "base", ""), "model.py")
