"""The post-hoc decomposition as methods of the harness: the paper's (equations 2 to 7), and ours beyond it."""

from __future__ import annotations

from typing import Any, Literal

import torch

from bench.contract import CellError, FitContext, Method, RequestError, Sizes
from bench.posthoc.checkpoint import Checkpoint, fingerprint
from bench.posthoc.decompose_class import NUMBERS, DecompositionConfig
from bench.posthoc.feature_source import Streamed
from bench.posthoc.model import DecomposedClassifier
from bench.posthoc.pipeline import decompose_all
from bench.posthoc.progress import Telling
from bench.posthoc.solvers.init import Init
from bench.posthoc.solvers.nmf import Solver


class Ours(Method):
    """NMF of each class's features, scaling, residual distribution, exact reconstruction of the classifier."""

    name = "ours"
    paper = "Tan, Zhou and Chen, Post-hoc Part-prototype Networks, ICML 2024"
    needs_black_box = True
    tells = NUMBERS  # the facts of a fit, which `tune` shows

    Config = DecompositionConfig

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a k above the rank of a class's feature matrix."""
        check_rank(cls.name, config, sizes)

    def build(self, task: FitContext) -> DecomposedClassifier:
        """The right shapes, zeros for numbers."""
        return undecomposed(task)

    def fit(self, task: FitContext) -> DecomposedClassifier:
        """Decompose the black box; see :func:`decomposed`."""
        return decomposed(task)


class OursContrast(Method):
    """The same exact sum, from prototypes that peak at one recurring place each; see ``contrast.py``."""

    name = "ours-contrast"
    paper = "this project, after Tan, Zhou and Chen, ICML 2024"
    needs_black_box = True
    tells = NUMBERS  # the facts of a fit, which `tune` shows

    class Config(DecompositionConfig):
        """As for ``ours``, with a faster factorisation to begin with, and no equation 6."""

        nmf_solver: Solver = "hals"
        nmf_init: Init = "nndsvd"
        refinement: Literal["contrast"] = "contrast"

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a k above the rank of a class's feature matrix."""
        check_rank(cls.name, config, sizes)

    def build(self, task: FitContext) -> DecomposedClassifier:
        """The right shapes, zeros for numbers."""
        return undecomposed(task)

    def fit(self, task: FitContext) -> DecomposedClassifier:
        """Decompose the black box; see :func:`decomposed`."""
        return decomposed(task)


def check_rank(name: str, config: Any, sizes: Sizes) -> None:
    """Raise :class:`RequestError` for a k above the rank of a class's features, and for a class without images."""
    if not sizes.images_per_class:
        raise RequestError(
            f"{name}: a class has no training image to decompose it from; `python -m bench data verify` names it"
        )
    most = min(sizes.channels, sizes.images_per_class * sizes.cells)
    if config.k > most:
        raise RequestError(
            f"{name}.k={config.k} exceeds the rank of a class's features: at most {most} "
            f"(min of {sizes.channels} channels and {sizes.images_per_class} images x {sizes.cells} cells)"
        )


def undecomposed(task: FitContext) -> DecomposedClassifier:
    """A model of the right shapes with zeros for numbers, to load a saved one into."""
    backbone: Any = task.backbone()
    shape = (task.train.classes, task.config.k, backbone.channels)
    return DecomposedClassifier(backbone, torch.zeros(shape), torch.zeros(task.train.classes)).eval()


def decomposed(task: FitContext) -> DecomposedClassifier:
    """The black box, decomposed as the configuration says; finished classes survive a kill.

    Raises:
        RequestError: where a class's features do not fit into the memory limit.
        CellError: naming the class, where it has no image, or features that are not finite or all zero; or where the
            prototypes do not sum to the classifier's row.
    """
    box: Any = task.black_box
    box.eval()
    source = Streamed(box.backbone, task.train, task.device)
    empty = [label for label in range(task.train.classes) if not source.count(label)]
    if empty:
        raise CellError(f"class {empty[0]} has no training image to decompose it from")
    v = box.head.weight.detach()
    key = f"{fingerprint(box)} {task.config.model_dump_json()} {task.seed}"
    checkpoint = Checkpoint(task.trainer.folder / "classes", key, own=True)
    names = [str(label) for label in range(len(v))]
    vectors, strongest = decompose_all(
        task.config, v, source, checkpoint, task.seed, task.memory_limit, names, Telling(task.progress), task.device
    )
    task.trainer.earlier_seconds += checkpoint.earlier_seconds
    model = DecomposedClassifier(box.backbone, vectors, box.head.bias).eval()
    table, width = model.prototypes, source.grid[1]
    table.source_image.copy_(strongest[:, 0])
    table.source_patch.copy_(torch.stack([strongest[:, 1] // width, strongest[:, 1] % width], 1))
    if task.config.refinement != "none":
        missed = (model.rows.double() - v.double()).abs()
        # A weight that is nothing beside its prototypes' is met to the last bit of those, which no logit shows.
        rounding = 2.0**-52 * vectors.abs().sum(1)
        if bool(((model.rows != v) & ~(missed <= rounding)).any()):
            raise CellError(
                f"the prototypes do not sum to the classifier's rows (largest difference {float(missed.max()):.3g})"
            )
    task.facts.update(checkpoint.means())
    return model
