"""PIP-Net's official checkpoints (M-Nauta/PIPNet): tensors get the names of the other networks here.

A file has the state of a parallel module: ``_net`` (torchvision's layers), ``_add_on`` (the convolution that makes a
chosen number of prototypes, else nothing), ``_classification.weight``, and twice the exponent of the training logits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

WRITTEN_BY = "_classification.weight"
"""Tensor that no other official network has."""
_NAMES = {"_net.": "features.", "_add_on.": "add_on_layers.", "_classification.": "last_layer."}
_EXPONENT = ("_multiplier", "_classification.normalization_multiplier")


def renamed(official: Any) -> Any:
    """Return an official file with the names here, without the exponent of the training logits.

    Args:
        official: a :class:`baselines.official_files.OfficialFile`.
    """
    state = {name: data for name, data in official.state.items() if name not in _EXPONENT}
    for theirs, here in _NAMES.items():
        state = {here + name.removeprefix(theirs) if name.startswith(theirs) else name: state[name] for name in state}
    return replace(official, state=state)


def identity(official: Any) -> Tensor:
    """Return which prototypes have a weight in which classes, bool ``(P, C)``, of a :func:`renamed` file."""
    weights: Tensor = official.file.tensor(official.state["last_layer.weight"])
    return (weights.T > 0).contiguous()  # safetensors writes no other


def backbones(architecture: str | None) -> tuple[str | None, ...]:
    """Return the backbones here with the strides of the official network of an architecture, the usual one first.

    Example:
        >>> backbones("resnet50")
        ('resnet50@stride=8',)
    """
    if architecture == "convnext_tiny":  # the files of 26 x 26 and of 13 x 13 cells have the same tensors
        return tuple(f"torchvision:{architecture}@stride={stride}" for stride in (8, 16))
    return (architecture and f"{architecture}@stride=8",)


def named_as_ours(state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Return tensors that begin with ``backbone.`` or have the names of :func:`renamed` under those of our network."""
    inside = any(name.startswith("backbone.network.") for name in wanted)
    names = {"add_on_layers.": "to_shares.", **({"backbone.": "backbone.network."} if inside else {})}
    for theirs, ours in names.items():
        state = {name.replace(theirs, ours, 1) if name.startswith(theirs) else name: state[name] for name in state}
    return dict(state)


@torch.no_grad()
def finish(model: Any) -> None:
    """Finish a loaded network: no weight below 0, the prototypes of each class, features as the official code's."""
    model.last_layer.weight.clamp_(min=0)  # the official layer takes the ReLU of its weights
    model.assign()
    if hasattr(model.backbone, "norm"):
        # The harness divides ConvNeXt's features by the spread of their mean, for a linear layer; this is a softmax.
        model.backbone.norm = None
