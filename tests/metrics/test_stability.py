import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from bench.contract import CellError, Explanation, NotApplicable, PartPrototypeModel, PrototypeTable
from metrics.noise import gaussian_noise
from metrics.stability import Stability
from tests.support.scripted_model import ScriptedModel, images, same, score


def hot(cells):
    """Maps ``(n, P, 7, 7)`` from cell numbers ``(n, P)``."""
    return torch.eye(49)[torch.tensor(cells)].unflatten(2, (7, 7))


class Pooled(PartPrototypeModel):
    """Shows the colours of the image itself, so that noise moves its peaks as it would any model's."""

    def __init__(self, classes):
        super().__init__()
        self.backbone, self.prototypes = nn.Identity(), PrototypeTable(classes)

    def head(self, features, classes=None):
        maps = adaptive_avg_pool2d(features, 7)
        maps = torch.cat((maps, -maps), 1)[:, : len(self.prototypes)]
        rows = None if classes is None else self.prototypes.of(classes)
        maps = maps if rows is None else self.pick(maps, rows)
        logits = features.new_zeros(len(features), self.prototypes.classes.shape[1])
        return Explanation(logits, maps, maps.amax((2, 3)), rows)

    def attribute(self, features, classes):
        return self.head(features, classes).maps.sum(1)


@pytest.fixture
def pooled():
    """A model, ten images of three classes, and their annotations."""
    generator = torch.Generator().manual_seed(1)
    classes = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]).bool()
    return (
        Pooled(classes),
        torch.randn(10, 3, 28, 28, generator=generator) / 4,
        torch.randint(0, 3, (10,), generator=generator),
        torch.rand(10, 15, 2, generator=generator) * 28,
        torch.rand(10, 15, generator=generator) < 0.8,
    )


def one_prototype(clean, noisy, points, visible=None):
    """Images of one class whose prototype peaks in cells ``clean``, and in cells ``noisy`` when there is noise."""
    model = ScriptedModel(torch.ones(1, 1).bool(), hot([[cell] for cell in clean]), hot([[cell] for cell in noisy]))
    visible = [[True] * len(row) for row in points] if visible is None else visible
    return model, images(len(clean)), [0] * len(clean), points, visible


def test_one_part_swapped_for_another_is_not_stable():
    # Cell 0 peaks at (5, 5), cell 48 at (218, 218): one hit before, one after. The signed sum of version 1 is zero.
    points = [[(0, 0), (220, 220)]]
    assert score(Stability, *one_prototype([0], [48], points)).value == 0
    assert score(Stability, *one_prototype([0], [48], points), variant="pixpnet").value == 0
    assert score(Stability, *one_prototype([0], [48], points), variant="v1").value == 100
    assert score(Stability, *one_prototype([0], [0], points)).value == 100


def test_a_moved_peak_that_hits_the_same_parts_is_stable():
    assert score(Stability, *one_prototype([24], [25], [[(111, 127), (0, 0)]])).value == 100


def test_images_without_a_hit_are_stable():
    assert score(Stability, *one_prototype([0], [48], [[(111, 111)]])).value == 100
    assert score(Stability, *one_prototype([0], [48], [[(0, 0)]], [[False]])).value == 100


def test_the_share_of_images_by_hand():
    # Stable, lost, stable: 2 of 3.
    result = score(Stability, *one_prototype([0, 0, 48], [0, 48, 48], [[(0, 0)]] * 3))
    assert result.value == pytest.approx(200 / 3, abs=1e-12)
    assert result.n == 1
    assert result.items["prototype"]["stable"].tolist() == [2 / 3]
    assert result.items["image"]["stable"].tolist() == [1.0, 0.0, 1.0]


def test_pairs_count_alike_however_many_images_they_have():
    # Class 0: one stable image. Class 1: three images, none stable. Class 2: no image, so no share: left out.
    model = ScriptedModel(
        torch.eye(3).bool(), hot([[0] * 3] * 4), hot([[0] * 3] + [[48] * 3] * 3),
    )  # fmt: skip
    result = score(Stability, model, images(4), [0, 1, 1, 1], [[(0, 0)]] * 4, [[True]] * 4)
    assert (result.value, result.n) == (50.0, 2)
    assert result.items["prototype"]["class"].tolist() == [0, 1]
    assert result.items["prototype"]["images"].tolist() == [1, 3]


def test_version_1_averages_over_images_then_classes():
    # Class 0: prototypes 0 and 1, one image, one of two stable. Class 1: prototype 2, one image, stable.
    model = ScriptedModel(
        torch.tensor([[1, 0], [1, 0], [0, 1]]).bool(), hot([[0, 0, 0]] * 2), hot([[0, 48, 0]] * 2),
    )  # fmt: skip
    data = model, images(2), [0, 1], [[(0, 0)]] * 2, [[True]] * 2
    assert score(Stability, *data, variant="v1").value == 75
    assert score(Stability, *data, variant="v2").value == pytest.approx(200 / 3)


