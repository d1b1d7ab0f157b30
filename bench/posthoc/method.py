"""Post-hoc methods of the harness: the paper's (equations 2 to 7), one of this project, and the plain black box."""

from __future__ import annotations

from typing import Any, Literal

import torch

from bench.contract import CellError, FitContext, Method, RequestError, Sizes
from bench.models.fingerprint import fingerprint
from bench.posthoc.checkpoint import Checkpoint
from bench.posthoc.decompose_class import NUMBERS, DecompositionConfig
from bench.posthoc.feature_source import BackboneFeatures
from bench.posthoc.model import DecomposedClassifier
from bench.posthoc.pipeline import decompose_all
from bench.posthoc.places import PlacesConfig, describe, discover, place_classes, reduce
from bench.posthoc.progress import LoggingProgress
from bench.posthoc.scaling import require_cvxpy
from bench.posthoc.solvers.init import Init
from bench.posthoc.solvers.nmf import Solver


class PostHocPPN(Method):
    """Post-hoc part-prototype network: NMF of each class, scaling, residual distribution, exact classifier."""

    name = "ours"
    paper = "Tan, Zhou and Chen, Post-hoc Part-prototype Networks, ICML 2024"
    needs_black_box = True
    tells = NUMBERS  # facts of a fit that `tune` shows

    Config = DecompositionConfig

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a k above the rank of a class's feature matrix."""
        check_rank(cls.name, config, sizes)

    def build(self, task: FitContext) -> DecomposedClassifier:
        """Build a model of the fitted shapes, filled with zeros."""
        return empty_model(task)

    def fit(self, task: FitContext) -> DecomposedClassifier:
        """Decompose the black box; see :func:`decompose_black_box`."""
        return decompose_black_box(task)


class PostHocPPNContrast(PostHocPPN):
    """Post-hoc network whose prototypes peak at one recurring location each; see ``contrast.py``."""

    name = "ours-contrast"
    paper = "this project, after Tan, Zhou and Chen, ICML 2024"

    class Config(DecompositionConfig):
        """Settings as for ``ours``, with a faster factorisation and without equation 6."""

        nmf_solver: Solver = "hals"
        nmf_init: Init = "nndsvd"
        refinement: Literal["contrast"] = "contrast"


class PostHocPPNPlaces(PostHocPPN):
    """Post-hoc network whose prototypes peak at places apart from each other; see ``places.py``."""

    name = "ours-places"
    paper = "this project, after Tan, Zhou and Chen, ICML 2024"
    tells = ("cancellation",)

    Config = PlacesConfig

    @torch.no_grad()
    def fit(self, task: FitContext) -> DecomposedClassifier:
        """Decompose the black box; all classes together, so that a killed fit begins again.

        Raises:
            RequestError: if the projected features do not fit into the memory limit.
            CellError: if a class has no image, or the prototypes are not finite.
        """
        (black_box, source), config = _black_box_and_features(task), task.config
        v, absent = black_box.head.weight.detach().tensor_split([task.train.classes])
        data = reduce(source, v, config.components, task.memory_limit, task.device)
        side = min(data.grid)
        apart, near = (max(1, round(sevenths * side / 7)) for sevenths in (config.sevenths, 1))
        choose = config.choose or ("margin" if config.k <= 5 else "height")
        peaks = discover(data, config.k, apart, near, choose, task.seed)
        vectors = place_classes(data, v, peaks, config, apart)
        if not bool(vectors.isfinite().all()):
            raise CellError("the prototypes are not finite: features or weights of the black box are not")
        model = DecomposedClassifier(black_box.backbone, vectors, black_box.head.bias, absent).eval()
        task.facts["cancellation"], strongest = describe(data, v, vectors)
        model.prototypes.source_image.copy_(strongest[:, 0])
        model.prototypes.source_patch.copy_(strongest[:, 1:])
        return model


