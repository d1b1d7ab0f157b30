"""Axioms of attribution (Tan et al. 2024, section 4.1), measured as residuals.

A cell is one location of the backbone's feature map. Each axiom is measured on the map that a method displays and, if
it has them, on its exact contributions and its cells' Shapley values, for the true and for the predicted class. It
holds if the value is at most ``tolerance``, which is a tick in table 1 of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from bench.contract import Aggregate, NotApplicable, Observation, PrototypeTable, Samples, Score, Settings
from bench.core.memory import to_device
from metrics.feature_sampling import Features, Reading, attribution, chosen_features, draws, logit_changes, spread
from metrics.tables import ImageMetric


class AxiomConfig(Settings):
    """Settings of an axiom's measurement.

    Attributes:
        reading: the map that a method displays, its exact contributions, or the cells' Shapley values.
        images: largest number of test images, evenly spread.
        seed: of random factors, permutations and shifts.
        tolerance: largest value at which the axiom holds.
    """

    reading: Reading = "displayed"
    images: PositiveInt = 128
    seed: NonNegativeInt = 0
    tolerance: PositiveFloat = 1e-4


def both(features: Features, **columns: Tensor) -> dict[str, Tensor]:
    """Return a table's columns from ``(2, n)`` numbers of the true and predicted class, or ``(n,)`` of the true one."""
    table = {"index": features.index, "label": features.classes[0], "prediction": features.classes[1]}
    for name, values in columns.items():
        table |= {name: values[0], f"{name}_predicted": values[1]} if values.ndim == 2 else {name: values}
    return table


def means_of(columns: Mapping[str, Any], **more: Any) -> dict[str, Aggregate]:
    """Return the aggregates of numbers that are means over images, each by its column; less is better in all."""
    return {
        name: Aggregate("image", column, "index", higher_is_better=False, **more) for name, column in columns.items()
    }


class Axiom(ImageMetric):
    """Residual of an axiom, on evenly spread test images."""

    unit = ""
    higher_is_better = False
    needs = frozenset({"image", "label", "prediction"})
    Config: type[Settings] = AxiomConfig

    def features(self, seen: Observation) -> Features | None:
        """Return the features of the chosen images of a batch; ``None`` if there are none.

        Raises:
            NotApplicable: if the model's logits are no sums to begin with.
        """
        if seen.model.not_additive:
            raise NotApplicable(seen.model.not_additive)
        return chosen_features(seen, self.samples, self.config.images)

    def shown(self, features: Features, classes: Tensor, maps: Tensor | None = None, alike: bool = True) -> Tensor:
        """Return the attribution of ``classes`` on the features, or on changed ``maps``; see :func:`attribution`."""
        maps = features.maps if maps is None else maps
        return attribution(features.model, maps, classes, self.config.reading, alike, features.require)


class Sensitivity(Axiom):
    """Share of cells that are shown though the logit does not depend on them, or the reverse.

    A cell matters if the logit changes by more than tau = 1e-6 max(1, abs(logit)) when its features are replaced by the
    baseline, and is shown if its attribution is above tau in magnitude. ``false``: shown and does not matter;
    ``missed``: matters and is not shown. The value is their sum.
    """

    name = "sensitivity"
    version = "1"
    unit = "%"

    class Config(Settings):
        """Settings of :class:`AxiomConfig`, and ``baseline``: zeros, or the mean feature of 64 training images."""

        reading: Reading = "displayed"
        images: PositiveInt = 128
        tolerance: PositiveFloat = 0.1
        baseline: Literal["zero", "mean"] = "zero"

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        named = {"": "violations", "false": "false", "missed": "missed", "predicted": "violations_predicted"}
        return means_of(named, limits=(0.0, 100.0))

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._train: Samples | None = None
        self._baseline: Tensor | None = None

    def prepare(self, train: Samples) -> None:
        """Keep the training split for the mean feature."""
        self._train = train

    def update(self, seen: Observation) -> None:
        """Replace every cell of some images of one batch."""
        features = self.features(seen)
        if features is None:
            return
        shown = [self.shown(features, classes) for classes in features.classes]
        baseline = self._replacement(seen, features)
        changes = seen.once(
            ("logit changes", self.config.images, self.config.baseline), lambda: logit_changes(features, baseline)
        )
        logits = torch.stack([features.logit(classes) for classes in features.classes])
        # Relative to the logit: in double precision rounding is ten orders below it.
        tau = 1e-6 * logits.abs().clamp(min=1)[:, :, None]
        matters, visible = changes.abs() > tau, torch.stack(shown).abs() > tau
        false, missed = ((part.double().mean(2) * 100) for part in (visible & ~matters, matters & ~visible))
        self._rows.add(**both(features, violations=false + missed, false=false, missed=missed))

    def _replacement(self, seen: Observation, features: Features) -> Tensor:
        """Return the features that replace those of a cell: ``(D,)``."""
        if self._baseline is None:
            if self.config.baseline == "zero":
                self._baseline = features.maps.new_zeros(features.maps.shape[1])
            else:
                assert self._train is not None, "prepare() comes first"
                # Evenly spread, so the same images in every run.
                some = spread(len(self._train), 64)
                batches = self._train.batches(16, seen.images.device, index=some)
                means = [seen.model.backbone(batch.images).double().mean((2, 3)) for batch in batches]
                self._baseline = torch.cat(means).mean(0)
        return self._baseline


