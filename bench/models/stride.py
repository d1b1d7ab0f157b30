"""Finer feature maps: the last downsampling layers of a network at stride 1, its weights unchanged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.contract import RequestError


def set_stride(network: nn.Module, stride: int, size: int) -> None:
    """Set the stride of every layer that would make the map coarser than one cell per ``stride`` pixels to 1, in place.

    PIP-Net (Nauta et al., CVPR 2023) does so with the last stages of ResNet-50 and ConvNeXt-Tiny. Nothing is dilated,
    and a layer whose window is even loses a row: ConvNeXt gets 13 x 13 cells at stride 16 and 26 x 26 at stride 8, of
    224 pixels.

    Raises:
        RequestError: if no layer has such a stride, as in a vision transformer, whose cells are its patches.
    """
    most = -(-size // stride)  # rows of the map that is wanted, rounded up as padded convolutions round
    changed: list[nn.Module] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        several = isinstance(module.stride, tuple)
        if max(module.stride if several else (module.stride,)) > 1 and 1 < args[0].shape[-1] <= most:
            module.stride = (1, 1) if several else 1
            changed.append(module)

    handles = [
        module.register_forward_pre_hook(hook)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    ]
    mode, images = network.training, torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
    try:
        with torch.no_grad():
            # One pass does: a layer sees the map as the layers before it, already changed, leave it.
            rows = network.eval()(images).shape[-1]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"stride={stride}: paths of this network no longer fit together ({reason})") from error
    finally:
        for handle in handles:
            handle.remove()
        network.train(mode)
    # A window of even size loses a row, so a little less than the wanted map is right.
    if not changed or rows + len(changed) < most:
        raise RequestError(
            f"stride={stride}: with its last layers at stride 1 it has {rows} x {rows} cells of {size} pixels "
            f"instead of {most} x {most}; leave the setting out, or choose another"
        )
