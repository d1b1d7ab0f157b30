"""PixPNet as loops over numbers, written from Carmichael et al., WACV 2024; nothing is shared with ``baselines`` but
the weights."""

from math import ceil, exp, log, sqrt

import pytest
import torch
from torch import nn

from baselines import pixel_maps
from baselines.pixpnet import PixPNet, PixPNetLearner, PixPNetModel
from bench.config.schedule import Schedule
from tests.support.samples import Silent, SmallNet, TensorSamples

CLASSES, PER_CLASS, DEPTH, SIZE = 3, 2, 5, 32
COUNT = CLASSES * PER_CLASS


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PixPNetModel(SmallNet(), CLASSES, PER_CLASS, DEPTH, SIZE).eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def distances(model, images):
    """``[image][prototype][cell]``: one minus the cosine."""
    with torch.no_grad():
        z = model.add_on_layers(model.backbone(images)).double().flatten(2).mT.tolist()
    prototypes = model.prototype_vectors[:, :, 0, 0].double().tolist()
    return [[[1 - dot(u, p) / sqrt(dot(u, u)) / sqrt(dot(p, p)) for u in cells] for p in prototypes] for cells in z]


def similarity(d):
    return log(1 / (d + 1e-6) + 1)


def close(found, expected, tolerance=1e-3):
    torch.testing.assert_close(
        torch.as_tensor(found).double(), torch.tensor(expected).double(), rtol=tolerance, atol=tolerance
    )


def test_forward_maps_attribution_and_contributions(model, images):
    labels = torch.tensor([1, 0, 2, 1])
    with torch.no_grad():
        features = model.backbone(images)
        seen, own = model.explain(images), model.explain(images, labels)
        shown, exact = model.attribute(features, labels), model.contributions(features, labels)
    for i, rows in enumerate(distances(model, images)):
        maps = [[similarity(d) for d in row] for row in rows]
        top = [max(row) for row in maps]
        close(seen.maps[i].flatten(1), maps)
        close(seen.scores[i], top)
        close(seen.logits[i], [sum(top[c * PER_CLASS : (c + 1) * PER_CLASS]) for c in range(CLASSES)])
        mine = range(int(labels[i]) * PER_CLASS, (int(labels[i]) + 1) * PER_CLASS)
        assert own.indices[i].tolist() == list(mine)
        close(own.maps[i].flatten(1), [maps[j] for j in mine])
        close(shown[i].flatten(), [sum(maps[j][u] for j in mine) for u in range(16)])
        at_peaks = [0.0] * 16
        for j in mine:
            at_peaks[maps[j].index(top[j])] += top[j]
        close(exact[i].flatten(), at_peaks)


