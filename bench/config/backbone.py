"""Preprocessing of a cell: how the data set's images are cut, and what the backbone's weights were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bench.config.overrides import for_section
from bench.config.schema import validate
from bench.contract import InputConfig, RequestError
from bench.core import registry
from bench.core.registry import nearest
from bench.data.preprocessing import Preprocessing
from bench.models.backbones import BackboneVariant, input_config

# Settings of the section ``backbone``: they replace what the weights' configuration has.
SETTINGS = tuple(field.name for field in fields(InputConfig))


def protocol_of(backbone: str, protocol: Preprocessing, dataset: str, overrides: Mapping[str, Any]) -> Preprocessing:
    """Return the protocol with the preprocessing of a backbone's weights.

    In rising order: the weights' configuration, the data set's own protocol, ``--set backbone.NAME``. A file given by
    ``--weights`` counts as weights of the backbone that it is given for.

    Raises:
        RequestError: for an unknown or wrong setting, one that is given for the backbone and for the data set, or a
            normalisation that the network would convert wrongly.
    """
    given = for_section(overrides, "backbone")
    variants = tuple(BackboneVariant.model_fields)
    for name in (name for name in given if name not in variants):
        if name not in SETTINGS:
            raise RequestError(f"backbone.{name}: unknown setting{nearest(name, (*SETTINGS, *variants))}")
        if f"{dataset}.protocol.{name}" in overrides:
            raise RequestError(f"backbone.{name} and {dataset}.protocol.{name} set the same: leave one of them out")
    usual = protocol.for_weights(input_config(backbone))
    replaced = {name: value for name, value in given.items() if name in SETTINGS}
    values = {name: getattr(usual, name) for name in usual.model_fields_set}
    chosen = validate(Preprocessing, values | replaced, "backbone")
    # Its results have ids and a protocol's name of this normalisation, so it stays the one that the network expects.
    converts = getattr(registry.load("backbones", backbone), "converts_input", False)
    if converts and (chosen.mean, chosen.std) != (InputConfig.mean, InputConfig.std):
        raise RequestError(
            f"{backbone} converts images from ImageNet's mean and deviation to its own: leave mean and std unset"
        )
    return chosen


def variant_of(overrides: Mapping[str, Any]) -> BackboneVariant:
    """Return the variant of all backbones of a request: stride and frozen."""
    given = for_section(overrides, "backbone")
    variant = {name: value for name, value in given.items() if name in BackboneVariant.model_fields}
    return validate(BackboneVariant, variant, "backbone")
