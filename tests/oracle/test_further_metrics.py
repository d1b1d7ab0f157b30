"""The metrics beyond the paper against plain loops over numbers, on drawn models with ragged classes."""

from functools import cache
from math import sqrt

import numpy as np
import pytest
import torch
from oracle import plain_loops
from oracle.scripted import ScriptedModel, images
from samples import Tensors
from torch import nn

from bench.contract import CellError, NotApplicable, Observation
from metrics.agreement import PartAgreement
from metrics.calibration import Calibration
from metrics.cancellation import Cancellation
from metrics.compactness import Compactness
from metrics.contrastivity import Contrastivity
from metrics.cost import Cost
from metrics.deletion import Deletion, curve
from metrics.duplication import Duplication
from metrics.fidelity import Fidelity
from metrics.localisation import PointingBox, inside
from metrics.purity import Purity

NAMES = ["left eye", "right eye", "beak", "tail"]
COUNT, CLASSES = 18, 4


class Loud(ScriptedModel):
    """Images are their numbers; what is displayed for a class is the sum of its maps."""

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
    model = Loud(owners, maps, logits=logits)
    split = Tensors(images(COUNT), labels, CLASSES)
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
        rest = (split.keypoints[at], split.visible[at], split.boxes[at], black_box, fit_seconds)
        metric.update(Observation(model, split.images[at], split.labels[at], at, *rest))
    return metric.compute()


ALL = (
    Calibration, Cancellation, Compactness, Contrastivity, Duplication, PartAgreement, PointingBox, Purity,
)  # fmt: skip


@pytest.mark.parametrize("kind", ALL)
def test_order_and_size_of_batches_do_not_matter(kind):
    whole = measure(kind)
    for batches in ([[i] for i in range(COUNT)], [[3, 9, 1], [0], list(range(17, 9, -1)), [2, 4, 5, 6, 7, 8]]):
        other = measure(kind, batches=batches)
        assert (other.value, other.also) == (pytest.approx(whole.value), pytest.approx(whole.also))
        for name, table in whole.items.items():
            for column, values in table.items():
                np.testing.assert_allclose(other.items[name][column], values, atol=1e-9)


@pytest.mark.parametrize("kind", [*ALL, Deletion])
def test_broken_maps_are_refused(kind):
    model, split, _ = case()
    broken = Loud(model.prototypes.classes, torch.full_like(model.clean, float("nan")), logits=model.answers)
    if kind is Calibration:
        broken.answers = broken.answers * float("nan")
    try:
        value = measure(kind, broken, split).value
    except CellError:
        return
    assert value != value  # the cell refuses a score that is no number


def test_calibration():
    model, split, _ = case()
    rows = []
    for i in range(COUNT):
        exponentials = [np.exp(float(value)) for value in model.answers[i]]
        confidence = max(exponentials) / sum(exponentials)
        rows.append((confidence, int(np.argmax(exponentials)) == int(split.labels[i])))
    error = 0
    for i in range(10):
        inside = [(conf, right) for conf, right in rows if i / 10 < conf <= (i + 1) / 10]
        if inside:
            gap = abs(sum(right for _, right in inside) - sum(conf for conf, _ in inside)) / len(inside)
            error += len(inside) / COUNT * gap
    found = measure(Calibration, bins=10)
    assert found.value == pytest.approx(100 * error)
    assert found.also["confidence"] == pytest.approx(100 * sum(conf for conf, _ in rows) / COUNT)


def test_cancellation():
    model, split, owned = case()
    ratios = []
    for i in range(COUNT):
        own = [model.clean[i, p].flatten().tolist() for p in owned[int(split.labels[i])]]
        parts = sum(sqrt(sum(v * v for v in one)) for one in own)
        whole = sqrt(sum(sum(column) ** 2 for column in zip(*own, strict=True)))
        ratios.append(parts / whole)
    assert measure(Cancellation).value == pytest.approx(sum(ratios) / COUNT)


def test_cancellation_is_one_without_and_large_with():
    ones = torch.ones(COUNT, 2, 7, 7)
    owners = torch.tensor([[1, 1, 1, 1]] * 2).bool()
    assert measure(Cancellation, Loud(owners, ones)).value == pytest.approx(1)
    ones[:, 1] = -0.9
    assert measure(Cancellation, Loud(owners, ones)).value == pytest.approx(19)
    with pytest.raises(NotApplicable, match="other than zero"):
        measure(Cancellation, Loud(owners, 0 * ones))


def correlation(one, two):
    a, b = np.array(one, dtype=float), np.array(two, dtype=float)
    return np.corrcoef(a, b)[0, 1]


