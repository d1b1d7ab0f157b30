import doctest
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

import metrics.consistency
from bench.contract import CellError, NotApplicable, PrototypeTable
from metrics.consistency import Consistency, consistent
from tests.support.scripted_model import ScriptedModel, images, same, score

CENTRE = 24  # the middle cell of a 7 x 7 map; its peak is (111, 111)


def hot(cells):
    """Maps ``(n, P, 7, 7)`` from cell numbers ``(n, P)``."""
    return torch.eye(49)[torch.tensor(cells)].unflatten(2, (7, 7))


def one_prototype(near, visible):
    """Images of one class whose prototype peaks in the middle; a part is hit if ``near``."""
    points = [[(111, 111) if is_near else (0, 0) for is_near in row] for row in near]
    model = ScriptedModel(torch.ones(1, 1, dtype=torch.bool), hot([[CENTRE]] * len(near)))
    return model, images(len(near)), [0] * len(near), points, visible


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics.consistency) == (0, 2)


@pytest.mark.parametrize(
    ("hits", "seen", "expected"),
    [
        (4, 5, True),
        (8, 10, True),
        (24, 30, True),
        (24, 29, True),
        (1, 1, True),
        (3, 4, False),
        (7, 9, False),
        (23, 29, False),
        (0, 0, False),
    ],
)
def test_the_threshold_is_reached_exactly(hits, seen, expected):
    assert bool(consistent(torch.tensor([hits]), torch.tensor([seen]))) is expected


