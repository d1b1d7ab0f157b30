"""CRAFT's crops and importance against plain loops, and the closed form against the published sampling."""

import pytest
import torch

from baselines.craft import CRAFT, crops, total_indices
from bench.models.classifier import Classifier
from tests.support.samples import SmallNet, stripes, task


def halton(count, dimensions):
    """Points of the unscrambled sequence, the first all zeros: digits of n mirrored, one prime base each."""
    primes = [n for n in range(2, 60) if all(n % d for d in range(2, n))][:dimensions]
    points = []
    for n in range(count):
        point = []
        for base in primes:
            value, scale, left = 0.0, 1.0 / base, n
            while left:
                left, digit = divmod(left, base)
                value, scale = value + digit * scale, scale / base
            point.append(value)
        points.append(point)
    return points


def test_importance_is_what_the_published_sampling_tends_to():
    """Jansen's estimate: A, B, and A with one column of B; variance with n - 1."""
    gains, bias, count = [0.8, -2.0, 1.1], 0.3, 6000
    points = halton(count, 6)

    def logit(mask):
        return sum(m * g for m, g in zip(mask, gains, strict=True)) + bias

    plain = [logit(point[:3]) for point in points]
    mean = sum(plain) / count
    variance = sum((value - mean) ** 2 for value in plain) / (count - 1)
    sampled = []
    for i in range(3):
        swapped = [logit([*point[:i], point[3 + i], *point[i + 1 : 3]]) for point in points]
        squares = sum((a - c) ** 2 for a, c in zip(plain, swapped, strict=True))
        sampled.append(squares / (2 * count * variance))
    assert total_indices(torch.tensor([gains]))[0].tolist() == pytest.approx(sampled, abs=5e-3)


def test_importance_ignores_the_sign():
    index = total_indices(torch.tensor([[1.0, -3.0, 2.0], [0.0, 0.0, 0.0]]))
    assert index[0].argmax() == 1
    assert torch.equal(index, total_indices(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])))
    assert index[1].tolist() == [0, 0, 0]


def test_crops_begin_every_51_pixels_row_by_row():
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found = crops(images, 64)
    assert found.shape == (32, 3, 224, 224)
    for n in range(2):
        for i, top in enumerate((0, 51, 102, 153)):
            for j, left in enumerate((0, 51, 102, 153)):
                cut = images[n : n + 1, :, top : top + 64, left : left + 64]
                large = torch.nn.functional.interpolate(cut, (224, 224), mode="bilinear", align_corners=False)
                torch.testing.assert_close(found[16 * n + 4 * i + j], large[0])


@torch.no_grad()
def test_concepts_are_ranked_by_the_mean_index(tmp_path):
    torch.manual_seed(5)
    samples, box = stripes(), Classifier(SmallNet(), 3).eval()
    work = task(tmp_path, samples, CRAFT.Config(k=3), black_box=box)
    model, first = CRAFT().fit(work), []
    for label in range(3):
        of_class = torch.full((12,), label)
        contributions = model.explain(samples.images[samples.labels == label], of_class).scores.tolist()
        shares = [[g * g / sum(x * x for x in row) for g in row] for row in contributions]
        means = [sum(column) / 12 for column in zip(*shares, strict=True)]
        assert means == sorted(means, reverse=True)
        first.append(sum(row[0] for row in contributions) < 0)
    assert work.facts["first_negative"] == pytest.approx(100 * sum(first) / 3)


def test_fewer_images_are_drawn_from_the_seed(tmp_path):
    torch.manual_seed(5)
    samples, box = stripes(), Classifier(SmallNet(), 3).eval()
    fits = [
        CRAFT().fit(task(tmp_path, samples, CRAFT.Config(k=2, images_per_class=3), black_box=box, seed=seed))
        for seed in (0, 0, 1)
    ]
    first, again, other = (model.prototypes.vectors for model in fits)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
