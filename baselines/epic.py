"""EPIC (AAAI 2026, arXiv 2505.12897): an invertible mix U of the channels of a frozen network, its logits unchanged.

The mixed channels are ``z_u = U x_u`` and the rows of the classifier ``W U^-1``: all logits stay what they were. U is
trained for pure channels: where a channel is highest in an image, the others should be silent. A class is explained by
the few channels that contribute most to it; all others together are the remainder.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from baselines.remainder import ClassifierWithRemainder, ExplanationMethod, class_features, empty_layer
from bench.contract import FitContext, RequestError, Settings, Sizes
from bench.core.part_model import Derived
from bench.core.seeding import derive

_GATHERED = 2**26
"""Bytes of features that are gathered at a time."""


class ChannelClassifier(ClassifierWithRemainder):
    """Black box with mixed channels as prototypes, several classes' each; a score is a channel's mean."""

    shared: ClassVar[bool] = True

    def __init__(self, *inputs: Any) -> None:
        super().__init__(*inputs)
        self._mixed = Derived()

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return the columns of ``W U^-1``: logits are sums over all mixed channels, shown or not, and the bias."""
        assert self.prototypes.vectors is not None
        terms = (self.weight, self.prototypes.vectors)
        # Inverted once, for O(D^3).
        return self._mixed.of(terms, lambda: mixed_rows(*terms).T.to(self.bias.dtype))[prototypes]


class EPIC(ExplanationMethod):
    """Channels of an invertible mix, for a class the k of the largest mean contribution in its training images.

    Facts: ``purity_before`` and ``purity``, the mean of a channel's part of its cell's length where it is highest, over
    its ``last`` best images; ``distance_from_orthogonal``, the largest entry of ``|U^T U - I|``.
    """

    name = "epic"
    paper = "EPIC: explanation of pretrained image classification networks via prototypes, AAAI 2026"
    class_specific = False
    tells = ("purity_before", "purity")

    class Config(Settings):
        """Settings, with the published defaults.

        Attributes:
            k: channels shown for a class.
            matrix: U = exp(A - A^T), or exp(A) of any A.
            first, last: images of a channel, those of its largest sums, in the first and the last round.
            rounds: choices of the images; their number falls linearly.
            epochs: passes through the images of a round.
            batch_size: pairs of a channel and an image in a step.
            lr: step of Adam.
        """

        k: PositiveInt = 4
        matrix: Literal["orthogonal", "general"] = "orthogonal"
        first: PositiveInt = 100
        last: PositiveInt = 5
        rounds: PositiveInt = 10
        epochs: PositiveInt = 2
        batch_size: PositiveInt = 512
        lr: PositiveFloat = 1e-3

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse more channels of a class than there are."""
        if config.k > sizes.channels:
            raise RequestError(f"epic.k={config.k} exceeds the {sizes.channels} channels of the features")

    def build(self, task: FitContext) -> ChannelClassifier:
        """Build a model of the fitted shapes, filled with zeros."""
        backbone: Any = task.backbone()
        weight, bias = empty_layer(task, backbone.channels)
        owned = torch.zeros(backbone.channels, len(bias), dtype=torch.bool)
        return ChannelClassifier(backbone, weight, bias, owned, torch.eye(backbone.channels), owned).eval()

    @torch.no_grad()
    def fit(self, task: FitContext) -> ChannelClassifier:
        """Train the mix on the features of all training images, computed once, and choose each class's channels.

        Raises:
            RequestError: if the features do not fit into the memory limit.
            CellError: if a class has no image.
        """
        black_box: Any = task.black_box
        source, count = class_features(task), len(task.train)
        cells = source.grid[0] * source.grid[1]
        if (need := 4 * count * source.channels * cells) > task.memory_limit:
            raise RequestError(
                f"epic: the features of {count} images need {need / 2**30:.1f} GiB and "
                f"{task.memory_limit / 2**30:.1f} GiB of the memory limit are for them; raise the limit"
            )
        features = torch.empty(count, source.channels, cells, device=task.device)
        classes = task.train.classes
        for label in task.progress.track(range(classes), "classes seen", classes):
            own, index = source.of(label)
            features[index.to(task.device)] = own.mT.to(task.device)
        mix = train_mix(features, task.config, derive(task.seed, "epic"), task)
        head, mix = black_box.head, mix.double()
        rows = mixed_rows(head.weight.detach(), mix)
        # How much of a channel a class has: the mean over its images of ReLU of the channel's mean.
        presence = (features.mean(2).double() @ mix.T).relu()
        labels = task.train.labels.to(task.device)
        mean = torch.zeros(classes, len(mix), dtype=torch.float64, device=task.device).index_add_(0, labels, presence)
        mean = mean / labels.bincount(minlength=classes)[:, None]
        # The largest (W U^-1)_cj mean ReLU(z_j): what a channel adds to the logit on average.
        best = (rows[:classes] * mean).topk(task.config.k, dim=1).indices
        owned = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, True)
        owned[classes:] = False
        return ChannelClassifier(black_box.backbone, head.weight, head.bias, owned.T, mix, rows.T).eval()


def mixed_rows(weight: Tensor, mix: Tensor) -> Tensor:
    """Compute the classifier's rows for mixed channels, ``W U^-1`` for ``W (C, D)`` and ``U (D, D)``, in float64."""
    return torch.linalg.solve(mix.T, weight.double().T).T


