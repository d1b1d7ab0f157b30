"""Plain functions give the numbers of the streaming classes."""

import doctest

import pytest
import torch

import metrics
from metrics import consistency_score, functional, stability_score
from metrics.consistency import Consistency
from metrics.stability import Stability
from tests.support.scripted_model import ScriptedModel, images, score

CLASSES, PER_CLASS, PARTS, COUNT = 4, 3, 5, 60


@pytest.fixture
def shown():
    """Maps of all prototypes for images of a few classes, clean and noisy, with annotations."""
    generator = torch.Generator().manual_seed(3)
    owned = torch.eye(CLASSES, dtype=torch.bool).repeat_interleave(PER_CLASS, 0)
    maps = torch.rand(COUNT, len(owned), 7, 7, generator=generator)
    maps[:, :, 3, 3] += 1.5 * torch.rand(COUNT, len(owned), generator=generator)
    noisy = maps + 0.3 * torch.rand(maps.shape, generator=generator)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
    points = 224 * torch.rand(COUNT, PARTS, 2, generator=generator, dtype=torch.float64)
    points[:, 0] = 112.0
    visible = torch.rand(COUNT, PARTS, generator=generator) < 0.8
    return owned, maps, noisy, labels, points, visible


def own(maps, labels):
    return torch.stack([maps[i, label * PER_CLASS : (label + 1) * PER_CLASS] for i, label in enumerate(labels)])


def test_consistency_score_is_that_of_the_class(shown):
    owned, maps, _, labels, points, visible = shown
    for threshold in (0.5, 0.8):
        expected = score(
            Consistency, ScriptedModel(owned, maps), images(COUNT), labels, points, visible, threshold=threshold
        )
        assert consistency_score(own(maps, labels), labels, points, visible, threshold=threshold) == expected.value


def test_stability_score_is_that_of_the_class(shown):
    owned, maps, noisy, labels, points, visible = shown
    expected = score(Stability, ScriptedModel(owned, maps, noisy), images(COUNT), labels, points, visible)
    value = stability_score(own(maps, labels), own(noisy, labels), labels, points, visible)
    assert 0 < value < 100
    assert value == pytest.approx(expected.value, abs=1e-9)


def test_a_class_without_images_is_not_consistent(shown):
    _, maps, _, labels, points, visible = shown
    whole = consistency_score(own(maps, labels), labels, points, visible, threshold=0.3)
    more = consistency_score(own(maps, labels), labels, points, visible, threshold=0.3, classes=2 * CLASSES)
    assert more == pytest.approx(whole / 2)


def test_no_images_are_refused():
    nothing = torch.zeros(0, 1, 7, 7)
    with pytest.raises(ValueError, match="of no images"):
        consistency_score(nothing, torch.zeros(0).long(), torch.zeros(0, 1, 2), torch.zeros(0, 1).bool())


def test_examples_run_and_names_are_exported():
    assert doctest.testmod(functional).failed == 0
    assert all(callable(getattr(metrics, name)) for name in metrics.__all__)