@pytest.mark.parametrize("tenths", range(1, 11))
def test_every_decimal_threshold_is_meant_as_written(tenths):
    seen = torch.arange(1, 200) * 10
    assert consistent((seen * tenths // 10)[:, None], seen[:, None], tenths / 10).all()
    assert not consistent((seen * tenths // 10 - 1)[:, None], seen[:, None], tenths / 10).any()


def test_any_single_part_makes_a_prototype_consistent():
    hits = torch.tensor([[0, 5, 1], [3, 3, 3]])
    assert consistent(hits, torch.full((2, 3), 5)).tolist() == [True, False]


def test_only_images_that_show_the_part_count():
    # Part 0 is hit in both images that show it (of four); part 1 in 3 of 4.
    near = [[True, True], [True, True], [True, True], [True, False]]
    seen = [[True, True], [True, True], [False, True], [False, True]]
    result = score(Consistency, *one_prototype(near, seen))
    assert (result.value, result.n) == (100.0, 1)
    table = {name: column.tolist() for name, column in result.items["prototype"].items()}
    assert table == {
        "prototype": [0], "class": [0], "consistent": [1], "best_part": [0], "best_rate": [1.0], "images": [4],
    }  # fmt: skip


def test_four_of_five_is_consistent_and_three_of_four_is_not():
    for near, expected in [([True] * 4 + [False], 100.0), ([True] * 3 + [False], 0.0)]:
        result = score(Consistency, *one_prototype([[value] for value in near], [[True]] * len(near)))
        assert result.value == expected
        assert result.items["prototype"]["best_rate"].tolist() == [sum(near) / len(near)]


def test_a_class_that_shows_no_part_is_not_consistent():
    result = score(Consistency, *one_prototype([[True], [True]], [[False], [False]]))
    assert result.value == 0
    assert result.items["prototype"]["best_part"].tolist() == [-1]
    assert result.items["prototype"]["best_rate"].tolist() == [0.0]


def test_a_class_without_images_counts_as_not_consistent():
    model = ScriptedModel(torch.eye(4, dtype=torch.bool), hot([[CENTRE] * 4] * 2))
    result = score(Consistency, model, images(2), [1, 1], [[(111, 111)]] * 2, [[True]] * 2)
    assert (result.value, result.n) == (25.0, 4)
    assert result.items["prototype"]["images"].tolist() == [0, 2, 0, 0]
    assert result.items["prototype"]["consistent"].tolist() == [0, 1, 0, 0]


def test_a_shared_prototype_is_one_unit_per_class():
    # Prototype 0 speaks for classes 0 and 1 and hits in class 0 only; pooled over both it would fail.
    model = ScriptedModel(torch.tensor([[True, True], [False, True]]), hot([[CENTRE, CENTRE]] * 2))
    result = score(Consistency, model, images(2), [0, 1], [[(111, 111)], [(0, 0)]], [[True]] * 2)
    assert (result.value, result.n) == (100 / 3, 3)
    pooled = score(Consistency, model, images(2), [0, 1], [[(111, 111)], [(0, 0)]], [[True]] * 2, pooled=True)
    assert (pooled.value, pooled.n) == (0.0, 2)
    assert pooled.items["prototype"]["classes"].tolist() == [2, 1]
    table = result.items["prototype"]
    assert list(zip(*(table[name].tolist() for name in ("prototype", "class", "consistent")), strict=True)) == [
        (0, 0, 1), (0, 1, 0), (1, 1, 0),
    ]  # fmt: skip


def test_the_image_table_holds_peaks_in_the_order_of_the_split():
    model = ScriptedModel(torch.tensor([[True], [True]]), hot([[0, 24], [6, 48]]))
    result = score(Consistency, model, images(2), [0, 0], [[(0, 0)]] * 2, [[True]] * 2, batches=[[1], [0]])
    assert {name: column.tolist() for name, column in result.items["image"].items()} == {
        "index": [0, 0, 1, 1], "prototype": [0, 1, 0, 1], "class": [0] * 4,
        "row": [5, 111, 5, 218], "column": [5, 111, 218, 218],
    }  # fmt: skip


def test_order_and_size_of_batches_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (24,), generator=generator)
    model = ScriptedModel(torch.rand(9, 4, generator=generator) < 0.4, torch.rand(24, 9, 7, 7, generator=generator))
    points = torch.randint(0, 224, (24, 6, 2), generator=generator)
    data = images(24), labels, points, torch.rand(24, 6, generator=generator) < 0.7
    whole = score(Consistency, model, *data, threshold=0.4)
    assert 0 < whole.value < 100
    assert same(whole, score(Consistency, model, *data, threshold=0.4, batches=[[i] for i in range(24)]))
    shuffled = torch.randperm(24, generator=generator).split(7)
    assert same(whole, score(Consistency, model, *data, threshold=0.4, batches=shuffled))


def test_keypoints_of_smaller_images_are_moved_to_the_canvas():
    # In an image of side 64, 42.5 is row 148.75 of the canvas, truncated to 148: one below the region of 111.
    # 42.2 is 147.7, truncated to 147: inside.
    for row, expected in [(42.5, 0.0), (42.2, 100.0)]:
        model = ScriptedModel(torch.ones(1, 1, dtype=torch.bool), hot([[CENTRE]]))
        assert score(Consistency, model, images(1, size=64), [0], [[(row, 32)]], [[True]]).value == expected


def test_a_nan_map_is_refused_with_prototype_and_image():
    maps = torch.rand(3, 2, 7, 7)
    maps[2, 1, 4, 4] = float("nan")
    model = ScriptedModel(torch.ones(2, 1, dtype=torch.bool), maps)
    with pytest.raises(CellError, match=r"prototype 1 for test image 2 \(class 0\)"):
        score(Consistency, model, images(3), [0] * 3, [[(0, 0)]] * 3, [[True]] * 3)


@pytest.mark.parametrize("classes", [torch.zeros(0, 2), torch.zeros(3, 2)])
def test_a_model_without_prototypes_is_refused(classes):
    model = ScriptedModel(classes.bool(), torch.zeros(1, len(classes), 7, 7))
    with pytest.raises(NotApplicable, match="no prototype that speaks for a class"):
        score(Consistency, model, images(1), [0], [[(0, 0)]], [[True]])


def test_pooling_needs_a_prototype_of_two_classes():
    model = ScriptedModel(torch.eye(2).bool(), hot([[CENTRE] * 2]))
    with pytest.raises(NotApplicable, match="nothing to pool"):
        score(Consistency, model, images(1), [0], [[(0, 0)]], [[True]], pooled=True)


@pytest.mark.parametrize("variant", ["protopformer", "pixpnet"])
def test_variants_of_whole_images_refuse_crops(variant):
    cut = SimpleNamespace(parts=["back"], classes=1, protocol="bbox-224-truncated")
    with pytest.raises(NotApplicable, match=f"{variant} is defined on whole images"):
        Consistency(Consistency.Config(variant=variant), cut, PrototypeTable(torch.ones(1, 1)))


def test_pixpnet_class_without_some_part_is_inconsistent():
    data = one_prototype([[True, True]] * 2, [[True, False]] * 2)
    assert score(Consistency, *data, variant="v2").value == 100
    refused = score(Consistency, *data, variant="pixpnet")
    assert (refused.value, refused.also) == (0.0, {})
    # Under one name the visible side speaks for both.
    assert score(Consistency, *data, variant="pixpnet", names=["left eye", "right eye"]).also == {"soft": 100.0}


@pytest.mark.parametrize("value", [0.0, 3.5, -1.0])
def test_constant_maps_peak_in_the_corner(value):
    model = ScriptedModel(torch.ones(1, 1).bool(), torch.full((2, 1, 7, 7), value))
    near, far = [[(36, 36)]] * 2, [[(37, 0)]] * 2
    assert score(Consistency, model, images(2), [0, 0], near, [[True]] * 2).value == 100
    assert score(Consistency, model, images(2), [0, 0], far, [[True]] * 2).value == 0


def test_one_image_of_a_class_decides_alone():
    assert score(Consistency, *one_prototype([[True]], [[True]])).value == 100
    assert score(Consistency, *one_prototype([[False]], [[True]])).value == 0


@pytest.mark.parametrize(
    "settings", [{"threshold": 0}, {"threshold": 1.1}, {"half_size": -1}, {"size": 0}, {"variant": "v3"}, {"k": 3}]
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(ValidationError):
        Consistency.Config(**settings)
