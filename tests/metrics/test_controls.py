import doctest
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

import metrics.controls
from bench.contract import CellError, FitContext, Method
from metrics.consistency import Consistency
from metrics.controls import Center, Constant, Random, fingerprint, train_consistency
from metrics.parts import peaks
from metrics.stability import Stability
from tests.support.scripted_model import score


def make_task(method, train=None, seed=0, **settings):
    train = train or SimpleNamespace(classes=3, parts=["a"], size=224)
    return FitContext(
        config=method.Config(**settings), train=train, seed=seed, device=torch.device("cpu"),
        backbone=None, black_box=None, trainer=None, progress=None,
    )  # fmt: skip


def split(rows, labels, size=224, classes=2):
    """A training split with one always visible part per image, at ``rows``."""
    return SimpleNamespace(
        labels=torch.tensor(labels), keypoints=torch.tensor(rows, dtype=torch.float64)[:, None],
        visible=torch.ones(len(rows), 1, dtype=torch.bool), size=size, classes=classes, parts=["a"],
    )  # fmt: skip


PICTURES = torch.randn(40, 3, 20, 20, generator=torch.Generator().manual_seed(0))
HOT_7 = [5, 47, 79, 111, 143, 175, 218]


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics.controls) == (0, 1)


@pytest.mark.parametrize("method", [Constant, Center, Random])
def test_controls_say_that_they_classify_nothing(method):
    assert issubclass(method, Method)
    assert method.predicts is False
    assert method.needs_backbone is False


def test_center_peaks_in_the_middle_of_any_image():
    model = Center().fit(make_task(Center))
    shown = model.explain(PICTURES, torch.arange(40) % 3)
    assert (peaks(shown.maps) == 112).all()
    assert shown.indices.tolist() == [[i % 3] for i in range(40)]
    assert shown.maps.shape == (40, 1, 224, 224)
    assert shown.maps.untyped_storage().nbytes() == 224 * 224 * 4
    assert torch.equal(model(PICTURES), torch.zeros(40, 3))
    assert model.explain(PICTURES).maps.shape[1] == len(model.prototypes) == 3
    assert model.attribute(PICTURES, torch.zeros(40).long()).sum((1, 2)).tolist() == [1] * 40


def test_constant_takes_the_pixel_that_most_classes_agree_on():
    # Two classes keep their part near (160, 40); the third moves it about.
    train = split(
        [(160, 40), (170, 44), (150, 30), (165, 50), (0, 0), (220, 220)], [0, 0, 1, 1, 2, 2], classes=3,
    )  # fmt: skip
    task = make_task(Constant, train)
    model = Constant().fit(task)
    # Rows from 134 to 186 and columns up to 66 reach all four; of the grid the largest are 176 and 64.
    assert task.facts == {"row": 176, "column": 64, "train_consistency": pytest.approx(200 / 3)}
    assert peaks(model.explain(PICTURES[:2], torch.tensor([0, 2])).maps).tolist() == [[[176, 64]]] * 2


def test_constant_breaks_ties_by_row_before_column():
    # One part in the middle of the top edge, one half-way down the left edge: the second allows larger rows.
    task = make_task(Constant, split([(0, 200), (100, 0)], [0, 1]))
    Constant().fit(task)
    assert (task.facts["row"], task.facts["column"]) == (128, 32)
    assert task.facts["train_consistency"] == 50


def test_constant_counts_empty_class_and_scales_small_images():
    # Row 32 of 64 is 112 on the canvas: the grid reaches it from 80 to 144, and columns from 0 to 32.
    task = make_task(Constant, split([(32, 0)], [1], size=64, classes=4), grid=32)
    Constant().fit(task)
    assert task.facts == {"row": 128, "column": 32, "train_consistency": 25.0}


def test_train_consistency_is_that_of_the_metric():
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 6, (40,), generator=generator)
    homes = torch.randint(40, 180, (6, 4, 2), generator=generator)[labels]
    train = SimpleNamespace(
        labels=labels, size=224, classes=6, parts=["a"] * 4,
        keypoints=(homes + torch.randint(-30, 30, (40, 4, 2), generator=generator)).double(),
        visible=torch.rand(40, 4, generator=generator) < 0.8,
    )  # fmt: skip
    pixels = torch.cartesian_prod(torch.arange(0, 224, 16), torch.arange(0, 224, 16))  # more than one chunk
    counts = train_consistency(train, pixels)
    assert counts.shape == (196,)
    assert counts.unique().numel() >= 4
    for place in (0, 70, 90, int(counts.argmax()), 195):
        model = Constant().build(make_task(Constant, train))
        model.place.pixel.copy_(pixels[place])
        found = score(Consistency, model, torch.zeros(40, 1, 1, 224), train.labels, train.keypoints, train.visible)
        assert found.value == pytest.approx(100 * int(counts[place]) / 6)