def test_duplication():
    model, split, owned = case()
    pairs, repeated = 0, 0
    for c in range(3):
        own = [i for i in range(COUNT) if split.labels[i] == c]
        for p in owned[c]:
            pairs += 1
            means = [
                np.mean([correlation(*(model.clean[i, r].flatten().tolist() for r in (p, q))) for i in own])
                for q in owned[c] if q != p
            ]  # fmt: skip
            repeated += max(means) >= 0.95
    found = measure(Duplication)
    assert (found.value, found.n) == (pytest.approx(100 * repeated / pairs), pairs)
    assert 0 < found.value < 100


def test_constant_maps_repeat_each_other_and_nothing_else():
    owners = torch.tensor([[1, 1, 1, 1]] * 3).bool()
    maps = torch.rand(COUNT, 3, 7, 7)
    maps[:, 0], maps[:, 1] = 0.1, -5.0
    table = measure(Duplication, Loud(owners, maps)).items["prototype"]
    assert {p: set(table["repeated"][table["prototype"] == p].tolist()) for p in range(3)} == {0: {1}, 1: {1}, 2: {0}}


def test_prototypes_from_one_patch_are_told():
    model = Loud(torch.tensor([[1, 1, 1, 1]] * 3).bool(), torch.rand(COUNT, 3, 7, 7))
    model.prototypes.source_image[:] = torch.tensor([4, 4, 4])
    model.prototypes.source_patch[:] = torch.tensor([[1, 2], [1, 2], [2, 2]])
    assert measure(Duplication, model).also == {"sources": pytest.approx(200 / 3)}


def test_contrastivity():
    model, split, owned = case()
    distances, near = [], []
    for i in range(COUNT):
        at = [plain_loops.peak(model.clean[i, p].tolist()) for p in owned[int(split.labels[i])]]
        pairs = [(one, two) for k, one in enumerate(at) for two in at[k + 1 :]]
        distances.append(np.mean([sqrt((a - c) ** 2 + (b - d) ** 2) for (a, b), (c, d) in pairs]))
        near.append(np.mean([abs(a - c) <= 36 and abs(b - d) <= 36 for (a, b), (c, d) in pairs]))
    found = measure(Contrastivity)
    assert found.value == pytest.approx(100 * np.mean(distances) / 224)
    assert found.also["same"] == pytest.approx(100 * np.mean(near))


def test_compactness():
    model, split, owned = case()
    needed, areas = [], []
    for i in range(COUNT):
        own = owned[int(split.labels[i])]
        sizes = sorted((abs(float(model.clean[i, p].max())) for p in own), reverse=True)
        count = next(k for k in range(1, len(sizes) + 1) if sum(sizes[:k]) >= 0.9 * sum(sizes))
        needed.append(count)
        shown = sum(model.clean[i, p] for p in own)
        areas.append(float((shown > (shown.min() + shown.max()) / 2).double().mean()))
    found = measure(Compactness)
    assert found.value == pytest.approx(np.mean(needed))
    assert found.also == {"whole": 5.0, "area": pytest.approx(100 * np.mean(areas))}


def test_pointing_and_energy():
    model, split, owned = case()
    hits, energy, outside, within = [], [], [], []
    for i in range(COUNT):
        shown = sum(model.clean[i, p] for p in owned[int(split.labels[i])]).double()
        row, column = plain_loops.peak(shown.tolist())
        top, left, bottom, right = split.boxes[i].tolist()
        hits.append(top <= row < bottom and left <= column < right)
        # In pixels: every cell is 32 x 32 of them, and boxes have whole edges.
        pixels = shown.clamp(min=0).repeat_interleave(32, 0).repeat_interleave(32, 1)
        own = pixels[int(top) : int(bottom), int(left) : int(right)]
        energy.append(float(own.sum() / pixels.sum()))
        within.append(float(own.mean()))
        outside.append(float((pixels.sum() - own.sum()) / (224**2 - own.numel())))
    found = measure(PointingBox)
    assert found.value == pytest.approx(100 * np.mean(hits))
    assert found.also["energy"] == pytest.approx(100 * np.mean(energy))
    assert found.also["outside"] == pytest.approx(sum(outside) / sum(within))
    sides = split.boxes[:, 2:] - split.boxes[:, :2]
    assert found.also["area"] == pytest.approx(100 * float(sides.prod(1).mean()) / 224**2)
    assert inside(split.boxes, 3, 5, 224).sum((1, 2)) == pytest.approx((found.items["image"]["area"] * 15).tolist())


