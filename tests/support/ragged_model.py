"""A drawn model with ragged classes and shared prototypes, and any metric on it."""

from functools import cache

import torch

from bench.contract import Observation
from tests.support.samples import TensorSamples
from tests.support.scripted_model import ScriptedModel, images

NAMES = ["left eye", "right eye", "beak", "tail"]
COUNT, CLASSES = 18, 4


class SumOfMaps(ScriptedModel):
    """Images are their numbers; the displayed map of a class is the sum of its maps."""

    def attribute(self, features, classes):
        return self.head(features, classes).maps.sum(1)


@cache
def case():
    generator = torch.Generator().manual_seed(4)
    owners = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]).bool()
    maps = torch.rand(COUNT, 5, 7, 7, generator=generator) - 0.2
    maps[:, 3] = 2 * maps[:, 1] + 1 + 0.01 * torch.rand(COUNT, 7, 7, generator=generator)  # shows what 1 shows
    logits = 3 * torch.randn(COUNT, CLASSES, generator=generator)
    labels = torch.randint(0, 3, (COUNT,), generator=generator)
    model = SumOfMaps(owners, maps, logits=logits)
    split = TensorSamples(images(COUNT), labels, CLASSES)
    split.keypoints = torch.randint(0, 224, (COUNT, 4, 2), generator=generator).double()
    split.visible = torch.rand(COUNT, 4, generator=generator) < 0.8
    corner = torch.randint(0, 100, (COUNT, 2), generator=generator).double()
    split.boxes = torch.cat((corner, corner + torch.randint(20, 120, (COUNT, 2), generator=generator)), 1)
    split.parts, split.protocol = NAMES, "full-224-truncated"
    return model, split, [[p for p in range(5) if owners[p, c]] for c in range(CLASSES)]


@torch.no_grad()
def measure(kind, model=None, split=None, batches=None, black_box=None, fit_seconds=None, **settings):
    model, split = (model or case()[0]), (split or case()[1])
    metric = kind(kind.Config(**settings), split, model.prototypes)
    for batch in batches or [range(len(split))]:
        at = torch.as_tensor(list(batch), dtype=torch.long)
        masks = getattr(split, "masks", None)
        masks = masks if masks is None else masks[at]
        rest = (split.keypoints[at], split.visible[at], split.boxes[at], black_box, fit_seconds, masks)
        metric.update(Observation(model, split.images[at], split.labels[at], at, *rest))
    return metric.compute()
