"""Comparison of settings of a cell's method or black box by cross-validation on its training split.

The training split is cut into folds; the method is fitted without one of them and measured on it, each in turn. Test
images are never read, so that settings chosen here may be reported on the test split. Settings of a post-hoc method are
compared on the cell's own black box: it has seen the whole training split, which favours none of them. Settings of the
black box (``classifier.schedule``) would be favoured by what it has seen: it is trained without the fold, as it is for
networks that start from one. To report an ablation rather than to choose, the same settings can be fitted on the whole
training split and measured on the test split.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import schema
from bench.config.black_box import BlackBoxConfig
from bench.contract import FitContext, PartPrototypeModel, RequestError, Sizes
from bench.core import registry
from bench.models.classifier import cached_feature_shape
from bench.results.store import Store
from bench.runner.cell import CellRunner
from bench.training.trainer import Trainer

Choice = dict[str, Any]
_BLACK_BOX = "classifier.schedule."


@dataclass(frozen=True)
class Trial:
    """Fit with one choice of settings on one fold.

    Attributes:
        cell: id of the cell, whose black box is used.
        fold: fold of the training split that was left out; -1: none, measured on the test split.
        choice: settings that differ from the cell's; those of the black box begin with ``classifier.``.
        values: scores on the fold that was left out, and facts of the fit.
    """

    cell: str
    fold: int
    choice: Choice
    values: dict[str, float]


class MemoizedBackbone(nn.Module):
    """Backbone that computes the features of each image once and caches them in memory, on the CPU.

    Images are identified by a hash of their bits: a noisy copy is another image.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = getattr(backbone, "channels", None)
        self._known: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to features ``(N, D, h, w)``."""
        bits = images.detach().cpu().contiguous().numpy()
        keys = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in bits]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            self._known.update(zip((keys[i] for i in new), self.backbone(images[new]).cpu(), strict=True))
        return torch.stack([self._known[key] for key in keys]).to(images.device)


def choices(method: str, pairs: tuple[str, ...]) -> list[Choice]:
    """Return all combinations of the values of ``--set`` for one method and its black box, whose settings vary last.

    Args:
        method: name of the method.
        pairs: assignments ``METHOD.NAME=A,B`` or ``classifier.schedule.NAME=A,B``.

    Raises:
        RequestError: if a name belongs to another section.

    Example:
        >>> choices("ours", ("ours.k=3,5", "classifier.schedule.batch_size=16"))
        [{'classifier.schedule.batch_size': 16, 'k': 3}, {'classifier.schedule.batch_size': 16, 'k': 5}]
    """
    single, several = schema.parse_overrides(pairs)
    foreign = [name for name in (*single, *several) if not name.startswith((f"{method}.", _BLACK_BOX))]
    if foreign:
        raise RequestError(
            f"--set {foreign[0]}: only settings of {method}, such as {method}.NAME=A,B, and of the training of its "
            f"black box, such as {_BLACK_BOX}NAME=A,B, can be tuned here"
        )
    return [
        {name.removeprefix(f"{method}."): value for name, value in {**single, **box, **own}.items()}
        # The black box outside: it is trained once for all settings of the method.
        for box in schema.combinations(several, "classifier")
        for own in schema.combinations(several, method)
    ]


def tune(
    cells: Sequence[CellRunner], wanted: Sequence[Choice], folds: int = 2, split: str = "train", most: int | None = None
) -> Iterator[Trial]:
    """Fit and measure every choice for every cell and fold.

    Args:
        cells: of one method. One that trains a network is trained for each choice and fold, and measured in each of
            the states that the training passes.
        wanted: settings that replace those of the cell.
        folds: number of parts of the training split.
        split: ``train`` to choose, ``test`` to report: fitted on the whole training split, measured on the test split.
        most: number of folds that are left out and measured, each in turn; ``None``: all of them.

    Raises:
        RequestError: if a setting does not exist or cannot work on the folds, a cell lacks the black box that its
            network would start from, or there are too few images to cut.
    """
    if folds < 2:
        raise RequestError(f"{folds} folds: the training split must be cut into at least 2")
    for cell in cells:
        kind = type(cell.method)
        settings = [
            schema.validate(kind.Config, schema.merge(cell.spec.settings, own, kind.name), kind.name)
            for own in ({key: choice[key] for key in choice if not key.startswith(_BLACK_BOX)} for choice in wanted)
        ]
        recipes = [_recipe(cell, choice) for choice in wanted]
        # A black box that takes part in the choice is one of the fold: the cell's own has seen the images left out.
        of_fold = not kind.needs_black_box or any(recipes)
        splits: dict[str, Any] = dict(cell.inputs.data())
        task = cell.task(splits["train"], need_black_box=not of_fold)
        if not of_fold:
            # All choices and folds read the same images: their features are computed once per cell.
            task.black_box.backbone = MemoizedBackbone(task.black_box.backbone)  # type: ignore[union-attr, arg-type]
        parts = list(_parts(splits, folds, split))[:most]
        for _, fit, _ in parts:
            sizes = _sizes(cell, fit)
            # All choices are checked on all folds before the first fit.
            for chosen, recipe in zip(settings, recipes, strict=True):
                kind.check(chosen, sizes)
                starts = kind.starts_from_black_box(chosen)
                if starts and cell.spec.black_box is None:
                    raise RequestError(
                        f"{cell.folder.path.name} has no black box: tune a cell with "
                        f"{kind.name}.start.backbone=blackbox"
                    )
                if recipe and not starts:
                    raise RequestError(f"--set {_BLACK_BOX}...: {kind.name} does not start from a black box here")
        for fold, fit, judge in parts:
            trained: BlackBoxConfig | str | None = "none yet"
            for choice, chosen, recipe in zip(wanted, settings, recipes, strict=True):
                # A new checkpoint folder for each fit, which must not resume from that of another choice or fold.
                with tempfile.TemporaryDirectory(prefix="partbench-tune-") as folder:
                    if of_fold and recipe != trained and kind.starts_from_black_box(chosen):
                        task = replace(task, black_box=cell.black_box(fit, Path(folder) / "blackbox", recipe))
                        trained = recipe
                    trainer = Trainer(Path(folder), task.device, cell.spec.precision, task.seed, task.progress)  # type: ignore[arg-type]
                    fold_task = replace(task, config=chosen, train=fit, trainer=trainer, facts={})
                    values = _measured(cell, fold_task, judge)
                yield Trial(cell.folder.path.name, fold, choice, values)


def _recipe(cell: CellRunner, choice: Choice) -> BlackBoxConfig | None:
    """Return the training of the cell's black box with the choice's settings; ``None`` if it has none of them."""
    own = {key.removeprefix("classifier."): choice[key] for key in choice if key.startswith(_BLACK_BOX)}
    if not own:
        return None
    if not cell.spec.trains_black_box:
        raise RequestError(f"--set {_BLACK_BOX}...: {cell.folder.path.name} trains no black box")
    usual = {"schedule": cell.spec.black_box["schedule"]}  # type: ignore[index]
    return schema.validate(BlackBoxConfig, schema.merge(usual, own, "classifier"), "classifier")


def _parts(splits: dict[str, Any], folds: int, split: str) -> Iterator[tuple[int, Any, Any]]:
    """Yield the number of each fold, the samples to fit on and the samples to measure on."""
    train = splits["train"]
    if split == "test":
        yield -1, train, splits["test"]
        return
    if int(torch.bincount(train.labels).min()) < folds:
        raise RequestError(f"a class has fewer than {folds} training images: use fewer folds")
    # Stratified folds: the images of each class are spread evenly over them.
    position = within_class(train.labels)
    for fold in range(folds):
        left_out = position % folds == fold
        fit, judge = (train.subset(mask.nonzero().flatten()) for mask in (~left_out, left_out))
        yield fold, fit, judge


def _sizes(cell: CellRunner, fit: Any) -> Sizes:
    """Return the sizes of a fold, against which settings are checked."""
    backbone = cell.spec.backbone or ""
    channels, rows, columns = cached_feature_shape(backbone, fit.size, cell.home)
    counts = torch.bincount(fit.labels, minlength=fit.classes)
    return Sizes(fit.classes, int(counts.min()), channels, rows * columns, backbone)


def _measured(cell: CellRunner, task: Any, judge: Any) -> dict[str, float]:
    """Fit the method on ``task.train`` and return its scores on ``judge`` and the facts of the fit."""
    began = time.perf_counter()
    model = cell.method.fit(task).eval()
    seconds = time.perf_counter() - began
    values = _scores(cell, model, task, judge, seconds)
    for stage, (weights, _) in task.states.items():
        model.load_state_dict(weights)
        values |= {f"{name}.{stage}": value for name, value in _scores(cell, model, task, judge, seconds).items()}
    # Only of what takes long: without it, the same command prints the same numbers.
    duration = {"fit_seconds": seconds} if task.states else {}
    return {**values, **task.facts, **duration}


def _scores(cell: CellRunner, model: PartPrototypeModel, task: FitContext, judge: Any, seconds: float) -> Any:
    """Return the scores of a model on ``judge``, and their further numbers."""
    scores, _ = cell.evaluate(model, task.train, judge, seconds, task.black_box)
    also = {f"{name}.{key}": value for name, score in scores.items() for key, value in score.also.items()}
    return {**{name: score.value for name, score in scores.items()}, **also}


def within_class(labels: Tensor) -> Tensor:
    """Return the rank of each image among those of its class: ``(n,)``.

    Example:
        >>> within_class(torch.tensor([0, 1, 0, 0, 1])).tolist()
        [0, 0, 1, 2, 1]
    """
    order = torch.sort(labels, stable=True).indices
    first = torch.cumsum(torch.bincount(labels), 0) - torch.bincount(labels)
    ranks = torch.empty_like(labels)
    ranks[order] = torch.arange(len(labels)) - first[labels[order]]
    return ranks


def open_cells(store: Store, names: Sequence[str], make: Any) -> list[CellRunner]:
    """Open cells of one method.

    Raises:
        RequestError: if they are of several methods.
    """
    cells = [make(store.find(name)) for name in names]
    methods = sorted({cell.spec.method for cell in cells})
    if len(methods) > 1:
        raise RequestError(f"these cells are of several methods ({', '.join(methods)}): tune one at a time")
    return cells


def check_columns(cells: Sequence[CellRunner], columns: Sequence[str]) -> None:
    """Refuse an unknown column before any fit.

    Columns are names of metrics, of further numbers ``METRIC.NAME``, or of facts of a fit.

    Raises:
        RequestError: for any other name.
    """
    known: set[str] = set()
    open_ended: set[str] = set()
    for cell in cells:
        outcome = cell.store.outcome(cell.folder.path.name) or {}
        scores = outcome.get("scores", {})
        further = {f"{metric}.{number}" for metric, score in scores.items() for number in score.get("also", {})}
        stages = getattr(cell.method, "stages", ())
        known |= {f"{metric}.{stage}" for metric in cell.spec.metrics for stage in stages}
        known |= {"fit_seconds"} if stages else set()
        known |= {*cell.spec.metrics, *further, *outcome.get("facts", {}), *getattr(cell.method, "tells", ())}
        # The further numbers of a metric are known only from a result.
        open_ended |= cell.spec.metrics.keys() - scores.keys()
    for name in columns:
        metric, dot, _ = name.partition(".")
        if name not in known and not (dot and metric in open_ended):
            raise RequestError(f"--columns {name}: not measured{registry.nearest(name, known)}")
