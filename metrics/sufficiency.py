"""Sufficiency and necessity of the prototypes that contribute most to a prediction, for heads that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor

from bench.contract import Aggregate, Observation, PrototypeTable, Samples, Score, Settings, share
from bench.core.memory import to_device
from metrics.tables import ImageMetric


@dataclass(frozen=True)
class Evidence:
    """What the prototypes of the predicted class add to all logits of each image of a batch.

    Attributes:
        logits: float64 ``(N, C)``.
        prediction: ``(N,)``.
        terms: float64 ``(N, K, C)``, a prototype's score times its weights, the highest for the prediction first.
        count: ``(N,)``, number of prototypes; the terms of padding are 0 and last.
        random: int64 ``(N, K)``, a random order of the prototypes, padding last.
    """

    logits: Tensor
    prediction: Tensor
    terms: Tensor
    count: Tensor
    random: Tensor

    def without(self, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits without the first m prototypes, and with no others but these: ``(N, K, C)`` each."""
        terms = self.terms if order is None else self.terms.gather(1, order[..., None].expand_as(self.terms))
        first = terms.cumsum(1)
        # l - sum of the first m terms, and l - sum of all others: exact, since logits are sums of terms.
        return self.logits[:, None] - first, self.logits[:, None] - (first[:, -1:] - first)

    def outcome(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether changed logits ``(N, K, C)`` keep the prediction, and its probability: ``(N, K)`` each."""
        chosen = self.prediction[:, None, None].expand(-1, logits.shape[1], 1)
        return logits.argmax(2) == chosen[..., 0], logits.softmax(2).gather(2, chosen)[..., 0]


def evidence(seen: Observation, seed: int) -> Evidence:
    """Return the evidence of a batch, computed once for both metrics.

    Raises:
        NotApplicable: if the logits are no weighted sums of scores.
    """

    def look() -> Evidence:
        logits = seen.own.logits
        prediction = logits.argmax(1)
        shown, model = seen.model.head(seen.features, prediction), seen.model
        indices, scores = shown.indices, shown.scores
        if indices is None:
            indices = model.prototypes.of(prediction)
            scores = model.pick(scores, indices)
        real = indices >= 0
        terms = (scores[..., None] * model.connections(indices)).double() * real[..., None]
        toward = terms.gather(2, prediction[:, None, None].expand(*indices.shape, 1))[..., 0]
        order = torch.where(real, toward, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        # Seeded by the position in the split: an image's random order is the same in any batch.
        drawn = np.stack([np.random.default_rng((seed, position)).random(indices.shape[1])
                          for position in seen.positions.tolist()])  # fmt: skip
        drawn = to_device(torch.from_numpy(drawn), terms.device)
        # The terms are sorted by then, and padding is last in them.
        random = torch.where(real.gather(1, order), drawn, torch.inf).argsort(dim=1)
        terms = terms.gather(1, order[..., None].expand_as(terms))
        return Evidence(logits.double(), prediction, terms, real.sum(1), random)

    return seen.once(("evidence", seed), look)


def area(probability: Tensor, start: Tensor, count: Tensor) -> Tensor:
    """Return the area below curves over 0 to K prototypes by the trapezoid rule, K being 1: ``(N,)``.

    Args:
        probability: ``(N, K)`` after each prototype; beyond an image's last one it does not change.
        start: ``(N,)`` before the first.
        count: ``(N,)``.

    Example:
        >>> area(torch.tensor([[0.5, 1.0, 1.0]]), torch.tensor([0.0]), torch.tensor([2])).item()
        0.5
    """
    values = torch.cat((start[:, None], probability), 1)
    step = torch.arange(probability.shape[1], device=values.device) < count[:, None]
    # The trapezoid rule with steps of 1 / K: classes of different sizes have the same range.
    return ((values[:, 1:] + values[:, :-1]) / 2 * step).sum(1) / count.clamp(min=1)


class Sufficiency(ImageMetric):
    """Share of images whose prediction stays if of its class's prototypes only the most contributing one is left.

    Mode ``alone``: the others of the predicted class are left out of all logits; the evidence for other classes stays,
    so the prediction has to hold against it. Mode ``without`` (necessity): the most contributing one is left out, and
    the value is the share of predictions that change. ``at_2``, ``at_3``, ``at_5``: with or without so many, or all
    that the class has. ``smallest``: the smallest number that keeps the prediction alone, or changes it, mean over the
    images in which some number does; ``prototypes``: those that there are; ``unmoved``: share of the images in which no
    number changes it. ``random``: the value for a random prototype, the chance level. ``area``: area below the
    prediction's probability while prototypes are added (C-insertion) or left out (C-deletion, less is better) from the
    highest; ``area_random``: in a random order. Exact, without a pass through the network: only for logits that are
    weighted sums of scores. The question is that of EPIC (AAAI 2026), the definition is ours.

    Tables of the score: ``image``, ``curve`` (one row for each number of prototypes).
    """

    name = "sufficiency"
    version = "1"
    needs = frozenset({"image", "label", "prediction"})
    empty = "no test image has a prediction with prototypes"
    requires = ("prototypes",)
    levels: ClassVar[tuple[int, ...]] = (1, 2, 3, 5)

    class Config(Settings):
        """Whether prototypes are left ``alone`` or are left out (``without``), and the seed of the random orders."""

        mode: Literal["alone", "without"] = "alone"
        seed: NonNegativeInt = 0

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        alone = config.mode == "alone"
        return {
            "": share("image", "at_1", "index"),
            **{f"at_{m}": share("image", f"at_{m}", "index", higher_is_better=True) for m in cls.levels[1:]},
            "smallest": Aggregate("image", "smallest", "index", weight="moved", higher_is_better=False),
            "prototypes": Aggregate("image", "prototypes", "index"),
            **({} if alone else {"unmoved": share("image", lambda table: 1 - table["moved"], "index")}),
            "random": share("image", "random", "index"),
            "area": share("image", "area", "index", higher_is_better=alone),
            "area_random": share("image", "area_random", "index"),
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._curve: list[Tensor] = []

    def update(self, seen: Observation) -> None:
        """Take prototypes away from the predictions of one batch."""
        found, alone = evidence(seen, self.config.seed), self.config.mode == "alone"
        answers = []
        for order in (None, found.random):
            without, with_alone = found.without(order)
            kept, probability = found.outcome(with_alone if alone else without)
            # Before the first step: no prototype of the class, or all of them.
            before = without[:, -1:] if alone else found.logits[:, None]
            start = found.outcome(before)[1][:, 0]
            answers.append((kept if alone else ~kept, area(probability, start, found.count)))
        (yes, below), (yes_random, below_random) = answers
        real = found.count > 0
        self._rows.add(
            real,
            index=seen.index,
            label=seen.labels,
            prediction=found.prediction,
            prototypes=found.count,
            **{f"at_{m}": yes[:, min(m, yes.shape[1]) - 1].long() for m in self.levels},
            smallest=yes.to(torch.uint8).argmax(1) + 1,
            moved=yes.any(1).long(),
            random=yes_random[:, 0].long(),
            area=below,
            area_random=below_random,
        )
        self._curve.append(torch.stack([(flags & real[:, None]).sum(0) for flags in (yes, yes_random)]))

    def compute(self) -> Score:
        """Return the percentage over the images."""
        table, alone = self._rows.arrays(), self.config.mode == "alone"
        also = {f"at_{m}": 100 * float(table[f"at_{m}"].mean()) for m in self.levels[1:]}
        also |= {name: 100 * float(table[name].mean()) for name in ("random", "area", "area_random")}
        also["prototypes"] = float(table["prototypes"].mean())
        moved = table["moved"] == 1
        if moved.any():
            also["smallest"] = float(table["smallest"][moved].mean())
        if not alone:
            also["unmoved"] = 100 * float(1 - moved.mean())
        # Of classes with fewer prototypes the last one counts on, so that every number has all images.
        by_contribution, random = (100 * torch.stack(self._curve).sum(0).double() / len(moved)).cpu().numpy()
        numbers = np.arange(1, len(random) + 1)
        curve = {"prototypes": numbers, "by_contribution": by_contribution, "random": random}
        return Score(100 * float(table["at_1"].mean()), len(moved), {"image": table, "curve": curve}, also)