def train_mix(features: Tensor, config: Any, seed: int, task: FitContext) -> Tensor:
    """Train the mix of channels for purity.

    A step multiplies U from the left by exp of Adam's step, from A = 0 each time. The published code keeps one A; the
    derivative of its exponential costs many products of matrices of twice its size. The first step is the same.

    Args:
        features: ``(n, D, cells)``.
        config: settings of :class:`EPIC`.
        seed: of the order of the pairs.
        task: of the progress and the facts.

    Returns:
        U ``(D, D)``.
    """
    count, channels, _ = features.shape
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(channels, device=features.device)
    sums, orthogonal = features.sum(2), config.matrix == "orthogonal"
    step = torch.zeros_like(mix)
    adam = torch.optim.Adam([step], lr=config.lr)
    sizes = torch.linspace(config.first, config.last, config.rounds).round().int().tolist()

    def best_images(most: int) -> tuple[Tensor, Tensor]:
        """Return the pairs of a channel and one of its images with the largest sums."""
        images = (mix @ sums.T).topk(min(most, count), dim=1).indices
        return torch.arange(channels, device=mix.device).repeat_interleave(images.shape[1]), images.flatten()

    def mean_purity() -> float:
        channel, image = best_images(config.last)
        return float(torch.cat([purity(mix, *pair) for pair in _gathered(mix, features, channel, image)]).mean())

    task.facts["purity_before"] = mean_purity()
    for most in task.progress.track(sizes, "rounds of the mix", len(sizes)):
        channel, image = best_images(most)
        for _ in range(config.epochs):
            for part in torch.randperm(len(channel), generator=generator).to(mix.device).split(config.batch_size):
                slope = torch.zeros_like(mix)
                for own, vectors in _gathered(mix, features, channel[part], image[part]):
                    with torch.enable_grad():
                        leaf = mix.detach().requires_grad_()
                        loss = -purity(leaf, own, vectors, orthogonal).sum() / len(part)
                    slope += torch.autograd.grad(loss, leaf)[0]
                # The derivative of exp(A) U at A = 0, by A; for A - A^T, its antisymmetric part.
                slope = slope @ mix.T
                step.grad = slope - slope.T if orthogonal else slope
                adam.step()
                mix = torch.matrix_exp(step - step.T if orthogonal else step) @ mix
                step.zero_()
    if orthogonal:
        # What rounding has added in all the steps goes: the nearest orthogonal matrix.
        left, _, right = torch.linalg.svd(mix.double())
        mix = (left @ right).to(mix.dtype)
    task.facts["purity"] = mean_purity()
    task.facts["distance_from_orthogonal"] = float(
        (mix.double().T @ mix.double()).sub(torch.eye(channels).to(mix)).abs().max()
    )
    return mix


def purity(mix: Tensor, channel: Tensor, vectors: Tensor, orthogonal: bool = False) -> Tensor:
    """Compute a channel's part of the length of a cell's mixed features, ``z_c / max(|z|, 1e-8)``.

    Args:
        mix: ``(D, D)``.
        channel: ``(B,)``.
        vectors: features of a cell each ``(B, D)``.
        orthogonal: whether the mix keeps lengths.

    Example:
        >>> purity(torch.eye(2), torch.tensor([0]), torch.tensor([[3.0, 4.0]]))
        tensor([0.6000])
    """
    length = vectors.norm(dim=1) if orthogonal else (vectors @ mix.T).norm(dim=1)
    # An orthogonal mix keeps lengths, so that one product is enough: |U x| = |x|.
    return (mix[channel] * vectors).sum(1) / length.clamp(min=1e-8)


def _gathered(mix: Tensor, features: Tensor, channel: Tensor, image: Tensor) -> Any:
    """Yield channels and the features of the cell in which each is highest in its image ``(B, D)``, some at a time."""
    step = max(1, _GATHERED // (4 * features[0].numel()))
    for own, pictured in zip(channel.split(step), image.split(step), strict=True):
        seen = features[pictured]
        cell = torch.bmm(mix[own][:, None], seen)[:, 0].argmax(1)
        yield own, seen.gather(2, cell[:, None, None].expand(-1, seen.shape[1], 1))[:, :, 0]