class Completeness(Axiom):
    """Distance of the sum of all cells' attributions and the offset from the logit.

    The value is the mean of abs(sum + offset - logit) / max(abs(logit), 1e-6), ``absolute`` that of the numerator. The
    offset belongs to no cell: it is the classifier's bias, for example, which the paper's equation 8 leaves out.
    """

    name = "completeness"
    version = "1"

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return means_of({"": "gap", "absolute": "absolute", "predicted": "gap_predicted"})

    def update(self, seen: Observation) -> None:
        """Add up the attributions of some images of one batch."""
        features = self.features(seen)
        if features is None:
            return
        gaps, logits = [], []
        for classes in features.classes:
            shown = self.shown(features, classes, alike=False)
            logits.append(features.logit(classes))
            # Completeness: sum_u A_u + b - l. Without the offset a head with a bias could not be complete.
            gaps.append((shown.sum(1) + features.model.offset(classes) - logits[-1]).abs())
        absolute = torch.stack(gaps)
        self._rows.add(**both(features, gap=absolute / torch.stack(logits).abs().clamp(min=1e-6), absolute=absolute))


class Linearity(Axiom):
    """Distance of a head from linear in the features, and of its attribution from linear in the head.

    ``head``, the value: with g = logit - offset, abs(g(a x + b x') - a g(x) - b g(x')) over abs(a g(x)) + abs(b g(x')),
    for the features x of an image, x' of the next one, and a, b drawn from (0.2, 1). ``attribution``: for the combined
    logit a f_c + b f_c', the distance of its attribution from the same combination of the two attributions over its
    norm, if the method can attribute combinations (``mixes``).
    """

    name = "linearity"
    version = "1"

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return means_of({"": "head", "attribution": "attribution"})

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._kept: list[tuple[Tensor, ...]] = []
        self._last: Features | None = None

    def update(self, seen: Observation) -> None:
        """Keep the features of some images, and combine the attributions of their class and another."""
        features = self.features(seen)
        if features is None:
            return
        classes, width = features.classes[0], features.logits.shape[1]
        # Purpose 1 here and 2 in Symmetry: the two draw independently under one seed.
        generators = draws(features, 1, self.config.seed)
        drawn = [(*random.uniform(0.2, 1, 2), random.integers(1, max(2, width))) for random in generators]
        factors = to_device(torch.tensor(drawn, dtype=torch.float64), classes.device)
        # Half the memory, and nothing is lost: the backbone's output was in single precision.
        self._kept.append((features.index, classes, factors, features.maps.float()))
        self._last = features
        if not features.model.mixes or width < 2:
            return
        other = (classes + factors[:, 2].long()) % width
        first, second = (self.shown(features, c, alike=False) for c in (classes, other))
        weights = torch.zeros_like(features.logits)
        weights.scatter_(1, classes[:, None], factors[:, :1]).scatter_(1, other[:, None], factors[:, 1:2])
        mixed = self.shown(features, weights, alike=False)
        gap = (mixed - factors[:, :1] * first - factors[:, 1:2] * second).norm(dim=1)
        self._rows.add(**both(features, attribution=gap / mixed.norm(dim=1).clamp(min=1e-300)))

    def compute(self) -> Score:
        """Return the mean gap of the head."""
        if self._last is None:
            raise NotApplicable(self.empty)
        # In the order of the split, whose next image (for the last one, the first) is x': no batch decides on pairs.
        order = torch.cat([kept[0] for kept in self._kept]).argsort()
        index, label, factors, maps = (
            whole[order.to(whole.device)] for whole in (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        )
        model, following, gaps = self._last.model, torch.arange(len(index), device=maps.device).roll(-1), []
        for part in torch.arange(len(index), device=maps.device).split(32):
            x, y, of_class = maps[part].double(), maps[following[part]].double(), label[part]
            a, b = factors[part, 0], factors[part, 1]
            mixed = a[:, None, None, None] * x + b[:, None, None, None] * y
            together, first, second = (
                model.logits(inputs).gather(1, of_class[:, None])[:, 0] - model.offset(of_class)
                for inputs in (mixed, x, y)
            )
            size = (a * first).abs() + (b * second).abs()
            gaps.append((together - a * first - b * second).abs() / size.clamp(min=1e-6))
        gap = torch.cat(gaps)
        table = {"index": index.numpy(), "label": label.cpu().numpy(), "head": gap.cpu().numpy()}
        also = {}
        if model.mixes and self._last.logits.shape[1] > 1:
            table["attribution"] = self._rows.arrays()["attribution"]
            also["attribution"] = float(table["attribution"].mean())
        return Score(float(gap.mean()), len(gap), {"image": table}, also)


class Symmetry(Axiom):
    """Difference in the attribution of cells that play the same role.

    ``copy``: the features of the most attributed cell u are copied to another one, v; abs(A(u) - A(v)) over the largest
    magnitude in A. ``permutation``: all cells are permuted; the distance of the new attribution from the old one with
    its cells permuted alike, over its norm. The value is the larger of the two means.
    """

    name = "symmetry"
    version = "1"

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        ends = {"": "", "predicted": "_predicted"}
        both = {
            name: lambda table, end=end: np.column_stack((table[f"copy{end}"], table[f"permutation{end}"]))
            for name, end in ends.items()
        }
        single = means_of({"copy": "copy", "permutation": "permutation"})
        return {**means_of(both, combine=lambda means: means.max(-1)), **single}

    def update(self, seen: Observation) -> None:
        """Copy and permute the cells of some images of one batch."""
        if seen.model.apart:
            raise NotApplicable(seen.model.apart)
        features = self.features(seen)
        if features is None:
            return
        maps, device = features.maps.flatten(2), features.maps.device
        count, _, cells = maps.shape
        if cells < 2:
            raise NotApplicable("its features have one cell")
        shape = features.maps.shape[2:]
        generators = draws(features, 2, self.config.seed)
        drawn = [(random.permutation(cells), random.integers(1, cells)) for random in generators]
        order = to_device(torch.stack([torch.from_numpy(permutation) for permutation, _ in drawn]), device)
        step = to_device(torch.tensor([distance for _, distance in drawn]), device)
        permuted = maps.gather(2, order[:, None].expand_as(maps)).unflatten(2, shape)
        row = torch.arange(count, device=device)
        copies, moves = [], []
        for classes in features.classes:
            shown = self.shown(features, classes)
            moved = self.shown(features, classes, permuted)
            # An attribution that does not depend on the cells' positions is permuted like the cells.
            distance = (moved - shown.gather(1, order)).norm(dim=1)
            moves.append(distance / shown.norm(dim=1).clamp(min=1e-300))
            u = shown.abs().argmax(1)
            # Another cell than u, since the step is between 1 and cells - 1.
            v = (u + step) % cells
            copied = maps.clone()
            copied[row, :, v] = maps[row, :, u]
            # Cells with the same features must have the same attribution.
            again = self.shown(features, classes, copied.unflatten(2, shape))
            top = again.abs().amax(1).clamp(min=1e-300)
            copies.append((again[row, u] - again[row, v]).abs() / top)
        self._rows.add(**both(features, copy=torch.stack(copies), permutation=torch.stack(moves)))

    def compute(self) -> Score:
        """Return the larger of the two mean gaps."""
        table = self._rows.arrays()
        # The worse of the two properties, each of which an attribution may fail alone.
        worst, predicted = (
            max(float(table[f"{name}{end}"].mean()) for name in ("copy", "permutation")) for end in ("", "_predicted")
        )
        return Score(worst, len(table["index"]), {"image": table}, {**self.means(table), "predicted": predicted})