def check_rank(name: str, config: Any, sizes: Sizes) -> None:
    """Refuse a k above the rank of a class's features, and a class without images.

    Raises:
        RequestError: with the largest possible k.
    """
    if getattr(config, "scaling", "") == "cvxpy":
        require_cvxpy()
    if not sizes.images_per_class:
        raise RequestError(
            f"{name}: a class has no training image to decompose it from; `python -m bench data verify` names it"
        )
    most = min(sizes.channels, sizes.images_per_class * sizes.cells)
    if config.k > most:
        raise RequestError(
            f"{name}.k={config.k} exceeds the rank of a class's features: at most {most} "
            f"(min of {sizes.channels} channels and {sizes.images_per_class} images x {sizes.cells} locations)"
        )


def _black_box_and_features(task: FitContext) -> tuple[Any, BackboneFeatures]:
    black_box: Any = task.black_box
    black_box.eval()
    source = BackboneFeatures(black_box.backbone, task.train, task.device)
    empty = [label for label in range(task.train.classes) if not source.count(label)]
    if empty:
        raise CellError(f"class {empty[0]} has no training image to decompose it from")
    return black_box, source


def empty_model(task: FitContext) -> DecomposedClassifier:
    """Build a model of the fitted shapes, filled with zeros, into which a saved one is loaded."""
    backbone: Any = task.backbone()
    shape = (task.train.classes, getattr(task.config, "k", 1), backbone.channels)
    absent = torch.zeros(task.absent_classes, backbone.channels)
    return DecomposedClassifier(backbone, torch.zeros(shape), torch.zeros(shape[0] + len(absent)), absent).eval()


def decompose_black_box(task: FitContext) -> DecomposedClassifier:
    """Decompose the black box by the task's configuration; finished classes survive a kill.

    Raises:
        RequestError: if a class's features do not fit into the memory limit.
        CellError: if a class has no image, or features that are not finite or all zero; or if the prototypes do not
            sum to the classifier's rows.
    """
    black_box, source = _black_box_and_features(task)
    # Rows of classes that the data set does not have are last; they are not decomposed, for want of images.
    v, absent = black_box.head.weight.detach().tensor_split([task.train.classes])
    key = f"{fingerprint(black_box)} {task.config.model_dump_json()} {task.seed}"
    checkpoint = Checkpoint(task.trainer.folder / "classes", key)
    names = [str(label) for label in range(len(v))]
    vectors, sources = decompose_all(
        task.config,
        v,
        source,
        checkpoint,
        task.seed,
        task.memory_limit,
        names,
        LoggingProgress(task.progress),
        task.device,
    )
    task.trainer.earlier_seconds += checkpoint.earlier_seconds
    model = DecomposedClassifier(black_box.backbone, vectors, black_box.head.bias, absent).eval()
    table, width = model.prototypes, source.grid[1]
    table.source_image.copy_(sources[:, 0])
    table.source_patch.copy_(torch.stack([sources[:, 1] // width, sources[:, 1] % width], 1))
    if task.config.refinement != "none":
        rows = model.rows[: len(v)]
        missed = (rows.double() - v.double()).abs()
        # A weight far below those of its prototypes is met only up to their rounding, which no logit shows.
        rounding = 2.0**-52 * vectors.abs().sum(1)
        if bool(((rows != v) & ~(missed <= rounding)).any()):
            raise CellError(
                f"the prototypes do not sum to the classifier's rows (largest difference {float(missed.max()):.3g})"
            )
    task.facts.update(checkpoint.means())
    return model


class BlackBox(Method):
    """Unchanged classifier: the row of its last layer is the one prototype of a class (k = 1, the class map)."""

    name = "blackbox"
    needs_black_box = True

    def build(self, task: FitContext) -> DecomposedClassifier:
        """Build an untrained classifier as a decomposition into one prototype per class."""
        return empty_model(task)

    def fit(self, task: FitContext) -> DecomposedClassifier:
        """Return the trained black box as a decomposition into one prototype per class."""
        black_box: Any = task.black_box
        rows, absent = black_box.head.weight.detach().tensor_split([task.train.classes])
        return DecomposedClassifier(black_box.backbone, rows[:, None], black_box.head.bias, absent).eval()