@pytest.mark.parametrize(("cluster", "separation"), [(0.0, 0.0), (0.8, 0.08)])
def test_losses(cluster, separation, model, images):
    labels = torch.tensor([0, 2, 1, 1])
    config = PixPNet.Config(cluster=cluster, separation=separation, schedule=Schedule(phases=[]))
    found = PixPNetLearner(model, config, Silent())(images, labels, "joint")
    expected = {"cross_entropy": 0.0, "cluster": 0.0, "separation": 0.0}
    for rows, label in zip(distances(model, images), labels.tolist(), strict=True):
        near = [min(row) for row in rows]
        logits = [sum(similarity(d) for d in near[c * PER_CLASS : (c + 1) * PER_CLASS]) for c in range(CLASSES)]
        expected["cross_entropy"] += (log(sum(map(exp, logits))) - logits[label]) / 4
        expected["cluster"] += min(d for j, d in enumerate(near) if j // PER_CLASS == label) / 4
        expected["separation"] += min(d for j, d in enumerate(near) if j // PER_CLASS != label) / 4
    for name, value in expected.items():
        close(found[name].detach(), value)
    total = expected["cross_entropy"] + cluster * expected["cluster"] - separation * expected["separation"]
    close(found["loss"].detach(), total)


@pytest.mark.parametrize("count", [150, 7])
def test_projection_takes_one_patch_of_an_image(count, model):
    """The released order: in a batch of 64 always the nearest pair that is left; a taken image gives nothing more."""
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    d = distances(model, images)
    with torch.no_grad():
        z = model.add_on_layers(model.backbone(images)).flatten(2)
    best, source = [float("inf")] * COUNT, [None] * COUNT
    for start in range(0, count, 64):
        open_images, open_rows = set(range(start, min(start + 64, count))), set(range(COUNT))
        while True:
            pairs = [
                (d[n][j][u], n, j, u)
                for n in sorted(open_images)
                for j in sorted(open_rows)
                if j // PER_CLASS == int(labels[n])
                for u in range(16)
            ]
            if not pairs:
                break
            distance, n, j, u = min(pairs)
            open_rows.remove(j)
            if distance < best[j]:
                best[j], source[j] = distance, (n, u)
                open_images.remove(n)
    before = model.prototype_vectors.detach().clone()
    learner = PixPNetLearner(model, PixPNet.Config(schedule=Schedule(phases=[])), Silent())
    learner.act("project", TensorSamples(images, labels, CLASSES))
    table = model.prototypes
    for j, place in enumerate(source):
        if place is None:
            assert int(table.source_image[j]) == -1
            assert torch.equal(model.prototype_vectors[j], before[j])
            continue
        n, u = place
        assert (int(table.source_image[j]), table.source_patch[j].tolist()) == (n, [u // 4, u % 4])
        torch.testing.assert_close(model.prototype_vectors[j, :, 0, 0], z[n, :, u])
    used = [place[0] for place in source if place]
    assert len(used) == len(set(used))


def kernel(side):
    """``[row][column]`` about the middle, deviation one side, divided by its largest value."""
    values = [exp(-0.5 * ((x - (side - 1) / 2) / side) ** 2) for x in range(side)]
    top = max(values) ** 2
    return [[a * b / top for b in values] for a in values]


def pixel_map(cells, fields, size, join):
    """The map of one prototype from its cells ``[row][column]`` and the fields of rows, which are those of columns."""
    longest = max(end - start for start, end in fields)
    large = [
        (i, k) for i, a in enumerate(fields) for k, b in enumerate(fields) if max(a[1] - a[0], b[1] - b[0]) >= size
    ]
    stretched = len(large) > 1
    middles = [round((i + 0.5) * size / len(fields)) for i in range(len(fields))]
    if stretched:
        longest += 2 * round(max(abs((size - 1) / 2 - middles[i]) for i, _ in large))
    weights = kernel(longest)

    def first(i):
        """The row of the kernel that is laid on the first pixel of the field."""
        start, end = fields[i]
        cut = longest - (end - start)
        if not stretched:
            return cut if end - longest < 0 else 0
        outside = max(longest // 2 - middles[i], 0)
        return outside + (size - (end - start) if end - start < size and start != 0 else 0)

    top = [[0.0] * size for _ in range(size)]
    total, reached = [[0.0] * size for _ in range(size)], [[0] * size for _ in range(size)]
    for i, (top_row, last_row) in enumerate(fields):
        for k, (left, right) in enumerate(fields):
            for y in range(top_row, last_row):
                for x in range(left, right):
                    value = cells[i][k] * weights[first(i) + y - top_row][first(k) + x - left]
                    top[y][x] = max(top[y][x], value)
                    total[y][x] += value
                    reached[y][x] += 1
    mean = [[t / max(n, 1) for t, n in zip(*rows, strict=True)] for rows in zip(total, reached, strict=True)]
    return {"max": top, "sum": total, "mean": mean}[join]


FIELDS = {
    "apart": [(0, 8), (8, 16), (16, 24), (24, 32)],
    "cut by the border": [(0, 9), (1, 17), (9, 25), (17, 32)],
    "as large as the image": [(0, 32)] * 4,
    "some as large as the image": [(0, 28), (0, 32), (0, 32), (4, 32)],
}


@pytest.mark.parametrize("join", ["max", "mean", "sum"])
@pytest.mark.parametrize("name", FIELDS)
def test_kernels_over_receptive_fields(name, join):
    fields = FIELDS[name]
    cells = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(3)) + 0.1
    rows, columns = pixel_maps.kernel_windows(fields, fields, 32)
    found = pixel_maps.spread(cells, rows, columns, join)
    for p in range(2):
        close(found[0, p], pixel_map(cells[0, p].tolist(), fields, 32, join), 1e-5)


def test_stretched_kernels_are_about_the_middles_of_equal_squares():
    rows, _ = pixel_maps.kernel_windows([(0, 224)] * 7, [(0, 224)] * 7, 224)
    assert rows.argmax(1).tolist() == [ceil((i + 0.5) * 32) - 1 for i in range(7)]


class Deep(nn.Module):
    channels = 4

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU6()),
        )  # fmt: skip

    def forward(self, images):
        return self.body(images)


def test_receptive_fields_are_those_of_the_arithmetic():
    """Kernel 3, stride 2, padding 1, twice, then kernel 3: cell i sees pixels 4 i - 7 to 4 i + 7 inside the image."""
    net = Deep()
    weights = [one.clone() for one in net.state_dict().values()]
    rows, columns = pixel_maps.receptive_fields(net, 32)
    assert rows == columns == [(max(4 * i - 7, 0), min(4 * i + 8, 32)) for i in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(weights, net.state_dict().values(), strict=True))
    assert pixel_maps.receptive_fields(SmallNet(), 32)[0] == [(8 * i, 8 * i + 8) for i in range(4)]


@pytest.mark.parametrize("display", ["max", "mean", "sum"])
def test_displayed_pixels(display, images):
    torch.manual_seed(0)
    model = PixPNetModel(SmallNet(), CLASSES, PER_CLASS, DEPTH, SIZE, display).eval()
    labels = torch.tensor([1, 0, 2, 1])
    with torch.no_grad():
        seen, shown = model.explain(images, labels), model.attribute(model.backbone(images), labels)
    fields = [(8 * i, 8 * i + 8) for i in range(4)]
    rows = distances(model, images)[0][PER_CLASS : 2 * PER_CLASS]
    cells = [[[similarity(d) for d in row[4 * i : 4 * i + 4]] for i in range(4)] for row in rows]
    maps = [pixel_map(one, fields, SIZE, display) for one in cells]
    close(seen.maps[0], maps)
    close(seen.scores[0], [max(map(max, one)) for one in cells])
    close(shown[0], (torch.tensor(maps[0]) + torch.tensor(maps[1])).tolist())
