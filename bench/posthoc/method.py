"""``ours``: the paper's post-hoc decomposition, class chunk by class chunk (equations 2 to 7)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from bench.contract import CellError, Method, RequestError, Settings, Sizes, Task
from bench.posthoc.model import DecomposedClassifier
from bench.posthoc.nmf import factorise
from bench.posthoc.refinement import Alignment, Norm, Over, Solver, Start, distribute, naive
from bench.posthoc.scaling import scale

_FEATURE_BATCH = 64


class Ours(Method):
    """NMF of each class's features, scaling, residual distribution, exact reconstruction of the classifier."""

    name = "ours"
    paper = "Tan, Zhou and Chen, Post-hoc Part-prototype Networks, ICML 2024"
    needs_black_box = True

    class Config(Settings):
        """The paper's settings; where the paper leaves one open, ours (see spec notes in CONTRIBUTING).

        Attributes:
            k: prototypes per class.
            nmf_max_iter: most multiplicative updates (paper, 3.2).
            nmf_tol: stopping tolerance relative to the first error (paper, 3.2).
            scaling: equation 3 in closed form, or by cvxpy as the paper.
            refinement: how the residual is distributed; ``nelder-mead`` is the paper's solver.
            norm: the Norm of equation 6, which the paper does not define.
            norm_over: over all images of a class together, or image by image.
            start: where the search begins, which the paper does not say.
        """

        k: PositiveInt = 3
        nmf_max_iter: PositiveInt = 200
        nmf_tol: float = 1e-4
        scaling: Literal["closed", "cvxpy"] = "closed"
        refinement: Solver = "lbfgs"
        norm: Norm = "l2"
        norm_over: Over = "class"
        start: Start = "equal"

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
        for chunk in task.progress.track(self._chunks(task, box), "classes decomposed"):
            F, rows, images, cells, width = self._features(task, box, chunk)
            part, numbers = self._decompose(task.config, F, rows, v_all[chunk], cells, task.seed, chunk)
            model.vectors[chunk] = part
            measured.append(numbers)
            for position, label in enumerate(chunk):
                self._remember_sources(
                    table, label, F[position, : rows[position]], part[position], images[position], (cells, width)
                )
        if not torch.equal(model.rows, v_all):
            worst = float((model.rows - v_all).abs().max())
            raise CellError(f"the prototypes do not sum to the classifier's rows (largest difference {worst:.3g})")
        for name in measured[0]:
            task.facts[name] = float(torch.cat([numbers[name] for numbers in measured]).double().mean())
        return model

    def _chunks(self, task: Task, box: Any) -> list[list[int]]:
        """Class numbers in groups whose features fit into the memory limit together."""
        counts = torch.bincount(task.train.labels, minlength=task.train.classes)
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            raise CellError(f"class {empty[0]} has no training image to decompose it from")
        with torch.no_grad():
            first = next(iter(task.train.batches(1, task.device, index=torch.zeros(1, dtype=torch.long))))
            shape = box.backbone(first.images).shape
        # Features, their reconstruction, and one spare of the same size at the checks.
        per_image = 3 * 4 * shape[1] * shape[2] * shape[3]
        chunks: list[list[int]] = [[]]
        widest = 0
        for label, count in enumerate(counts.tolist()):
            widest_then = max(widest, count)
            full = per_image * widest_then * (len(chunks[-1]) + 1) > task.memory_limit
            # SciPy's Nelder-Mead goes class by class; the others would only be computed along.
            if chunks[-1] and (full or task.config.refinement == "nelder-mead"):
                chunks.append([])
                widest_then = count
            chunks[-1].append(label)
            widest = widest_then
        return chunks

    def _features(self, task: Task, box: Any, chunk: list[int]) -> tuple[Tensor, Tensor, list[Tensor], int, int]:
        images = [(task.train.labels == label).nonzero().flatten() for label in chunk]
        found = [
            box.backbone(batch.images).float()
            for batch in task.train.batches(_FEATURE_BATCH, task.device, index=torch.cat(images))
        ]
        stacked = torch.cat(found)
        cells, width = stacked.shape[2] * stacked.shape[3], stacked.shape[3]
        flat = stacked.flatten(2).mT.reshape(-1, stacked.shape[1])
        rows = torch.tensor([len(index) * cells for index in images])
        F = flat.new_zeros(len(chunk), int(rows.max()), flat.shape[1])
        for position, own in enumerate(flat.split(rows.tolist())):
            if not bool(torch.isfinite(own).all()):
                raise CellError(f"class {chunk[position]}: features are not finite")
            # Negative features are set to zero for the factorisation (paper, 4.3).
            F[position, : len(own)] = own.clamp(min=0)
            if not bool(F[position].any()):
                raise CellError(f"class {chunk[position]}: all features are zero, there is nothing to factorise")
        return F, rows.to(F.device), images, cells, width

    def _decompose(
        self, config: Any, F: Tensor, rows: Tensor, v: Tensor, cells: int, seed: int, chunk: list[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Refined prototypes ``(B, k, D)`` of a chunk, and what was measured for each class on the way."""
        factors = factorise(
            F, rows, config.k, seed=seed, classes=chunk, max_iter=config.nmf_max_iter, tol=config.nmf_tol
        )
        P = factors.P
        alpha = scale(v, P, config.scaling)
        scaled = alpha[:, :, None] * P.double()
        R = v.double() - scaled.sum(1)  # equation 4
        objective = Alignment(F, rows, P, cells, config.norm, config.norm_over)
        r = distribute(R, alpha, P, objective, config.refinement, config.start)
        refined = scaled + r  # equation 7
        # What float64 rounding left over goes into the last prototype, so that the sum is the row itself.
        refined[:, -1] += v.double() - refined.sum(1)
        maps = F @ refined.to(F.dtype).mT
        numbers = {
            "nmf_relative_error": factors.error / F.flatten(1).norm(dim=1),
            "objective_naive": objective(naive(R, alpha).to(F.dtype)),
            "objective": objective(r.to(F.dtype)),
            # 1 = no term cancels another; large values look well and explain nothing.
            "cancellation": maps.norm(dim=1).sum(1) / maps.sum(2).norm(dim=1),
        }
        return refined, numbers

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
