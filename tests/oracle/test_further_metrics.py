"""The metrics beyond the paper against plain loops over numbers, on drawn models with ragged classes."""

from math import comb, sqrt

import numpy as np
import pytest
import torch
from torch import nn

from bench.contract import CellError, NotApplicable
from metrics.agreement import PartAgreement
from metrics.calibration import Calibration
from metrics.cancellation import Cancellation
from metrics.compactness import Compactness
from metrics.contrastivity import Contrastivity
from metrics.cost import Cost
from metrics.deletion import Deletion
from metrics.duplication import Duplication
from metrics.fidelity import Fidelity
from metrics.localisation import PointingBox
from metrics.purity import Purity
from tests.oracle import plain_loops
from tests.support.ragged_model import CLASSES, COUNT, NAMES, SumOfMaps, case, measure
from tests.support.samples import TensorSamples

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
    broken = SumOfMaps(model.prototypes.classes, torch.full_like(model.clean, float("nan")), logits=model.answers)
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
    assert measure(Cancellation, SumOfMaps(owners, ones)).value == pytest.approx(1)
    ones[:, 1] = -0.9
    assert measure(Cancellation, SumOfMaps(owners, ones)).value == pytest.approx(19)
    with pytest.raises(NotApplicable, match="other than zero"):
        measure(Cancellation, SumOfMaps(owners, 0 * ones))


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


def test_a_frame_that_all_maps_have_makes_no_twins():
    """Cells that look beyond the image are always zeros; with them, these maps correlate by 0.97."""
    inner = 1 + 0.2 * torch.rand(COUNT, 5, 5, 5, generator=torch.Generator().manual_seed(1))
    framed = SumOfMaps(torch.ones(5, CLASSES).bool(), nn.functional.pad(inner, (1, 1, 1, 1)))
    assert measure(Duplication, framed).value == 100
    framed.border = 1
    assert measure(Duplication, framed).value == 0
    twins = SumOfMaps(torch.ones(5, CLASSES).bool(), nn.functional.pad(inner[:, [0, 0, 1, 2, 3]], (1, 1, 1, 1)))
    twins.border = 1
    assert measure(Duplication, twins).value == pytest.approx(40)


def test_constant_maps_repeat_each_other_and_nothing_else():
    owners = torch.tensor([[1, 1, 1, 1]] * 3).bool()
    maps = torch.rand(COUNT, 3, 7, 7)
    maps[:, 0], maps[:, 1] = 0.1, -5.0
    table = measure(Duplication, SumOfMaps(owners, maps)).items["prototype"]
    assert {p: set(table["repeated"][table["prototype"] == p].tolist()) for p in range(3)} == {0: {1}, 1: {1}, 2: {0}}


def test_prototypes_from_one_patch_count_as_sources():
    model = SumOfMaps(torch.tensor([[1, 1, 1, 1]] * 3).bool(), torch.rand(COUNT, 3, 7, 7))
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


def test_compactness_omits_classes_without_prototypes():
    model, split, _ = case()
    changed = TensorSamples(split.images, split.labels.clone(), CLASSES)
    changed.labels[::2] = 3  # the class without one
    found = measure(Compactness, model, changed)
    kept = changed.labels != 3
    assert found.n == int(kept.sum())
    assert found.items["image"]["needed"].tolist() == measure(Compactness).items["image"]["needed"][kept].tolist()


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


def adjusted_rand(pairs):
    """Hubert and Arabie's index from pairs of items: together in both, beyond chance."""
    one, two = [a for a, _ in pairs], [b for _, b in pairs]

    def together(values):
        return sum(comb(values.count(v), 2) for v in set(values))

    expected = together(one) * together(two) / comb(len(pairs), 2)
    return (together(pairs) - expected) / ((together(one) + together(two)) / 2 - expected)


def test_part_agreement():
    model, split, owned = case()
    classes, indices, everything = [], [], []
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
        indices.append(adjusted_rand(pairs))
        everything += pairs
    found = measure(PartAgreement)
    assert found.value == pytest.approx(100 * np.mean(classes))
    assert found.also["ari"] == pytest.approx(100 * np.mean(indices))
    assert found.also["overall"] == pytest.approx(100 * information(everything))


def test_a_part_per_prototype_agrees_wholly():
    _, split, _ = case()
    maps = torch.zeros(COUNT, 4, 7, 7)
    spots = [(16, 16), (16, 208), (208, 16), (208, 208)]
    for k, (y, x) in enumerate(spots):
        maps[:, k, y // 32, x // 32] = 1
    changed = TensorSamples(split.images, split.labels, CLASSES)
    changed.keypoints = torch.tensor([spots] * COUNT).double()
    changed.visible = torch.ones(COUNT, 4).bool()
    changed.parts = NAMES
    found = measure(PartAgreement, SumOfMaps(torch.ones(4, CLASSES).bool(), maps), changed)
    assert (found.value, found.also["ari"], found.also["overall"]) == (pytest.approx(100),) * 3
    changed.visible[:, 1:] = False
    with pytest.raises(NotApplicable, match="no class shows two parts"):
        measure(PartAgreement, SumOfMaps(torch.ones(4, CLASSES).bool(), maps), changed)


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


def test_cost_is_the_median_of_all_batches_but_the_first(monkeypatch):
    seconds = [50.0, 1.0, 2.0, 3.0, 100.0]
    clock = iter([time for second in seconds for time in (0.0, second)])
    monkeypatch.setattr("metrics.cost.perf_counter", lambda: next(clock))
    assert measure(Cost, batches=[[i] for i in range(5)]).value == 2500.0


def test_cost():
    found = measure(Cost, batches=[[0, 1], [2, 3]], fit_seconds=12.5)
    assert found.value > 0
    assert (found.n, found.also) == (4, {"parameters": 0.0, "fit": 12.5})
    with pytest.raises(NotApplicable, match="no test image"):
        measure(Cost, batches=[[]])


@pytest.mark.parametrize("kind", [Contrastivity, Duplication, PartAgreement])
def test_one_prototype_per_class_has_nothing_to_differ_from(kind):
    model = SumOfMaps(torch.eye(CLASSES).bool(), torch.rand(COUNT, CLASSES, 7, 7))
    with pytest.raises(NotApplicable, match="two prototypes"):
        measure(kind, model)


@pytest.mark.parametrize("kind", [Cancellation, Compactness, Contrastivity, Duplication, PartAgreement, Purity])
def test_no_prototypes(kind):
    with pytest.raises(NotApplicable):
        measure(kind, SumOfMaps(torch.zeros(0, CLASSES).bool(), torch.zeros(COUNT, 0, 7, 7)))


@pytest.mark.parametrize("kind", [*ALL, Deletion])
def test_no_test_images(kind):
    with pytest.raises(NotApplicable):
        measure(kind, batches=[[]])
