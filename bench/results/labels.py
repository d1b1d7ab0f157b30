"""Names of stored cells, metrics and protocols, as tables and plots print them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

FIRST_METRICS = (
    "accuracy",
    "consistency",
    "consistency_pooled",
    "consistency_controlled",
    "stability",
    "stability_pooled",
)
"""Order of the usual columns; the others follow by name."""
ROLES = ("method", "reference", "control")
"""Order of rows in a table."""

# They change no coordinates: key-points and boxes lie at the same places of the same images.
_OF_WEIGHTS = ("interpolation", "mean", "std")

# Settings that a label names; of more, only their number.
_MANY = 3
_CANONICAL = json.JSONEncoder(sort_keys=True)


def text_of(content: Any) -> str:
    """Return the canonical JSON: equal contents have equal texts."""
    return _CANONICAL.encode(content)


def position(name: str, order: Sequence[str]) -> int:
    """Return the place of a name in an order; all names that it does not have come last."""
    return order.index(name) if name in order else len(order)


def metric_order(name: str) -> tuple[int, str]:
    """Return the key by which metrics are sorted: the usual ones first, the others by name."""
    return position(name, FIRST_METRICS), name


def cell_title(label: str, spec: Mapping[str, Any]) -> str:
    """Return a readable title of a cell: ``ours · demo · tiny · seed 0``."""
    return f"{label} · {spec['dataset']} · {spec['backbone'] or 'no backbone'} · seed {spec['seed']}"


def short_label(label: str) -> str:
    """Return a label, or a title with one, whose settings are only counted if they are three or more.

    Example:
        >>> short_label("protopnet (cluster=0.8, depth=64, start.backbone=imagenet) · demo")
        'protopnet (3 settings) · demo'
        >>> short_label("ours (k=3, refinement=none)")
        'ours (k=3, refinement=none)'
    """

    def counted(found: re.Match[str]) -> str:
        count = len(re.findall(r"(?:^|, )[\w.-]+=", found[1]))
        return f"({count} settings)" if count >= _MANY else found[0]

    return re.sub(r"\(([^()]*=[^()]*)\)", counted, label)


def definition(metric: str, facts: Mapping[str, Any]) -> str:
    """Return a metric's version and parameters in words.

    Example:
        >>> definition("consistency", {"version": "v2", "parameters": {"half_size": 36, "size": 224, "threshold": 0.8}})
        'consistency v2, region ±36 px of 224, threshold 0.8'
        >>> definition("accuracy", {"version": "1", "parameters": {}})
        'accuracy v1'
        >>> definition("stability_v1", {"version": "1", "parameters": {"variant": "v1", "clip": None}})
        'stability_v1 v1, clip none'
    """
    parameters = dict(facts["parameters"])
    version, said = str(facts["version"]), []
    if "variant" in parameters:
        # If others have defined a metric in several ways, readers know the variant; our version may follow it.
        said = [f"definition {version}"] if version != "1" else []
        version = str(parameters.pop("variant"))
    if parameters.get("pooled") is False:
        del parameters["pooled"]
    if {"half_size", "size"} <= parameters.keys():
        said.append(f"region ±{parameters.pop('half_size')} px of {parameters.pop('size')}")
    said += [f"{name} {_value(value)}" for name, value in sorted(parameters.items())]
    if "code" in facts:
        # A plugin's version is its author's choice; the digest of its code keeps numbers of two states apart.
        said.append(f"plugin code {facts['code']}")
    return ", ".join([f"{metric} {'v' if version[:1].isdigit() else ''}{version}", *said])


def protocol(content: Mapping[str, Any]) -> str:
    """Return how images are cut and scaled: the protocol's own name if it has the usual three parts.

    Example:
        >>> protocol({"coordinates": "truncated", "crop": "bbox", "size": 224})
        'bbox-224-truncated'
    """
    usual = [str(content[name]) for name in ("crop", "size", "coordinates") if name in content]
    others = [f"{name}={_value(content[name])}" for name in sorted(content.keys() - {"crop", "size", "coordinates"})]
    return "-".join([*usual, *others])


def shared_protocol(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return how images are cut and scaled, without what belongs to a backbone's weights: its rows share a table."""
    return {name: value for name, value in content.items() if name not in _OF_WEIGHTS}


def of_weights(content: Mapping[str, Any]) -> str:
    """Return the preprocessing of a backbone's weights where it is not the usual one.

    Example:
        >>> of_weights({"crop": "full", "size": 224, "interpolation": "bicubic", "std": [0.5, 0.5, 0.5]})
        'interpolation bicubic, std [0.5, 0.5, 0.5]'
    """
    return ", ".join(f"{name} {_value(content[name])}" for name in _OF_WEIGHTS if name in content)


def _value(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else text_of(value)
