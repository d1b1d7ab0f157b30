"""Model with scripted maps and logits, and batches for it."""

from types import SimpleNamespace

import torch
from torch import nn

from bench.contract import IMAGENET_MEAN, IMAGENET_STD, Explanation, Observation, PartPrototypeModel, PrototypeTable


class ScriptedModel(PartPrototypeModel):
    """Shows prepared maps ``(n, P, h, w)`` for the n images of :func:`images`, and others for noisy copies of them."""

    def __init__(self, classes, maps, noisy=None, logits=None):
        super().__init__()
        self.backbone = nn.Identity()
        self.prototypes = PrototypeTable(classes)
        self.clean, self.noisy = maps, maps if noisy is None else noisy
        self.answers = torch.zeros(len(maps), classes.shape[1]) if logits is None else logits

    def head(self, features, classes=None):
        which = (features[:, 0, 0, 0] / 10).round().long()
        noisy = (features[:, 0, 0, 1] != 0)[:, None, None, None]
        maps = torch.where(noisy, self.noisy[which], self.clean[which])
        if classes is None:
            return Explanation(self.answers[which], maps, maps.amax((2, 3)))
        indices = self.prototypes.of(classes)
        maps = self.pick(maps, indices)
        return Explanation(self.answers[which], maps, maps.amax((2, 3)), indices)

    def attribute(self, features, classes):
        return self.head(features, classes).maps.sum(1)


def images(count, size=224):
    """Images that carry their number at a pixel that noise cannot hide; a side of ``size`` needs one row of pixels."""
    made = torch.zeros(count, 1, 1, size)
    made[:, 0, 0, 0] = 10 * torch.arange(count)
    return made


def samples(parts, classes, named=None):
    """Return the fields of a test split that metrics read."""
    named = named or [f"part {k}" for k in range(parts)]
    return SimpleNamespace(
        parts=named, classes=classes, protocol="full-224-truncated", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def observe(model, images, labels, points, visible, batches):
    """Observations of the given lists of positions."""
    for batch in batches:
        at = torch.as_tensor(batch, dtype=torch.long)
        yield Observation(model, images[at], labels[at], at, points[at], visible[at], torch.zeros(len(at), 4))


def score(metric, model, images, labels, points, visible, batches=None, names=None, train=None, **settings):
    """Run a metric class over batches (default: all at once, in order); ``names`` of the parts if they matter."""
    labels, visible = torch.as_tensor(labels), torch.as_tensor(visible)
    points = torch.as_tensor(points, dtype=torch.float64)
    split = samples(visible.shape[1], model.prototypes.classes.shape[1], names)
    running = metric(metric.Config(**settings), split, model.prototypes)
    running.prepare(train)
    for seen in observe(model, images, labels, points, visible, batches or [range(len(labels))]):
        running.update(seen)
    return running.compute()


def same(one, other):
    """Whether two scores are equal in every number."""
    assert (one.value, one.n, one.items.keys()) == (other.value, other.n, other.items.keys())
    for name, table in one.items.items():
        assert table.keys() == other.items[name].keys()
        for column, values in table.items():
            assert values.tolist() == other.items[name][column].tolist(), (name, column)
    return True
