"""The proof that a split holds: logits recomposed from features and rows are the classifier's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import RequestError
from bench.posthoc.wrap.classifier import Features

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference allowed, relative to the largest logit, by the precision that the classifier computes in."""


@dataclass
class Residual:
    """How far recomposed logits are from the classifier's, over all images seen.

    Attributes:
        largest: of the differences, relative to the largest logit of its batch.
        images: how many were seen.
        changed: of how many the recomposed prediction is another one (ties within rounding).
    """

    largest: float = 0.0
    images: int = 0
    changed: int = 0

    def add(self, features: Tensor, logits: Tensor, recomposed: Tensor) -> None:
        """Take in one batch.

        Raises:
            RequestError: where the difference is more than rounding, a prediction changes by more than that, or
                logits are not finite.
        """
        if not bool(torch.isfinite(features).all()):
            # These are reported with their class by whoever gathers them.
            return
        if not bool(torch.isfinite(logits).all()):
            raise RequestError(
                "the classifier's logits are not finite though its features are: mend its head, or give it in single "
                "precision"
            )
        scale = float(logits.double().abs().max().clamp(min=1e-30))
        worst = float((recomposed - logits.double()).abs().max()) / scale
        tolerance = max(_TOLERANCE.get(t.dtype, 1e-4) for t in (features, logits))
        if not worst <= tolerance:
            raise RequestError(
                f"the split into features and head does not hold: recomposed logits differ from the classifier's by "
                f"{worst:.1e} of the largest (at most {tolerance:.0e}); its head does more than average, norm and one "
                "linear layer, or works differently from batch to batch"
            )
        own, new = logits.argmax(1), recomposed.argmax(1)
        differ = own != new
        gap = logits.gather(1, own[:, None]) - logits.gather(1, new[:, None])
        if bool((differ & (gap[:, 0].double() > 2 * tolerance * scale)).any()):
            raise RequestError("the split into features and head does not hold: recomposed predictions differ")
        self.largest = max(self.largest, worst)
        self.images += len(logits)
        self.changed += int(differ.sum())


@torch.no_grad()
def verify(features: Features, images: Tensor) -> Residual:
    """Check a split on real images ``(N, 3, H, W)``.

    Raises:
        RequestError: where it does not hold.
    """
    x, logits = features.both(images)
    if x.shape[2] * x.shape[3] < 2:
        raise RequestError("its features are a single cell, so no prototype could say where; give it larger images")
    residual = Residual()
    with torch.autocast(x.device.type, enabled=False):
        residual.add(x, logits, features.recomposed(x, *features.rows()))
        # The head as this project runs it on features alone.
        Residual().add(x, logits, features.head(x).double())
    return residual
