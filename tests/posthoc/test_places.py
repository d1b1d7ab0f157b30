"""Decomposition at places apart from each other: exact, against plain loops, and on features with known places."""

import numpy as np
import pytest
import scipy.linalg
import torch

from bench.contract import CellError, RequestError
from bench.models.classifier import Classifier
from bench.posthoc.method import PostHocPPNPlaces
from bench.posthoc.places import PlacesConfig, discover, distances, exclusive, place_classes, reduce
from tests.support.samples import SmallNet, TensorSamples, stripes, task


class Given:
    """Features in memory as a source: one tensor ``(n, L, D)`` for each class."""

    def __init__(self, classes, grid):
        self.classes, self.grid, self.channels = classes, grid, classes[0].shape[2]
        self.reads = 0

    def count(self, label):
        return len(self.classes[label])

    def of(self, label):
        self.reads += 1
        before = sum(map(len, self.classes[:label]))
        return self.classes[label], torch.arange(before, before + len(self.classes[label]))


def random_source(grid=(3, 4), D=6, counts=(4, 5, 3)):
    g = torch.Generator().manual_seed(0)
    features = [torch.rand(n, grid[0] * grid[1], D, generator=g) + torch.rand(D, generator=g) for n in counts]
    return Given(features, grid), torch.randn(len(counts), D, generator=g)


def data_of(source, rows, components=64, limit=2**30):
    return reduce(source, rows, components, limit, torch.device("cpu"))


def apart_loops(maps, apart, grid):
    """Take the highest standardised value of one image's maps ``(L, k)`` again and again; far places first."""
    left = {(c, j): (maps[c, j] - maps[:, j].mean()) / maps[:, j].std(ddof=1) for c, j in np.ndindex(maps.shape)}
    taken = {}
    while len(taken) < maps.shape[1]:

        def far(c):
            row, column = divmod(c, grid[1])
            return all(max(abs(row - t // grid[1]), abs(column - t % grid[1])) >= apart for t in taken.values())

        c, j = max((at for at in left if at[1] not in taken), key=lambda at: (far(at[0]), left[at]))
        taken[j] = c
    return [taken[j] for j in range(maps.shape[1])]


def loops(source, rows, peaks, config, apart):
    """Compute all prototypes in the features' own coordinates, with the covariance's inverse."""
    F = np.concatenate([c.double().numpy() for c in source.classes])
    label = np.repeat(np.arange(len(source.classes)), [len(c) for c in source.classes])
    flat, v, k = F.reshape(-1, F.shape[2]), rows.double().numpy(), peaks.shape[1]
    S = np.cov(flat.T, bias=True)
    inverse = np.linalg.inv(S + config.ridge * np.diag(S).mean() * np.eye(len(S)))
    peaks = peaks.numpy().copy()
    for step in range(config.rounds + 1):
        means = np.zeros((len(v), k, F.shape[2]))
        for c in range(len(v)):
            centre = F[label == c].reshape(-1, F.shape[2]).mean(0)
            for j in range(k):
                means[c, j] = np.mean([F[i, peaks[i, j]] - centre for i in np.flatnonzero(label == c)], axis=0)
        result = np.zeros_like(means)
        for c in range(len(v)):
            x = F[label == c].reshape(-1, F.shape[2])
            d = (config.own * means[c] + (1 - config.own) * means.mean(0)) @ inverse
            maps = x @ d.T - (x @ d.T).mean(0)
            d /= np.linalg.norm(maps, axis=0)[:, None]
            d = np.linalg.inv(scipy.linalg.sqrtm(np.corrcoef(maps.T) + config.keep * np.eye(k))) @ d
            d /= np.linalg.norm(x @ d.T, axis=0)[:, None]
            d -= d.mean(0)
            size = np.linalg.norm(x @ d.T, axis=0).mean()
            result[c] = v[c] / k + config.strength * np.linalg.norm(x @ v[c]) / k / size * d
        if step < config.rounds:
            for i in range(len(F)):
                peaks[i] = apart_loops(F[i] @ result[label[i]].T, apart, source.grid)
    return torch.from_numpy(result)


@pytest.mark.parametrize("apart", [1, 2])
@pytest.mark.parametrize("rounds", [0, 2])
def test_equals_plain_loops(rounds, apart):
    source, rows = random_source()
    data = data_of(source, rows)
    peaks = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(i))[:3] for i in range(12)])
    config = PlacesConfig(rounds=rounds, ridge=0.5, own=0.7, keep=0.3)
    expected = loops(source, rows, peaks, config, apart)
    torch.testing.assert_close(place_classes(data, rows, peaks, config, apart), expected, rtol=1e-3, atol=1e-3)