def test_pointing_means_nothing_on_crops_and_without_boxes():
    model, split, _ = case()
    cut = Tensors(split.images, split.labels, CLASSES)
    cut.protocol = "bbox-224-truncated"
    with pytest.raises(NotApplicable, match="cut to the box"):
        measure(PointingBox, model, cut)
    cut.protocol = "full-224-truncated"
    cut.boxes = torch.full((COUNT, 4), float("nan"))
    with pytest.raises(NotApplicable, match="no test image"):
        measure(PointingBox, model, cut)


def test_purity():
    model, split, owned = case()
    units = [(p, c) for p in range(5) for c in range(3) if p in owned[c]]
    expected = {}
    for p, c in units:
        own = [i for i in range(COUNT) if split.labels[i] == c]
        own = sorted(own, key=lambda i: (-float(model.clean[i, p].max()), i))[:3]
        shares = dict.fromkeys(("eye", "beak", "tail"), 0)
        for i in own:
            at = plain_loops.peak(model.clean[i, p].tolist())
            hit = plain_loops.hit_vector(at, split.keypoints[i].tolist(), split.visible[i].tolist(), half=16)
            for name in shares:
                shares[name] += any(h and name in part for h, part in zip(hit, NAMES, strict=True))
        expected[p, c] = max(shares.values()) / len(own)
    found = measure(Purity, top=3)
    table = found.items["prototype"]
    keys = zip(table["prototype"].tolist(), table["class"].tolist(), strict=True)
    assert dict(zip(keys, table["purity"].tolist(), strict=True)) == pytest.approx(expected)
    assert found.value == pytest.approx(100 * np.mean(list(expected.values())))
    assert 0 < found.value < 100


def information(pairs):
    """Normalised mutual information (arithmetic mean of the entropies) from counts."""
    n, one, two = len(pairs), [a for a, _ in pairs], [b for _, b in pairs]

    def entropy(values):
        return -sum(values.count(v) / n * np.log(values.count(v) / n) for v in set(values))

    mutual = entropy(one) + entropy(two) - entropy(pairs)
    return mutual / ((entropy(one) + entropy(two)) / 2) if mutual > 1e-12 else 0.0


def test_part_agreement():
    model, split, owned = case()
    classes, everything = [], []
    for c in range(3):
        pairs = []
        for i in range(COUNT):
            if split.labels[i] != c:
                continue
            exact = nn.functional.interpolate(model.clean[i : i + 1].double(), size=224, mode="bicubic")[0]
            for k in range(4):
                if split.visible[i, k]:
                    y, x = (int(v) for v in split.keypoints[i, k])
                    values = [float(exact[p, y, x]) for p in owned[c]]
                    pairs.append((k, owned[c][int(np.argmax(values))]))
        classes.append(information(pairs))
        everything += pairs
    found = measure(PartAgreement)
    assert found.value == pytest.approx(100 * np.mean(classes))
    assert found.also["overall"] == pytest.approx(100 * information(everything))


