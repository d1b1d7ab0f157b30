"""Verification of a split: logits recomposed from features and rows must be the classifier's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contract import RequestError
from bench.models.split.features import Features

# Largest allowed difference, relative to the largest logit, by the precision of the classifier.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass
class Residual:
    """Differences of recomposed logits from the classifier's, over all images so far.

    Attributes:
        largest: largest difference, relative to the largest logit of its batch.
        images: number of images.
        changed: number of images with another recomposed prediction (ties within rounding).
    """

    largest: float = 0.0
    images: int = 0
    changed: int = 0

    def add(self, features: Tensor, logits: Tensor, recomposed: Tensor) -> None:
        """Add one batch.

        Raises:
            RequestError: if the difference is more than rounding, a prediction changes by more than that, or logits
                are not finite.
        """
        if not bool(torch.isfinite(features).all()):
            # The gathering of features reports these with their class.
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
        predicted, new = logits.argmax(1), recomposed.argmax(1)
        differ = predicted != new
        gap = logits.gather(1, predicted[:, None]) - logits.gather(1, new[:, None])
        if bool((differ & (gap[:, 0].double() > 2 * tolerance * scale)).any()):
            raise RequestError("the split into features and head does not hold: recomposed predictions differ")
        self.largest = max(self.largest, worst)
        self.images += len(logits)
        self.changed += int(differ.sum())


@torch.no_grad()
def verify(features: Features, images: Tensor) -> Residual:
    """Check a split on real images ``(N, 3, H, W)``.

    Raises:
        RequestError: if it does not hold.
    """
    x, logits = features.both(images)
    if x.shape[2] * x.shape[3] < 2:
        raise RequestError("its features are a single location, so no prototype has a position; give it larger images")
    residual = Residual()
    with torch.autocast(x.device.type, enabled=False):
        residual.add(x, logits, features.recomposed(x, *features.rows()))
        # The head as PartPrototypeClassifier runs it on features alone.
        Residual().add(x, logits, features.head(x).double())
    return residual
