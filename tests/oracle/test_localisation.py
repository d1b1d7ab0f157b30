"""The pointing game and its further numbers against plain loops over pixels."""

import numpy as np
import pytest
import torch

from bench.contract import NotApplicable
from metrics.localisation import PointingBox, inside
from metrics.mask_scores import MaskEnergy, MaskIou, MaskOirr
from tests.oracle import plain_loops
from tests.support.ragged_model import CLASSES, COUNT, SumOfMaps, case, measure
from tests.support.samples import TensorSamples


def test_pointing_and_energy():
    model, split, owned = case()
    hits, energy, outside, within = [], [], [], []
    for i in range(COUNT):
        own = owned[int(split.labels[i])]
        shown = (sum(model.clean[i, p] for p in own) / len(own)).double()
        row, column = plain_loops.peak(shown.tolist())
        top, left, bottom, right = split.boxes[i].tolist()
        hits.append(top <= row < bottom and left <= column < right)
        # In pixels: every cell is 32 x 32 of them, and boxes have whole edges.
        pixels = shown.clamp(min=0).repeat_interleave(32, 0).repeat_interleave(32, 1)
        boxed = pixels[int(top) : int(bottom), int(left) : int(right)]
        energy.append(float(boxed.sum() / pixels.sum()))
        within.append(float(boxed.mean()))
        outside.append(float((pixels.sum() - boxed.sum()) / (224**2 - boxed.numel())))
    found = measure(PointingBox)
    assert found.value == pytest.approx(100 * np.mean(hits))
    assert found.also["energy"] == pytest.approx(100 * np.mean(energy))
    assert found.also["outside"] == pytest.approx(sum(outside) / sum(within))
    sides = split.boxes[:, 2:] - split.boxes[:, :2]
    assert found.also["area"] == pytest.approx(100 * float(sides.prod(1).mean()) / 224**2)
    assert inside(split.boxes, 3, 5, 224).sum((1, 2)) == pytest.approx((found.items["image"]["area"] * 15).tolist())


class OtherClassesCount(SumOfMaps):
    """Its logits' maps are below 0 everywhere, as with negative weights for the prototypes of other classes."""

    def attribute(self, features, classes):
        return -1 - super().attribute(features, classes).abs()


@pytest.mark.parametrize("kind", [PointingBox, MaskEnergy, MaskIou, MaskOirr])
def test_prototypes_of_other_classes_do_not_count(kind):
    model = case()[0]
    other = OtherClassesCount(model.prototypes.classes, model.clean, logits=model.answers)
    found, expected = measure(kind, other), measure(kind)
    assert (found.value, found.also) == (expected.value, expected.also)


@pytest.mark.parametrize("kind", [PointingBox, MaskEnergy, MaskIou, MaskOirr])
def test_classes_without_prototypes_are_left_out(kind):
    model, split, _ = case()
    owners = model.prototypes.classes.clone()
    owners[:, 1] = False
    found = measure(kind, SumOfMaps(owners, model.clean, logits=model.answers))
    assert set(found.items["image"]["index"].tolist()) == set((split.labels != 1).nonzero()[:, 0].tolist())


def test_pointing_means_nothing_on_crops_and_without_boxes():
    model, split, _ = case()
    cut = TensorSamples(split.images, split.labels, CLASSES)
    cut.protocol = "bbox-224-truncated"
    with pytest.raises(NotApplicable, match="cut to the box"):
        measure(PointingBox, model, cut)
    cut.protocol = "full-224-truncated"
    cut.boxes = torch.full((COUNT, 4), float("nan"))
    with pytest.raises(NotApplicable, match="no test image"):
        measure(PointingBox, model, cut)


def test_box_that_fills_the_image_has_no_outside():
    _, split, _ = case()
    changed = TensorSamples(split.images, split.labels, CLASSES)
    changed.protocol = split.protocol
    changed.boxes = torch.tensor([[0.0, 0.0, 224.0, 112.0]] + [[0.0, 0.0, 224.0, 224.0]] * (COUNT - 1)).double()
    maps = torch.full((COUNT, 5, 7, 7), 1000 / 3)
    even = SumOfMaps(torch.ones(5, CLASSES).bool(), maps)
    assert measure(PointingBox, even, changed).also["outside"] == pytest.approx(1)
    changed.boxes[0] = changed.boxes[1]
    assert "outside" not in measure(PointingBox, even, changed).also
