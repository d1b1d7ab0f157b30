"""Context Cluster against plain loops over numbers, written from the paper's formulas; nothing is shared with ``bench``
but the weights. Points of a map are lists ``[row][column][feature]``.
"""

from math import ceil, erf, exp, floor, sqrt

import pytest
import torch
from torch import nn

from bench.models.context_cluster import Block, Cluster, ContextCluster, Stage


def plain(state, prefix=""):
    return {key.removeprefix(prefix): value.tolist() for key, value in state.items() if key.startswith(prefix)}


def linear(weight, bias, point):
    return [b + sum(w * x for w, x in zip(row, point, strict=True)) for row, b in zip(weight, bias, strict=True)]


def pointwise(weight, bias, points):
    """A 1x1 convolution ``[out][in][1][1]`` or a linear layer ``[out][in]`` at every point."""
    flat = [[w[0][0] if isinstance(w, list) else w for w in row] for row in weight]
    return [[linear(flat, bias, point) for point in row] for row in points]


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sqrt(sum(x * x for x in a)) * sqrt(sum(x * x for x in b)))


def mean(vectors):
    return [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]


def cluster(points, weights, *, heads, regions, centers):
    """Section 3.2: in every region and head, clustering, equation 1 (with counted members), equation 2."""
    place, value = (pointwise(weights[f"{name}.weight"], weights[f"{name}.bias"], points) for name in "fv")
    alpha, beta = weights["sim_alpha"][0], weights["sim_beta"][0]
    height, width = len(points), len(points[0])
    size = len(place[0][0]) // heads
    result = [[[None] * (heads * size) for _ in range(width)] for _ in range(height)]
    members_seen = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for top in range(0, height, height // regions):
            for left in range(0, width, width // regions):
                h, w = height // regions, width // regions
                members = [(top + row, left + column) for row in range(h) for column in range(w)]
                grid = []
                for i in range(centers):
                    for j in range(centers):
                        grid.append(
                            [
                                (top + row, left + column)
                                for row in range(floor(i * h / centers), ceil((i + 1) * h / centers))
                                for column in range(floor(j * w / centers), ceil((j + 1) * w / centers))
                            ]
                        )
                starts = [mean([place[r][c][part] for r, c in cell]) for cell in grid]
                totals = [mean([value[r][c][part] for r, c in cell]) for cell in grid]
                counts, owner, strength = [1] * len(grid), {}, {}
                for r, c in members:
                    similar = [1 / (1 + exp(-(beta + alpha * cosine(start, place[r][c][part])))) for start in starts]
                    best = max(range(len(grid)), key=lambda m: similar[m])
                    owner[r, c], strength[r, c] = best, similar[best]
                    counts[best] += 1
                    totals[best] = [t + similar[best] * v for t, v in zip(totals[best], value[r][c][part], strict=True)]
                for r, c in members:
                    center = [t / counts[owner[r, c]] for t in totals[owner[r, c]]]
                    result[r][c][part] = [strength[r, c] * x for x in center]
                members_seen.append(counts)
    return pointwise(weights["proj.weight"], weights["proj.bias"], result), members_seen


def norm(points, weight, bias):
    """All features of all points of an image share one mean and one variance."""
    everything = [x for row in points for point in row for x in point]
    middle = sum(everything) / len(everything)
    spread = sqrt(sum((x - middle) ** 2 for x in everything) / len(everything) + 1e-5)
    scaled = zip(weight, bias, strict=True)
    pairs = list(scaled)
    return [
        [[(x - middle) / spread * w + b for x, (w, b) in zip(point, pairs, strict=True)] for point in row]
        for row in points
    ]


def perceptron(points, weights):
    hidden = pointwise(weights["fc1.weight"], weights["fc1.bias"], points)
    hidden = [[[x * (1 + erf(x / sqrt(2))) / 2 for x in point] for point in row] for row in hidden]
    return pointwise(weights["fc2.weight"], weights["fc2.bias"], hidden)


def add(points, scale, others):
    return [
        [
            [x + s * y for x, s, y in zip(*three, strict=True)]
            for three in zip(row, [scale] * len(row), other, strict=True)
        ]
        for row, other in zip(points, others, strict=True)
    ]


def under(weights, prefix):
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def block(points, weights, **sizes):
    normed = norm(points, weights["norm1.weight"], weights["norm1.bias"])
    points = add(points, weights["layer_scale_1"], cluster(normed, under(weights, "token_mixer."), **sizes)[0])
    normed = norm(points, weights["norm2.weight"], weights["norm2.bias"])
    return add(points, weights["layer_scale_2"], perceptron(normed, under(weights, "mlp.")))


def reduce_points(points, weight, bias, *, stride, padding):
    kernel, height, width = len(weight[0][0]), len(points), len(points[0])
    result = []
    for top in range(-padding, height + padding - kernel + 1, stride):
        row = []
        for left in range(-padding, width + padding - kernel + 1, stride):
            new = list(bias)
            for out, planes in enumerate(weight):
                for i in range(kernel):
                    for j in range(kernel):
                        if 0 <= top + i < height and 0 <= left + j < width:
                            seen = points[top + i][left + j]
                            new[out] += sum(planes[k][i][j] * x for k, x in enumerate(seen))
            row.append(new)
        result.append(row)
    return result


def as_points(tensor):
    return tensor.permute(1, 2, 0).tolist()


def as_tensor(points):
    return torch.tensor(points, dtype=torch.float64).permute(2, 0, 1)


def randomised(module, seed):
    """Every parameter away from its starting value, so that one left out would show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            spread = 0.3 if parameter.ndim > 1 else 1.0
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
            if name.endswith("sim_alpha"):
                parameter.copy_(torch.tensor([2.5]))
    return module.double().eval()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


CASES = {
    "one region": (Stage(1, 5, 2, heads=2, head_channels=3, regions=1, centers=2), (4, 4)),
    "regions": (Stage(1, 4, 2, heads=1, head_channels=4, regions=2, centers=2), (8, 4)),
    "regions and heads": (Stage(1, 3, 3, heads=3, head_channels=2, regions=2, centers=2), (4, 8)),
    "uneven centre cells": (Stage(1, 4, 2, heads=2, head_channels=3, regions=1, centers=3), (7, 5)),
    "fewer points than centres": (Stage(1, 4, 1, heads=2, head_channels=2, regions=1, centers=4), (3, 3)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_cluster(case, seed):
    stage, (height, width) = CASES[case]
    module = randomised(Cluster(stage), seed)
    images = torch.randn(2, stage.channels, height, width, dtype=torch.float64)
    with torch.no_grad():
        found = module(images)
    sizes = {"heads": stage.heads, "regions": stage.regions, "centers": stage.centers}
    for image, ours in zip(images, found, strict=True):
        expected, counts = cluster(as_points(image), plain(module.state_dict()), **sizes)
        torch.testing.assert_close(ours, as_tensor(expected), rtol=1e-9, atol=1e-9)
        # The case is worth its name: points do choose, and not all alike.
        assert any(sum(count > 1 for count in region) > 1 for region in counts)


def test_block():
    stage = Stage(1, 4, 3, heads=2, head_channels=3, regions=2, centers=2)
    module = randomised(Block(stage), seed=2)
    image = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        found = module(image)[0]
    expected = block(as_points(image[0]), plain(module.state_dict()), heads=2, regions=2, centers=2)
    torch.testing.assert_close(found, as_tensor(expected), rtol=1e-9, atol=1e-9)


def test_network():
    """Coordinates, both reducers, blocks in their order, the last norm, and a head on the mean."""
    stages = (Stage(2, 4, 2, 2, 2, regions=2, centers=2), Stage(1, 6, 1, 1, 3, regions=1, centers=2))
    module = randomised(ContextCluster(stages), seed=3)
    image = torch.randn(1, 3, 16, 32, dtype=torch.float64)
    weights = plain(module.state_dict())
    points = [
        [[*image[0, :, row, column].tolist(), row / 15 - 0.5, column / 31 - 0.5] for column in range(32)]
        for row in range(16)
    ]
    points = reduce_points(
        points, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4, padding=0
    )
    points = block(points, under(weights, "network.0.0."), heads=2, regions=2, centers=2)
    points = block(points, under(weights, "network.0.1."), heads=2, regions=2, centers=2)
    points = reduce_points(
        points, weights["network.1.proj.weight"], weights["network.1.proj.bias"], stride=2, padding=1
    )
    points = block(points, under(weights, "network.2.0."), heads=1, regions=1, centers=2)
    points = norm(points, weights["norm.weight"], weights["norm.bias"])
    head = nn.Linear(6, 3).double()
    with torch.no_grad():
        found = module(image)
        logits = head(found.mean((2, 3)))[0]
    assert found.shape == (1, 6, 2, 4)
    # The coordinates are counted in single precision.
    torch.testing.assert_close(found[0], as_tensor(points), rtol=1e-5, atol=1e-6)
    expected = linear(head.weight.tolist(), head.bias.tolist(), mean([point for row in points for point in row]))
    torch.testing.assert_close(logits, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)
