"""``ours``: the paper's post-hoc decomposition, class chunk by class chunk (equations 2 to 7)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.contract import CellError, Method, RequestError, Sizes, Task
from bench.posthoc.decomposition import DecompositionConfig, decompose_classes
from bench.posthoc.model import DecomposedClassifier

_FEATURE_BATCH = 64


class Ours(Method):
    """NMF of each class's features, scaling, residual distribution, exact reconstruction of the classifier."""

    name = "ours"
    paper = "Tan, Zhou and Chen, Post-hoc Part-prototype Networks, ICML 2024"
    needs_black_box = True

    Config = DecompositionConfig

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a k above the rank of a class's feature matrix."""
        most = min(sizes.channels, sizes.images_per_class * sizes.cells)
        if config.k > most:
            raise RequestError(
                f"ours.k={config.k} exceeds the rank of a class's features: at most {most} "
                f"(min of {sizes.channels} channels and {sizes.images_per_class} images x {sizes.cells} cells)"
            )

    def build(self, task: Task) -> DecomposedClassifier:
        """The right shapes, zeros for numbers."""
        backbone: Any = task.backbone()
        shape = (task.train.classes, task.config.k, backbone.channels)
        return DecomposedClassifier(backbone, torch.zeros(shape), torch.zeros(task.train.classes)).eval()

    @torch.no_grad()
    def fit(self, task: Task) -> DecomposedClassifier:
        """Decompose the black box.

        Raises:
            CellError: naming the class, where it has no image, or features that are not finite or all zero; or where
                the prototypes do not sum to the classifier's row.
        """
        box: Any = task.black_box
        box.eval()
        v_all = box.head.weight.detach()
        vectors = torch.empty(len(v_all), task.config.k, v_all.shape[1], dtype=torch.float64, device=v_all.device)
        model = DecomposedClassifier(box.backbone, vectors, box.head.bias).eval()
        table = model.prototypes
        measured: list[dict[str, Tensor]] = []
        for chunk in task.progress.track(self._chunks(task, box), "groups of classes decomposed"):
            F, rows, images, cells, width = self._features(task, box, chunk)
            part, numbers = decompose_classes(task.config, F, rows, v_all[chunk], cells, task.seed, chunk)
            vectors[chunk] = part  # the model's own buffer is a view of it
            measured.append(numbers)
            for position, label in enumerate(chunk):
                self._remember_sources(
                    table, label, F[position, : rows[position]], part[position], images[position], (cells, width)
                )
        if task.config.refinement != "none" and not torch.equal(model.rows, v_all):
            worst = float((model.rows - v_all).abs().max())
            raise CellError(f"the prototypes do not sum to the classifier's rows (largest difference {worst:.3g})")
        for name in measured[0]:
            task.facts[name] = float(torch.cat([numbers[name] for numbers in measured]).double().mean())
        return model

    def _chunks(self, task: Task, box: Any) -> list[list[int]]:
        """Class numbers in groups whose features fit into the memory limit together."""
        counts = torch.bincount(task.train.labels, minlength=task.train.classes)
        if not bool(counts.all()):
            raise CellError(f"class {int((counts == 0).nonzero()[0])} has no training image to decompose it from")
        first = next(iter(task.train.batches(1, task.device, index=torch.zeros(1, dtype=torch.long))))
        # Features in 4 bytes, their reconstruction, and one spare of the same size at the checks.
        per_class = 3 * 4 * box.backbone(first.images)[0].numel() * int(counts.max())
        # SciPy's Nelder-Mead goes class by class; the others would only be computed along.
        together = 1 if task.config.refinement == "nelder-mead" else max(1, task.memory_limit // per_class)
        return [list(range(len(counts)))[start : start + together] for start in range(0, len(counts), together)]

    def _features(self, task: Task, box: Any, chunk: list[int]) -> tuple[Tensor, Tensor, list[Tensor], int, int]:
        """Features ``(B, M, D)`` of a chunk, own rows, the images of each class, cells, and cells in a row.

        M is that of the largest class of all, and no batch holds images of two classes: so nothing of a class depends
        on which others share its chunk.
        """
        widest = int(torch.bincount(task.train.labels).max())
        images = [(task.train.labels == label).nonzero().flatten() for label in chunk]
        F = torch.empty(0)
        for position, index in enumerate(images):
            done = 0
            for batch in task.train.batches(_FEATURE_BATCH, task.device, index=index):
                x = box.backbone(batch.images).float()
                if not len(F):
                    height, width = x.shape[2:]
                    F = x.new_zeros(len(chunk), widest, height * width, x.shape[1])
                F[position, done : done + len(x)] = x.flatten(2).mT
                done += len(x)
            if not bool(torch.isfinite(F[position]).all()):
                raise CellError(f"class {chunk[position]}: features are not finite")
            if task.config.factorisation == "nmf":
                F[position].clamp_(min=0)  # negative features are set to zero (paper, 4.3)
            if not bool(F[position].any()):
                raise CellError(f"class {chunk[position]}: all features are zero, there is nothing to factorise")
        cells = height * width
        rows = torch.tensor([len(index) * cells for index in images], device=F.device)
        return F.flatten(1, 2), rows, images, cells, width

    def _remember_sources(
        self, table: Any, label: int, F: Tensor, vectors: Tensor, images: Tensor, grid: tuple[int, int]
    ) -> None:
        """The training cell where each prototype of a class is strongest, as an illustration of it."""
        cells, width = grid
        best = (F @ vectors.to(F.dtype).mT).argmax(0).cpu()
        own = slice(label * len(vectors), (label + 1) * len(vectors))
        table.source_image[own] = images[best // cells].to(table.source_image.device)
        patch = torch.stack([best % cells // width, best % width], 1)
        table.source_patch[own] = patch.to(table.source_patch.device)
