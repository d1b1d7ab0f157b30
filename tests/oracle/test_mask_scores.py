"""Mask scores and comprehensiveness against sets of pixels, and cases worked by hand."""

import numpy as np
import pytest
import torch

from bench.contract import NotApplicable
from metrics.comprehensiveness import Comprehensiveness
from metrics.mask_scores import MaskEnergy, MaskIou, MaskOirr
from metrics.masks import high, in_boxes, iou
from tests.oracle import mask_loops, plain_loops
from tests.support.ragged_model import CLASSES, COUNT, SumOfMaps, case, measure
from tests.support.samples import TensorSamples

EVERY = 3  # of the images, so that loops over pixels are quick


def masked(grey=None):
    """The drawn case with masks of the grey levels of CUB's annotators."""
    model, split, owned = case()
    other = TensorSamples(split.images, split.labels, CLASSES)
    other.boxes, other.protocol = split.boxes, "bbox-224-truncated"
    generator = torch.Generator().manual_seed(7)
    blocks = torch.randint(0, 6, (COUNT, 8, 8), generator=generator).repeat_interleave(28, 1).repeat_interleave(28, 2)
    other.masks = (51 * blocks).to(torch.uint8) if grey is None else torch.full((COUNT, 224, 224), grey).to(torch.uint8)
    return model, other, owned


def few(kind, split, **settings):
    return measure(kind, case()[0], split, [range(0, COUNT, EVERY)], **settings)


def truth(split, i, grey=200):
    """Object of an image, and the image of the map that its class shows, as sets and arrays of pixels."""
    model, _, owned = case()
    shown = mask_loops.enlarged(sum(model.clean[i, p] for p in owned[int(split.labels[i])]).double().tolist())
    if getattr(split, "masks", None) is None:
        return mask_loops.in_box(split.boxes[i].tolist()), shown
    return mask_loops.pixels_of(split.masks[i].numpy() > grey), shown


@pytest.mark.parametrize(("split", "grey"), [(masked()[1], 200), (masked()[1], 100), (case()[1], 200)])
def test_scores_of_the_class_map(split, grey):
    every = mask_loops.pixels_of(np.ones((224, 224)))
    rows = []
    for i in range(0, COUNT, EVERY):
        inside, shown = truth(split, i, grey)
        positive, stretched = shown.clip(0), (shown - shown.min()) / (shown.max() - shown.min())
        rows.append({
            "energy": sum(positive[at] for at in inside) / positive.sum(),
            "pointing": plain_loops.peak(sum(case()[0].clean[i, p] for p in case()[2][int(split.labels[i])]).tolist())
            in inside,
            **{name: mask_loops.iou(mask_loops.high(shown, share), inside)
               for name, share in (("at_25", 0.25), ("iou", 0.5), ("at_75", 0.75))},
            "background": len(mask_loops.high(shown, 0.5) - inside) / len(mask_loops.high(shown, 0.5)),
            "inside": mask_loops.mean(stretched, inside),
            "outside": mask_loops.mean(stretched, every - inside),
            "area": len(inside) / 224**2,
        })  # fmt: skip
    means = {name: np.mean([float(row[name]) for row in rows]) for name in rows[0]}
    boxes = 0 if hasattr(split, "masks") else 100
    energy, region, ratio = (few(kind, split, grey=grey) for kind in (MaskEnergy, MaskIou, MaskOirr))
    assert energy.value == pytest.approx(100 * means["energy"])
    assert energy.also == pytest.approx(
        {"pointing": 100 * means["pointing"], "area": 100 * means["area"], "boxes": boxes}
    )
    assert region.value == pytest.approx(100 * means["iou"])
    expected = {name: 100 * means[name] for name in ("at_25", "at_75", "background", "area")}
    assert region.also == pytest.approx({**expected, "boxes": boxes})
    assert ratio.value == pytest.approx(means["outside"] / means["inside"])
    assert ratio.also["heat"] == pytest.approx(100 * means["inside"])


