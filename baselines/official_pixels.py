"""PixPNet's official checkpoints: tensors of a Lightning module get the names of the other networks here.

Its feature extractors number their layers by kind, in the order in which torchvision has them, so that the tensors of a
backbone are known by their shapes in order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from baselines.official_files import ARCHITECTURES, shapes_of_network

_NAMES = {"add_on_layers.conv1.": "add_on_layers.0.", "add_on_layers.conv_last.": "add_on_layers.2."}


def renamed(official: Any) -> Any:
    """Return an official file of PixPNet with the names here; a backbone that torchvision lacks keeps its own.

    Args:
        official: a :class:`baselines.official_files.OfficialFile`.
    """
    state = {name.removeprefix("model."): data for name, data in official.state.items()}
    for begin, here in _NAMES.items():
        state = {name.replace(begin, here) if name.startswith(begin) else name: data for name, data in state.items()}
    counted = ("num_batches_tracked",)
    body = [name for name in state if name.startswith("features.") and not name.endswith(counted)]
    shapes = [official.file.shape(state[name]) for name in body]
    for architecture in ARCHITECTURES:
        wanted = shapes_of_network(architecture)
        if list(wanted.values()) == shapes:
            names = dict(zip(body, wanted, strict=True))
            kept = {
                name: data for name, data in state.items() if not (name.startswith("features.") and name not in names)
            }
            state = {f"features.{names[name]}" if name in names else name: data for name, data in kept.items()}
            break
    return replace(official, state=state, identity=state.get("prototype_class_identity"))
