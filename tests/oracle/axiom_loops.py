"""The axioms of Tan et al. 2024, section 4.1, image by image and cell by cell; nothing from ``metrics``.

``model`` is in double precision and has ``logits``, ``attribute`` (or the method named by ``shown``) and ``offset``.
"""

import torch


def logit(model, x, c):
    return float(model.logits(x[None])[0, c])


def shown_map(model, x, c, shown):
    return getattr(model, shown)(x[None], torch.tensor([c]))[0]


def sensitivity(model, x, c, shown, baseline):
    """Shares of cells in percent: shown though nothing depends on them, and the reverse."""
    attribution, whole = shown_map(model, x, c, shown), logit(model, x, c)
    tau = 1e-6 * max(1.0, abs(whole))
    false = missed = 0
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            without = x.clone()
            without[:, row, column] = baseline
            depends = abs(whole - logit(model, without, c)) > tau
            visible = abs(float(attribution[row, column])) > tau
            false += visible and not depends
            missed += depends and not visible
    cells = x.shape[1] * x.shape[2]
    return 100 * false / cells, 100 * missed / cells


def completeness(model, x, c, shown):
    """Absolute and relative."""
    total = sum(float(value) for value in shown_map(model, x, c, shown).flatten())
    gap = abs(total + float(model.offset(torch.tensor([c]))[0]) - logit(model, x, c))
    return gap, gap / max(abs(logit(model, x, c)), 1e-6)


def linearity(model, x, y, c, a, b):
    def bare(z):
        return logit(model, z, c) - float(model.offset(torch.tensor([c]))[0])

    gap = abs(bare(a * x + b * y) - a * bare(x) - b * bare(y))
    return gap / max(abs(a * bare(x)) + abs(b * bare(y)), 1e-6)


def permutation(model, x, c, shown, order):
    """Cell i of the permuted image is cell ``order[i]`` of the image."""
    flat = x.flatten(1)
    moved = torch.stack([flat[:, int(k)] for k in order], 1).reshape(x.shape)
    before, after = (shown_map(model, z, c, shown).flatten() for z in (x, moved))
    gap = sum((float(after[i]) - float(before[int(k)])) ** 2 for i, k in enumerate(order)) ** 0.5
    return gap / float(before.square().sum()) ** 0.5


def copy_gap(model, x, c, shown, step):
    attribution = shown_map(model, x, c, shown).flatten().abs().tolist()
    u = attribution.index(max(attribution))
    v = (u + step) % len(attribution)
    flat = x.flatten(1).clone()
    flat[:, v] = flat[:, u]
    again = shown_map(model, flat.reshape(x.shape), c, shown).flatten()
    return abs(float(again[u] - again[v])) / float(again.abs().max())
