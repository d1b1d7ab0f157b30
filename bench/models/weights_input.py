"""Look-up of the preprocessing that belongs to a backbone's weights."""

from __future__ import annotations

from bench.contract import InputConfig, RequestError
from bench.core import registry


def input_config(backbone: str) -> InputConfig:
    """Return mean, deviation, interpolation, crop share and size that a backbone's weights were trained with.

    Backbones of the catalogue and of plugins have the attribute ``input_config``; without one they take images as
    torchvision's ImageNet weights do. Those of ``timm:NAME`` are in timm's list of pretrained weights.

    Args:
        backbone: name in the catalogue, or ``timm:NAME``.

    Raises:
        RequestError: if timm has no configuration for NAME.

    Example:
        >>> input_config("resnet34").crop_share
        0.875
        >>> input_config("timm:tf_efficientnet_lite0").mean
        (0.5, 0.5, 0.5)
    """
    library, _, name = backbone.partition(":")
    if library != "timm":
        config: InputConfig = getattr(registry.load("backbones", backbone), "input_config", InputConfig())
        return config
    import timm  # not at the top: it takes a second, and most backbones do not need it

    given = timm.get_pretrained_cfg(name)
    if given is None:
        raise RequestError(
            f"timm has no model {name!r} with a configuration of weights, which says how images are prepared: write a "
            "name from `timm.list_models()`"
        )
    return InputConfig(given.mean, given.std, given.interpolation, given.crop_pct, given.input_size[-1])