def test_a_part_per_prototype_agrees_wholly():
    _, split, _ = case()
    maps = torch.zeros(COUNT, 4, 7, 7)
    spots = [(16, 16), (16, 208), (208, 16), (208, 208)]
    for k, (y, x) in enumerate(spots):
        maps[:, k, y // 32, x // 32] = 1
    told = Tensors(split.images, split.labels, CLASSES)
    told.keypoints = torch.tensor([spots] * COUNT).double()
    told.visible = torch.ones(COUNT, 4).bool()
    told.parts = NAMES
    found = measure(PartAgreement, Loud(torch.ones(4, CLASSES).bool(), maps), told)
    assert (found.value, found.also["ari"], found.also["overall"]) == (pytest.approx(100),) * 3
    told.visible[:, 1:] = False
    with pytest.raises(NotApplicable, match="no class shows two parts"):
        measure(PartAgreement, Loud(torch.ones(4, CLASSES).bool(), maps), told)


class Mean(nn.Module):
    """Reads the mean colour of an image as the logit of class 0."""

    def forward(self, pictures):
        level = pictures.mean((1, 2, 3))
        return torch.stack((10 * level, -10 * level), 1)


def test_fidelity():
    model, split, _ = case()
    answers = model.answers.clone()
    answers[3] = -answers[3]
    answers[5, 0] += 0.25
    other = nn.Module()
    other.forward = lambda pictures: answers[(pictures[:, 0, 0, 0] / 10).round().long()]
    found = measure(Fidelity, black_box=other)
    same = [int(model.answers[i].argmax() == answers[i].argmax()) for i in range(COUNT)]
    right = [int(which[i].argmax() == split.labels[i]) for which in (model.answers, answers) for i in range(COUNT)]
    assert found.value == pytest.approx(100 * np.mean(same))
    assert found.also["accuracy_gain"] == pytest.approx(100 * (np.mean(right[:COUNT]) - np.mean(right[COUNT:])))
    assert found.also["logit_difference"] == pytest.approx(float((model.answers - answers).abs().max()))
    with pytest.raises(NotApplicable, match="black box"):
        measure(Fidelity)


def test_cost():
    found = measure(Cost, batches=[[0, 1], [2, 3]], fit_seconds=12.5)
    assert found.value > 0
    assert (found.n, found.also) == (4, {"parameters": 0.0, "fit": 12.5})
    with pytest.raises(NotApplicable, match="no test image"):
        measure(Cost, batches=[[]])


def test_curves_take_away_in_order():
    ranks = torch.tensor([[2, 0], [3, 1]])
    picture = torch.arange(1.0, 17).view(1, 4, 4).expand(3, 4, 4)
    away, back = (curve(ranks, picture, 2, insert) for insert in (False, True))
    assert torch.equal(away[0], picture)
    assert (away[0] + back[0] == picture).all()
    assert away[1, 0].tolist() == [[1, 2, 0, 0], [5, 6, 0, 0], [9, 10, 0, 0], [13, 14, 0, 0]]
    assert (away[2] == 0).all()
    assert torch.equal(back[2], picture)
    assert [int((curve(ranks, picture, 3, False)[s, 0] == 0).sum() / 4) for s in range(4)] == [0, 2, 3, 4]


class Painted(ScriptedModel):
    """Its logit is the mean colour; what it shows is the colour of each cell, or its opposite."""

    def __init__(self, sign):
        super().__init__(torch.ones(1, 2).bool(), torch.zeros(1, 1, 4, 4))
        self.sign, self.answer = sign, Mean()

    def head(self, features, classes=None):
        shown = super().head(torch.zeros_like(features[:, :1]), classes)
        return type(shown)(self.answer(features), shown.maps, shown.scores, shown.indices)

    def attribute(self, features, classes):
        return self.sign * nn.functional.adaptive_avg_pool2d(features.mean(1), 4)


@pytest.mark.parametrize("mode", ["delete", "insert"])
def test_deletion_by_plain_loops(mode):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 3, 8, 8, generator=generator)
    split = Tensors(pictures, torch.zeros(3).long(), 2)
    found = measure(Deletion, Painted(1), split, mode=mode, steps=4, images=2)
    assert found.items["image"]["index"].tolist() == [0, 1]
    for i in range(2):
        cells = nn.functional.adaptive_avg_pool2d(pictures[i].mean(0)[None], 4)[0].flatten().tolist()
        order = sorted(range(16), key=lambda k: -cells[k])
        values = []
        for s in range(5):
            changed = pictures[i].clone() if mode == "delete" else torch.zeros(3, 8, 8)
            for cell in order[: 4 * s]:
                y, x = 2 * (cell // 4), 2 * (cell % 4)
                block = 0 if mode == "delete" else pictures[i][:, y : y + 2, x : x + 2]
                changed[:, y : y + 2, x : x + 2] = block
            values.append(float(Mean()(changed[None]).double().softmax(1)[0, 0]))
        area = 100 * sum((values[s] + values[s + 1]) / 2 for s in range(4)) / 4
        assert found.items["image"]["area"][i] == pytest.approx(area, rel=1e-5)
    assert found.value > 0  # the map's order is better than chance
    assert measure(Deletion, Painted(-1), split, mode=mode, steps=4).value < 0  # and the opposite map worse


@pytest.mark.parametrize("kind", [Contrastivity, Duplication, PartAgreement])
def test_one_prototype_per_class_has_nothing_to_differ_from(kind):
    model = Loud(torch.eye(CLASSES).bool(), torch.rand(COUNT, CLASSES, 7, 7))
    with pytest.raises(NotApplicable, match="two prototypes"):
        measure(kind, model)


@pytest.mark.parametrize("kind", [Cancellation, Compactness, Contrastivity, Duplication, PartAgreement, Purity])
def test_no_prototypes(kind):
    with pytest.raises(NotApplicable):
        measure(kind, Loud(torch.zeros(0, CLASSES).bool(), torch.zeros(COUNT, 0, 7, 7)))


@pytest.mark.parametrize("kind", [*ALL, Deletion])
def test_no_test_images(kind):
    with pytest.raises(NotApplicable):
        measure(kind, batches=[[]])