def test_noise_is_clipped_as_in_the_variant():
    clips = {variant: Stability.Config(variant=variant).clip for variant in ("v2", "v1", "pixpnet")}
    assert clips == {"v2": 0.25, "v1": None, "pixpnet": None}
    assert Stability.Config(variant="v1", clip=0.1).clip == 0.1
    index = torch.arange(3)
    free = gaussian_noise(index, (1, 50, 50), sigma=0.2, clip=None)
    assert free.abs().max() > 0.5
    assert torch.equal(free.clamp(-0.25, 0.25), gaussian_noise(index, (1, 50, 50), sigma=0.2, clip=0.25))


def test_soft_stability_by_hand():
    # Hits before and after: {0, 1} and {0}; PixPNet's region of cell 0, whose centre is (16, 16), ends before 52.
    points = [[(0, 0), (51, 0)]]
    model = ScriptedModel(torch.ones(1, 1).bool(), hot([[0]]), hot([[0]]))
    model.noisy = hot([[24]])  # centre (112, 112), from 76 on
    data = model, images(1), [0], [[(0, 0), (51, 51), (76, 76)]], [[True] * 3]
    assert score(Stability, *data, variant="pixpnet").also["soft"] == 0.0
    assert score(Stability, *one_prototype([0], [0], points), variant="pixpnet").also["soft"] == 100.0
    assert score(Stability, *one_prototype([0], [0], [[(200, 200)]]), variant="pixpnet").also == {"empty": 100.0}


def test_order_and_size_of_batches_do_not_matter(pooled):
    whole = score(Stability, *pooled, draws=2)
    assert 0 < whole.value < 100
    assert same(whole, score(Stability, *pooled, draws=2, batches=[[i] for i in range(10)]))
    assert same(whole, score(Stability, *pooled, draws=2, batches=[[7, 2, 9], [0, 1, 8, 4], [6, 5, 3]]))


def test_positions_without_a_part_count_separately():
    """Of two images one is hit and changes; the other hits nothing, before and after: stable, and empty."""
    found = score(Stability, *one_prototype([24, 0], [0, 0], [[(111, 111)], [(200, 200)]]))
    assert found.items["image"]["hit"].tolist() == [1, 0]
    assert found.value == 50
    assert found.also == {"empty": 50.0, "where_hit": 0.0}


def test_several_draws_are_averaged_and_kept(pooled):
    result = score(Stability, *pooled, draws=3)
    values = result.items["draw"]["value"]
    assert result.items["draw"]["draw"].tolist() == [0, 1, 2]
    assert result.value == pytest.approx(values.mean(), abs=1e-12)
    assert len(set(values.tolist())) > 1
    assert values[0] == score(Stability, *pooled).value
    assert result.items["prototype"]["stable"].mean() * 100 == pytest.approx(result.value, abs=1e-9)


def test_the_seed_changes_the_noise(pooled):
    assert score(Stability, *pooled, draws=3).items["draw"]["value"].tolist() == (
        score(Stability, *pooled, draws=3, seed=0).items["draw"]["value"].tolist()
    )
    one, other = (score(Stability, *pooled, draws=3, seed=seed).items["image"]["stable"] for seed in (0, 1))
    assert (one != other).any()


def test_without_noise_everything_is_stable(pooled):
    assert score(Stability, *pooled, sigma=0).value == 100


def test_the_noise_is_added_to_the_normalised_image(pooled):
    taken = []

    class Watching(Pooled):
        def explain(self, images, classes=None):
            taken.append((images, classes))
            return super().explain(images, classes)

    model, pictures, labels, *rest = pooled
    score(Stability, Watching(model.prototypes.classes), pictures, labels, *rest)
    [(noisy, classes)] = taken
    assert torch.equal(classes, labels)
    expected = gaussian_noise(torch.arange(10), (3, 28, 28), sigma=0.2, clip=0.25, seed=0, draw=0)
    assert torch.equal(noisy, pictures + expected)


def test_a_model_that_changes_its_prototypes_is_refused():
    class Fickle(ScriptedModel):
        def head(self, features, classes=None):
            shown = super().head(features, classes)
            flip = bool((features[:, 0, 0, 1] != 0).any())
            return Explanation(shown.logits, shown.maps, shown.scores, shown.indices.flip(1) if flip else shown.indices)

    model = Fickle(torch.ones(2, 1).bool(), hot([[0, 1]]))
    with pytest.raises(CellError, match="other prototypes"):
        score(Stability, model, images(1), [0], [[(0, 0)]], [[True]])


def test_nothing_to_score_is_refused():
    none = ScriptedModel(torch.zeros(0, 2).bool(), torch.zeros(1, 0, 7, 7))
    with pytest.raises(NotApplicable, match="no prototype that speaks for a class"):
        score(Stability, none, images(1), [0], [[(0, 0)]], [[True]])
    other = ScriptedModel(torch.tensor([[False, True]]), torch.zeros(1, 1, 7, 7))
    with pytest.raises(NotApplicable, match="no test image"):
        score(Stability, other, images(1), [0], [[(0, 0)]], [[True]])


@pytest.mark.parametrize(
    "settings",
    [
        {"draws": 0},
        {"sigma": -1},
        {"clip": -0.1},
        {"seed": -1},
        {"size": 0},
        {"k": 3},
        {"variant": "protopformer"},
        {"variant": "v1", "pooled": True},
    ],
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(ValidationError):
        Stability.Config(**settings)