def test_constant_needs_keypoints():
    train = SimpleNamespace(classes=2, parts=[], size=224)
    with pytest.raises(CellError, match="key-points"):
        Constant().fit(make_task(Constant, train))


def test_random_depends_on_image_and_prototype_only():
    model = Random().fit(make_task(Random))
    labels = torch.arange(40) % 3
    whole = model.explain(PICTURES, labels)
    assert whole.maps.shape == (40, 10, 7, 7)
    assert torch.equal(whole.maps.sum((2, 3)), torch.ones(40, 10))
    for at in ([3], [17, 4, 39], list(range(39, -1, -1))):
        assert torch.equal(model.explain(PICTURES[at], labels[at]).maps, whole.maps[at])
    full = model.explain(PICTURES).maps
    assert torch.equal(full[torch.arange(40)[:, None], whole.indices], whole.maps)


def test_random_cells_are_uniform_and_independent():
    cells = Random().fit(make_task(Random, per_class=20)).explain(PICTURES).maps.flatten(2).argmax(2)  # 40 x 60
    counts = cells.flatten().bincount(minlength=49).double()
    assert (((counts - 2400 / 49) ** 2) / (2400 / 49)).sum() < 85  # chi-squared, 48 degrees: 99.9 % lie below
    assert abs((cells[1:] == cells[:-1]).double().mean() - 1 / 49) < 0.012  # other images
    assert abs((cells[:, 1:] == cells[:, :-1]).double().mean() - 1 / 49) < 0.012  # other prototypes


def test_random_is_redrawn_for_noise_and_another_seed():
    cells = Random().fit(make_task(Random)).explain(PICTURES).maps.flatten(2).argmax(2)
    nudged = PICTURES.clone()
    nudged[:, 2, 19, 19] += 1e-6
    for other in (
        Random().fit(make_task(Random)).explain(nudged),
        Random().fit(make_task(Random, seed=1)).explain(PICTURES),
    ):
        assert abs((other.maps.flatten(2).argmax(2) == cells).double().mean() - 1 / 49) < 0.016


def test_random_per_prototype_ignores_the_image():
    model = Random().fit(make_task(Random, per="prototype", per_class=30))
    found = peaks(model.explain(PICTURES[:5]).maps)
    assert (found == found[:1]).all()
    assert len(found[0].unique(dim=0)) > 30  # of 90 prototypes in 49 cells
    assert set(found.flatten().tolist()) == set(HOT_7)
    other = Random().fit(make_task(Random, seed=1, per="prototype", per_class=30))
    assert (peaks(other.explain(PICTURES[:1]).maps) != found[:1]).any()


def test_fingerprints_depend_on_pixel_positions():
    assert len(fingerprint(PICTURES).unique()) == 40
    assert (fingerprint(PICTURES) != fingerprint(PICTURES.flip(3))).all()
    assert torch.equal(fingerprint(PICTURES[5:6]), fingerprint(PICTURES)[5:6])


@pytest.mark.parametrize(
    ("method", "settings"), [(Constant, {}), (Center, {}), (Random, {}), (Random, {"per": "prototype", "per_class": 4})]
)
def test_a_saved_control_is_the_same_when_loaded(method, settings):
    train = split([(160, 40), (30, 200)], [0, 1])
    fitted = method().fit(make_task(method, train, seed=3, **settings))
    loaded = method().build(make_task(method, train, seed=4, **settings))
    loaded.load_state_dict(load(save(fitted.state_dict())))
    assert not loaded.training
    labels = torch.arange(40) % 2
    for one, other in [
        (fitted.explain(PICTURES, labels), loaded.explain(PICTURES, labels)),
        (fitted.explain(PICTURES), loaded.explain(PICTURES)),
    ]:
        assert torch.equal(one.maps, other.maps)


def test_stability_of_controls():
    generator = torch.Generator().manual_seed(2)
    pictures = torch.randn(40, 3, 1, 224, generator=generator)
    annotations = torch.arange(40) % 3, torch.rand(40, 15, 2, generator=generator) * 224, torch.ones(40, 15).bool()
    assert score(Stability, Center().fit(make_task(Center)), pictures, *annotations).value == 100
    fixed = Random().fit(make_task(Random, per="prototype"))
    assert score(Stability, fixed, pictures, *annotations).value == 100
    assert score(Stability, Random().fit(make_task(Random)), pictures, *annotations).value < 40


@pytest.mark.parametrize(("method", "settings"), [
    (Constant, {"grid": 0}), (Constant, {"grid": 225}), (Random, {"per_class": 0}), (Random, {"per": "class"}),
    (Center, {"row": 3}),
])  # fmt: skip
def test_settings_without_meaning_are_refused(method, settings):
    with pytest.raises(ValidationError):
        method.Config(**settings)