def test_peaks_are_apart_where_the_grid_has_room():
    maps = torch.randn(50, 49, 5, generator=torch.Generator().manual_seed(0))
    steps = distances((7, 7))
    peaks = exclusive(maps, 2, steps)
    between = steps[peaks[:, :, None], peaks[:, None]] + 9 * torch.eye(5, dtype=torch.long)
    assert int(between.min()) >= 2
    # Four cells hold no five places: the last ones are taken twice, and of each map the highest cell that is left.
    crowded = exclusive(maps[:, :4], 1, distances((2, 2)))
    assert all(len(set(row)) == 4 for row in crowded.tolist())


def test_reading_features_twice_changes_nothing():
    source, rows = random_source()
    held = data_of(source, rows)
    assert source.reads == 3
    need = 3 * 4 * 12 * 12 * 6
    again = data_of(source, rows, limit=need)
    assert source.reads == 9
    assert torch.equal(held.Y, again.Y)
    with pytest.raises(RequestError, match="components=5 or fewer"):
        data_of(source, rows, limit=need - 1)


def test_finds_the_places_that_recur():
    """Two places of all classes, at random cells, on a ground that is like none."""
    g = torch.Generator().manual_seed(0)
    D, n, classes = 24, 20, 3
    parts = torch.eye(D)[:2] * 4
    cells = torch.stack([torch.randperm(25, generator=g)[:2] for _ in range(classes * n)])
    F = torch.rand(classes * n, 25, D, generator=g)
    F[torch.arange(len(F))[:, None], cells] += parts
    source = Given(list(F.split(n)), (5, 5))
    rows = torch.rand(classes, D, generator=g)
    data = data_of(source, rows)
    found = discover(data, 2, 1, 0, "margin", 0)
    assert ((found == cells).all(1) | (found == cells.flip(1)).all(1)).float().mean() > 0.95
    vectors = place_classes(data, rows, found, PlacesConfig(k=2), 1)
    peaks = torch.stack([(F[i].double() @ vectors[i // n].mT).argmax(0) for i in range(len(F))])
    assert (peaks.sort(1).values == cells.sort(1).values).all(1).float().mean() > 0.9


@pytest.mark.parametrize("k", [1, 3, 7])
def test_logits_are_the_black_boxes_and_a_second_fit_is_the_same(tmp_path, k):
    torch.manual_seed(0)
    samples, box = stripes(), Classifier(SmallNet(), 3).eval()
    work = task(tmp_path, samples, PlacesConfig(k=k), black_box=box)
    model, again = PostHocPPNPlaces().fit(work), PostHocPPNPlaces().fit(work)
    with torch.no_grad():
        assert torch.equal(model(samples.images), box(samples.images))
        assert float((model.vectors.sum(1) - box.head.weight.double()).abs().max()) <= 1e-12
        x = model.backbone(samples.images)
        shown = model.head(x, samples.labels).maps
        flat = x.flatten(2).mT
        for i, label in enumerate(samples.labels.tolist()):
            maps = flat[i] @ model.vectors[label].mT.float()
            torch.testing.assert_close(shown[i].flatten(1).mT, maps, rtol=1e-3, atol=1e-4)
        norms = [
            (flat[samples.labels == c].flatten(0, 1) @ model.vectors[c].mT.float()).norm(dim=0).sum()
            / (flat[samples.labels == c].flatten(0, 1) @ box.head.weight[c]).norm()
            for c in range(3)
        ]
    assert work.facts["cancellation"] == pytest.approx(float(sum(norms)) / 3, rel=1e-3)
    assert torch.equal(model.vectors, again.vectors)
    table = model.prototypes
    for j, (image, (row, column)) in enumerate(
        zip(table.source_image.tolist(), table.source_patch.tolist(), strict=True)
    ):
        assert int(samples.labels[image]) == j // k
        own = x[samples.labels == j // k]
        highest = torch.einsum("ndhw,d->nhw", own, model.vectors[j // k, j % k].float()).max()
        value = x[image, :, row, column] @ model.vectors[j // k, j % k].float()
        torch.testing.assert_close(value, highest, rtol=1e-3, atol=1e-4)


def test_a_class_without_images_is_an_error(tmp_path):
    samples = stripes()
    fewer = TensorSamples(samples.images, samples.labels.clamp(max=1), 3)
    with pytest.raises(CellError, match="class 2 has no training image"):
        PostHocPPNPlaces().fit(task(tmp_path, fewer, PlacesConfig(), black_box=Classifier(SmallNet(), 3).eval()))