@pytest.mark.parametrize(("settings", "top", "share"), [({}, 9, 0.6), ({"top": 1, "threshold": 0.8}, 1, 0.8)])
def test_comprehensiveness_is_that_of_the_union(settings, top, share):
    model, split, owned = masked()
    expected, covered = [], []
    for i in range(0, COUNT, EVERY):
        inside, _ = truth(split, i)
        own = sorted(owned[int(split.labels[i])], key=lambda p: -float(model.clean[i, p].max()))[:top]
        maps = [mask_loops.enlarged(model.clean[i, p].double().tolist()) for p in own]
        reached = set.union(*(mask_loops.high(image, share) for image in maps))
        expected.append(mask_loops.iou(reached, inside))
        covered.append(len(reached & inside) / len(inside))
    found = few(Comprehensiveness, split, **settings)
    assert (found.value, found.also["covered"]) == pytest.approx((100 * np.mean(expected), 100 * np.mean(covered)))


def test_official_comprehensiveness_pools_first():
    # Of 7 x 7 cells the first six rows and columns become 3 x 3, stretched over the image: the left third is high.
    maps = torch.zeros(COUNT, 1, 7, 7)
    maps[:, :, :, :2] = 1
    model, (_, split, _) = SumOfMaps(torch.ones(1, CLASSES).bool(), maps), masked(0)
    split.masks[:, :, :112] = 255
    line = [1 - min(max((x + 0.5) * 3 / 224 - 0.5, 0), 1) for x in range(224)]
    width = sum(value >= 0.6 for value in line)
    assert measure(Comprehensiveness, model, split, variant="official", top=5).value == pytest.approx(100 * width / 112)


def test_cases_worked_by_hand():
    half = torch.zeros(1, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    assert iou(half, half.flip(1)).item() == 0
    assert iou(half, torch.ones_like(half)).item() == 0.5
    assert high(torch.tensor([[[0.0, 4.0], [6.0, 10.0]]]), 0.5).int().tolist() == [[[0, 0], [1, 1]]]
    assert not high(torch.ones(1, 2, 2), 0.5).any()
    assert in_boxes(torch.tensor([[0.5, 0.0, 2.0, 1.0]]).double(), 2).int().tolist() == [[[0, 0], [1, 0]]]


def test_a_map_that_is_the_mask_is_perfect_and_its_negative_the_opposite():
    _, split, _ = masked()
    maps = (split.masks > 200).float()[:, None]
    model = SumOfMaps(torch.ones(1, CLASSES).bool(), maps)
    assert measure(MaskEnergy, model, split).value == measure(MaskIou, model, split).value == pytest.approx(100)
    assert measure(Comprehensiveness, model, split).value == pytest.approx(100)
    assert measure(MaskOirr, model, split).value == pytest.approx(0)
    model = SumOfMaps(torch.ones(1, CLASSES).bool(), 1 - maps)
    assert (measure(MaskEnergy, model, split).value, measure(MaskIou, model, split).value) == pytest.approx((0, 0))
    with pytest.raises(NotApplicable, match="nothing to divide by"):
        measure(MaskOirr, model, split)


def test_a_uniform_map_has_the_objects_share():
    _, split, _ = masked()
    model = SumOfMaps(torch.ones(1, CLASSES).bool(), torch.ones(COUNT, 1, 7, 7))
    found = measure(MaskEnergy, model, split)
    assert found.value == pytest.approx(found.also["area"])


@pytest.mark.parametrize("kind", [MaskEnergy, MaskIou, MaskOirr, Comprehensiveness])
def test_nothing_to_tell_the_object_from(kind):
    model, split, _ = masked(255)
    with pytest.raises(NotApplicable, match="pixels of the object and others"):
        measure(kind, model, split)
    del split.masks
    with pytest.raises(NotApplicable, match="no object masks"):
        measure(kind, model, split)
