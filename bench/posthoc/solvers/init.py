"""Where the factorisations begin; every class draws from a generator of its own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench.core.seeding import derive

Init = Literal["random", "nndsvd"]

_OVERSAMPLING = 5
_POWER_ITERATIONS = 2
_LLOYD_ITERATIONS = 20


def initialise(
    F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int], init: Init = "random", *, fill: bool = False
) -> tuple[Tensor, Tensor]:
    """Non-negative first factors ``E^T (B, k, M)`` and ``P (B, k, D)``.

    Args:
        F: features ``(B, M, D)``, non-negative; rows beyond a class's own are zero.
        rows: own rows per class ``(B,)``.
        k: number of components.
        seed: together with the class, of what is drawn.
        classes: the B class numbers.
        init: ``random`` (DFF: |N(0, 1)| sqrt(mean(F) / k)) or ``nndsvd`` (Boutsidis and Gallopoulos 2008).
        fill: replace the zeros of NNDSVD by the mean of F (their NNDSVDa): a multiplicative update cannot leave zero.
    """
    mean = F.sum((1, 2)) / (rows.to(F.device) * F.shape[2])
    Et, P = random(F, rows, k, seed, classes) if init == "random" else nndsvd(F, rows, k, seed, classes)
    if init == "random":
        # The product of two such factors has about the mean of F.
        scale = (mean / k).sqrt()[:, None, None]
        return Et * scale, P * scale
    if fill:
        Et = torch.where((Et == 0) & own(F, rows)[:, None], mean[:, None, None], Et)
        P = torch.where(P == 0, mean[:, None, None], P)
    return Et, P


def own(F: Tensor, rows: Tensor) -> Tensor:
    """Which of the M rows are a class's own: bool ``(B, M)``."""
    return torch.arange(F.shape[1], device=F.device) < rows.to(F.device)[:, None]


def random(F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int]) -> tuple[Tensor, Tensor]:
    """|N(0, 1)| for ``E^T (B, k, M)``, zero beyond a class's own rows, and ``P (B, k, D)``."""
    B, M, D = F.shape
    Et = torch.zeros(B, k, M, device=F.device, dtype=F.dtype)
    P = torch.empty(B, k, D, device=F.device, dtype=F.dtype)
    for b, label in enumerate(classes):
        # Drawn on the CPU and per class: the same start on every device and whatever other classes are in the batch.
        generator = torch.Generator().manual_seed(derive(seed, "nmf", label))
        n = int(rows[b])
        Et[b, :, :n] = torch.randn(n, k, generator=generator).abs().T.to(F)
        P[b] = torch.randn(k, D, generator=generator).abs().to(F)
    return Et, P


def nndsvd(F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int]) -> tuple[Tensor, Tensor]:
    """The non-negative halves of the k leading singular pairs (Boutsidis and Gallopoulos 2008, algorithm 1).

    Of each pair ``s u v`` the halves ``(u+, v+)`` or ``(u-, v-)`` are taken whose product is larger. The pairs come
    from subspace iteration (Halko et al. 2011, algorithm 4.4), which reads F a dozen times where a full SVD would take
    longer than the factorisation itself.
    """
    U, s, V = _leading(F, k, seed, classes)
    above, below = (U.clamp(min=0), V.clamp(min=0)), ((-U).clamp(min=0), (-V).clamp(min=0))
    sizes = [left.norm(dim=2) * right.norm(dim=2) for left, right in (above, below)]
    upper = sizes[0] >= sizes[1]
    left, right = (torch.where(upper[:, :, None], a, b) for a, b in zip(above, below, strict=True))
    # Singular values that are only rounding (k above the rank) give directions of noise: such components are zero.
    s = torch.where(s > 1e-6 * s[:, :1], s, 0.0)
    weight = (s * torch.where(upper, *sizes)).sqrt()[:, :, None]
    unit = [weight * x / x.norm(dim=2, keepdim=True).clamp(min=1e-30) for x in (left, right)]
    unit[0] = unit[0] * own(F, rows)[:, None]
    # As contiguous as they look: products with strided factors take five times as long, and updates keep the strides.
    return unit[0].contiguous(), unit[1].contiguous()


def _leading(F: Tensor, k: int, seed: int, classes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest singular triplets: left vectors ``(B, k, M)``, values ``(B, k)``, right vectors ``(B, k, D)``."""
    D = F.shape[2]
    width = min(k + _OVERSAMPLING, *F.shape[1:])
    sketch = torch.stack(
        [
            torch.randn(width, D, generator=torch.Generator().manual_seed(derive(seed, "nndsvd", label)))
            for label in classes
        ]
    ).to(F)
    for _ in range(_POWER_ITERATIONS):
        Q = _orthonormal((sketch @ F.mT).mT)
        sketch = _orthonormal((Q.mT @ F).mT).mT
    Q = _orthonormal((sketch @ F.mT).mT)  # (B, M, width)
    small = Q.mT @ F
    square, turn = torch.linalg.eigh(small.double() @ small.double().mT)
    square, turn = square.flip(1).clamp(min=0), turn.flip(2).to(F.dtype)  # largest first
    s = square.sqrt().to(F.dtype)
    U, V = (Q @ turn)[:, :, :k].mT, (turn.mT @ small)[:, :k]
    V = V / V.norm(dim=2, keepdim=True).clamp(min=1e-30)
    s = s[:, :k]
    missing = k - s.shape[1]
    if missing:
        pad = torch.nn.functional.pad
        U, V, s = pad(U, (0, 0, 0, missing)), pad(V, (0, 0, 0, missing)), pad(s, (0, missing))
    return U, s, V


def _orthonormal(Y: Tensor) -> Tensor:
    """An orthonormal basis of the columns of ``Y (B, n, w)``; directions that are missing are zero columns.

    By the w x w Gram matrix rather than by QR, which a GPU does one matrix after another.
    """
    wide = Y.double()
    square, turn = torch.linalg.eigh(wide.mT @ wide)
    present = square > 1e-12 * square.amax(1, keepdim=True)
    shrink = torch.where(present, torch.where(present, square, 1.0).rsqrt(), 0.0)
    return (wide @ (turn * shrink[:, None])).to(Y.dtype)


def clusters(F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int]) -> Tensor:
    """Which of k clusters each own row belongs to (Lloyd's algorithm from k of the rows): 0 or 1, ``(B, k, M)``."""
    centres = torch.empty(len(F), k, F.shape[2], device=F.device, dtype=F.dtype)
    for b, label in enumerate(classes):
        generator = torch.Generator().manual_seed(derive(seed, "clusters", label))
        chosen = torch.randperm(int(rows[b]), generator=generator)[:k]
        # Fewer rows than clusters: the first ones serve twice.
        centres[b] = F[b, chosen.repeat(-(-k // len(chosen)))[:k].to(F.device)]
    mine = own(F, rows)
    for _ in range(_LLOYD_ITERATIONS):
        distance = centres.square().sum(2)[:, :, None] - 2 * centres @ F.mT  # up to |f|^2, the same for all centres
        members = torch.nn.functional.one_hot(distance.argmin(1), k).mT.to(F.dtype) * mine[:, None]
        count = members.sum(2, keepdim=True)
        # An empty cluster stays where it was.
        centres = torch.where(count > 0, members @ F / count.clamp(min=1), centres)
    return members
