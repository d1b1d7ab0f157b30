"""Post-hoc methods: exact logits, errors for unusable input, results independent of the memory limit."""

import doctest

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.contract import CellError, RequestError, Sizes
from bench.models import fingerprint
from bench.models.classifier import Classifier
from bench.posthoc import intervention, pipeline, refinement, scaling
from bench.posthoc.method import BlackBox, PostHocPPN, PostHocPPNContrast
from bench.posthoc.solvers import lbfgs, nmf
from tests.support.samples import SmallNet, TensorSamples, stripes, task


def ragged():
    """Return classes of 12, 9 and 4 images, so that padding depends on the other classes of a chunk."""
    samples = stripes()
    keep = torch.cat([torch.arange(12), torch.arange(12, 21), torch.arange(24, 28)])
    return TensorSamples(samples.images[keep], samples.labels[keep], 3)


def black_box(classes=3, seed=0):
    torch.manual_seed(seed)
    return Classifier(SmallNet(), classes).eval()


@pytest.mark.parametrize("refinement", ["naive", "lbfgs", "nelder-mead"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_logits_are_the_black_boxes_to_the_bit(tmp_path, refinement, k):
    samples, box = stripes(), black_box()
    model = PostHocPPN().fit(task(tmp_path, samples, PostHocPPN.Config(k=k, refinement=refinement), black_box=box))
    with torch.no_grad():
        assert torch.equal(model(samples.images), box(samples.images))
        explanation = model.explain(samples.images)
        # Completeness: the scores of a class's prototypes and the bias add up to its logit.
        total = explanation.scores.unflatten(1, (3, k)).sum(2) + box.head.bias
        torch.testing.assert_close(total, explanation.logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.vectors.sum(1).float(), box.head.weight)


def test_naive_split_is_equations_3_to_7(tmp_path):
    """The naive split follows from the factorisation alone (equations 3 to 7)."""
    from bench.posthoc.solvers.nmf import factorise

    samples, box = stripes(), black_box()
    work = task(tmp_path, samples, PostHocPPN.Config(k=2, refinement="naive"), black_box=box)
    model = PostHocPPN().fit(work)
    with torch.no_grad():
        features = box.backbone(samples.images[samples.labels == 1])
    F = features.permute(0, 2, 3, 1).reshape(1, -1, 16)
    P = factorise(F, torch.tensor([F.shape[1]]), 2, seed=0, classes=[1], init="nndsvd").P[0].double()
    v = box.head.weight[1].detach().double()
    alpha = torch.linalg.lstsq(P.T, v).solution
    R = v - alpha @ P
    expected = alpha[:, None] * P + (alpha / alpha.sum())[:, None] * R
    torch.testing.assert_close(model.vectors[1], expected, rtol=1e-3, atol=1e-4)


def test_maps_are_features_times_prototypes(tmp_path):
    samples, box = stripes(), black_box()
    model = PostHocPPN().fit(task(tmp_path, samples, PostHocPPN.Config(k=2), black_box=box))
    with torch.no_grad():
        x = model.backbone(samples.images[:5])
        own = model.head(x, samples.labels[:5])
        everything = model.head(x)
        attribution = model.attribute(x, samples.labels[:5])
    vectors = model.vectors.float()
    for n in range(5):
        for i in range(2):
            expected = sum(x[n, d] * vectors[samples.labels[n], i, d] for d in range(16))
            torch.testing.assert_close(own.maps[n, i], expected, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(everything.maps[n, own.indices[n, i]], expected, rtol=1e-3, atol=1e-4)
        logit = attribution[n].sum() + model.bias[samples.labels[n]]
        torch.testing.assert_close(logit, everything.logits[n, samples.labels[n]], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", [PostHocPPN.Config(), PostHocPPNContrast.Config()], ids=["ours", "contrast"])
def test_chunks_do_not_change_a_bit_of_the_result(tmp_path, config, monkeypatch):
    samples, box = ragged(), black_box()
    wide = PostHocPPN().fit(task(tmp_path / "wide", samples, config, black_box=box))
    one_class = 16 * 12 * 16 * 16  # four copies in 4 bytes of 12 images, 16 cells and 16 channels
    sizes = chunk_sizes(monkeypatch)
    narrow = PostHocPPN().fit(task(tmp_path / "narrow", samples, config, black_box=box, memory_limit=one_class))
    assert sizes == [1, 1, 1]
    assert torch.equal(narrow.vectors, wide.vectors)
    with pytest.raises(RequestError, match=r"class 0: its 12 images need .* raise the limit"):
        PostHocPPN().fit(task(tmp_path / "tight", samples, config, black_box=box, memory_limit=one_class - 1))


def chunk_sizes(monkeypatch):
    """Return a list that records the number of classes of each later call."""
    sizes, real = [], pipeline.decompose_classes

    def counted(config, F, *rest):
        sizes.append(len(F))
        return real(config, F, *rest)

    monkeypatch.setattr(pipeline, "decompose_classes", counted)
    return sizes


def test_interrupted_fit_resumes_at_its_class(tmp_path, monkeypatch):
    samples, box = ragged(), black_box()
    limit = 16 * 12 * 16 * 16
    whole = PostHocPPN().fit(task(tmp_path / "whole", samples, PostHocPPN.Config(), black_box=box))
    seen, real = [], pipeline.decompose_classes

    def breaks(config, F, rows, v, grid, seed, classes):
        seen.extend(classes)
        if seen == [0, 1]:
            raise KeyboardInterrupt
        return real(config, F, rows, v, grid, seed, classes)

    monkeypatch.setattr(pipeline, "decompose_classes", breaks)
    with pytest.raises(KeyboardInterrupt):
        PostHocPPN().fit(task(tmp_path / "cut", samples, PostHocPPN.Config(), black_box=box, memory_limit=limit))
    again = PostHocPPN().fit(task(tmp_path / "cut", samples, PostHocPPN.Config(), black_box=box, memory_limit=limit))
    assert seen == [0, 1, 1, 2]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("refinement", ["none", "lbfgs"])
def test_classes_of_another_black_box_are_discarded(tmp_path, refinement):
    samples, config = stripes(), PostHocPPN.Config(refinement=refinement)
    PostHocPPN().fit(task(tmp_path / "one", samples, config, black_box=black_box(seed=1)))
    (tmp_path / "one" / "classes" / "class-00002.safetensors").unlink()
    other = PostHocPPN().fit(task(tmp_path / "one", samples, config, black_box=black_box()))
    fresh = PostHocPPN().fit(task(tmp_path / "two", samples, config, black_box=black_box()))
    assert torch.equal(other.vectors, fresh.vectors)


@pytest.mark.parametrize("weight", [1e-9, 1e-12, 1e-30, 0.0])
@pytest.mark.parametrize("method", [PostHocPPN, PostHocPPNContrast])
def test_tiny_weight_is_met_up_to_rounding(tmp_path, method, weight):
    samples, box = stripes(), black_box()
    with torch.no_grad():
        box.head.weight[1, 5] = weight
        model = method().fit(task(tmp_path, samples, method.Config(), black_box=box))
        assert float((model.rows - box.head.weight).abs().max()) < 1e-12
        torch.testing.assert_close(model(samples.images), box(samples.images), rtol=0, atol=1e-6)


def test_a_prototype_that_misses_the_row_is_an_error(tmp_path, monkeypatch):
    real = pipeline.decompose_classes

    def spoilt(*given):
        parts, numbers = real(*given)
        parts[0, 0, 3] += 1e-4
        return parts, numbers

    monkeypatch.setattr(pipeline, "decompose_classes", spoilt)
    with pytest.raises(CellError, match=r"do not sum to the classifier's rows \(largest difference 0.0001\)"):
        PostHocPPN().fit(task(tmp_path, stripes(), PostHocPPN.Config(), black_box=black_box()))


def test_memory_of_convex_factors_counts_row_products(tmp_path):
    samples, box = stripes(), black_box()
    rows, channels = 12 * 16, 16
    config = PostHocPPN.Config(k=2, factorisation="convex")
    limit = 16 * rows * (channels + rows)
    PostHocPPN().fit(task(tmp_path / "enough", samples, config, black_box=box, memory_limit=limit))
    with pytest.raises(RequestError, match=r"class 0: its 12 images need .* images_per_class=11"):
        PostHocPPN().fit(task(tmp_path / "tight", samples, config, black_box=box, memory_limit=limit - 1))


def test_rows_follow_prototypes_and_weights(tmp_path):
    samples, box = stripes(), black_box()
    model = PostHocPPN().fit(task(tmp_path, samples, PostHocPPN.Config(k=2), black_box=box))
    assert torch.equal(model.rows, box.head.weight)
    assert model.rows is model.rows
    model.weights[0] = 0  # in place
    torch.testing.assert_close(model.rows[0].double(), model.prototypes.vectors[1], rtol=1e-6, atol=1e-7)
    assert torch.equal(model.rows[1:], box.head.weight[1:])
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    assert not model.rows.any()
    assert model.double().rows.dtype == torch.float64


def test_refinement_lowers_the_objective(tmp_path):
    work = task(tmp_path, stripes(), PostHocPPN.Config(), black_box=black_box())
    PostHocPPN().fit(work)
    assert set(work.facts) == set(PostHocPPN.tells) == set(PostHocPPNContrast.tells)
    assert work.facts["objective"] < 0.9 * work.facts["objective_naive"]
    assert work.facts["cancellation"] >= 1
    assert 0 < work.facts["nmf_relative_error"] < 1


def test_without_refinement_the_prototypes_are_the_scaled_ones(tmp_path):
    """They do not sum to the rows; the missing share is recorded."""
    samples, box = stripes(), black_box()
    work = task(tmp_path, samples, PostHocPPN.Config(k=2, refinement="none"), black_box=box)
    model = PostHocPPN().fit(work)
    full = PostHocPPN().fit(task(tmp_path / "full", samples, PostHocPPN.Config(k=2, refinement="naive"), black_box=box))
    rows = box.head.weight.detach().double()
    left = rows - model.vectors.sum(1)
    assert work.facts["residual_share"] == pytest.approx((left.norm(dim=1) / rows.norm(dim=1)).mean().item())
    assert work.facts["residual_share"] > 0.1
    assert "objective" not in work.facts
    # The naive split adds multiples of what is missing, nothing else.
    added = full.vectors - model.vectors
    along = (added @ left[:, :, None]) / left.square().sum(1)[:, None, None]
    torch.testing.assert_close(added, along * left[:, None], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"nmf_solver": "hals", "nmf_init": "nndsvd", "space": "span"},
        {"factorisation": "semi", "norm": "zscore"},
        {"factorisation": "convex", "norm": "minmax", "norm_over": "image", "space": "span"},
        {"scaling": "nonnegative", "norm": "zscore", "norm_over": "image", "space": "span"},
    ],
)
def test_every_option_keeps_the_logits(tmp_path, options):
    samples, box = stripes(), black_box()
    work = task(tmp_path, samples, PostHocPPN.Config(**options), black_box=box)
    model = PostHocPPN().fit(work)
    with torch.no_grad():
        assert torch.equal(model(samples.images), box(samples.images))
    assert work.facts["objective"] < work.facts["objective_naive"]


def test_sources_are_the_strongest_cells(tmp_path):
    samples, box = stripes(), black_box()
    model = PostHocPPN().fit(task(tmp_path, samples, PostHocPPN.Config(k=2), black_box=box))
    with torch.no_grad():
        maps = model.explain(samples.images).maps
    table = model.prototypes
    for j in range(6):
        image, (row, column) = int(table.source_image[j]), table.source_patch[j].tolist()
        assert samples.labels[image] == j // 2
        own = maps[samples.labels == j // 2, j]
        assert maps[image, j, row, column] >= own.max() - 1e-4


@pytest.mark.parametrize("factorisation", ["nmf", "semi", "convex"])
def test_negative_features(tmp_path, factorisation):
    samples, box = stripes(), black_box()
    box.backbone.body = box.backbone.body[:-1]  # without the last ReLU
    with torch.no_grad():
        assert (box.backbone(samples.images) < 0).any()
    model = PostHocPPN().fit(
        task(tmp_path, samples, PostHocPPN.Config(k=2, factorisation=factorisation), black_box=box)
    )
    with torch.no_grad():
        assert torch.equal(model(samples.images), box(samples.images))


def test_a_class_without_images_is_named(tmp_path):
    samples = stripes()
    gap = TensorSamples(samples.images[samples.labels != 1], samples.labels[samples.labels != 1], 3)
    with pytest.raises(CellError, match="class 1 has no training image"):
        PostHocPPN().fit(task(tmp_path, gap, PostHocPPN.Config(), black_box=black_box()))


@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "class 2: features are not finite"), (0.0, "class 2: all")]
)
def test_unusable_features_name_the_class(tmp_path, value, message):
    samples, box = stripes(), black_box()

    class Spoilt(SmallNet):
        def forward(self, images):
            features = super().forward(images)
            hit = (images[:, 2].flatten(1).mean(1) > 0.3)[:, None, None, None]  # class 2 is bright in channel 2
            return torch.where(hit, torch.full_like(features, value), features)

    box.backbone = Spoilt().eval()
    with pytest.raises(CellError, match=message):
        PostHocPPN().fit(task(tmp_path, samples, PostHocPPN.Config(), black_box=box))


def test_single_image_classes_and_more_prototypes_than_images(tmp_path):
    samples = stripes(per_class=1)
    box = black_box()
    model = PostHocPPN().fit(task(tmp_path, samples, PostHocPPN.Config(k=3), black_box=box))
    with torch.no_grad():
        assert torch.equal(model(samples.images), box(samples.images))


def test_k_above_the_rank_is_refused_before_anything_runs():
    sizes = Sizes(classes=3, images_per_class=2, channels=100, cells=4)
    PostHocPPN.check(PostHocPPN.Config(k=8), sizes)
    with pytest.raises(RequestError, match=r"ours.k=9 exceeds the rank .* at most 8"):
        PostHocPPN.check(PostHocPPN.Config(k=9), sizes)
    with pytest.raises(RequestError, match=r"a class has no training image .* data verify"):
        PostHocPPN.check(PostHocPPN.Config(k=1), Sizes(classes=3, images_per_class=0, channels=100, cells=4))


def test_saved_model_loads_into_build(tmp_path):
    samples, box = stripes(), black_box()
    work = task(tmp_path, samples, PostHocPPN.Config(k=2), black_box=box)
    model = PostHocPPN().fit(work)
    other = PostHocPPN().build(work)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(samples.images), model(samples.images))


def test_black_box_row_is_the_classifier(tmp_path):
    samples, box = stripes(), black_box()
    model = BlackBox().fit(task(tmp_path, samples, BlackBox.Config(), black_box=box))
    with torch.no_grad():
        assert torch.equal(model(samples.images), box(samples.images))
        explanation = model.explain(samples.images, samples.labels)
    assert explanation.maps.shape[1] == 1


class Drawn(torch.nn.Module):
    """Backbone that returns its input: images are their features."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, images):
        return images


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    channels=st.integers(1, 9),
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    side=st.integers(1, 4),
    k=st.integers(1, 5),
    refinement=st.sampled_from(["naive", "lbfgs", "contrast"]),
    space=st.sampled_from(["full", "span"]),
    solver=st.sampled_from([("mu", "random"), ("hals", "nndsvd")]),
    zero_row=st.booleans(),
    dead_channel=st.booleans(),
    signed=st.booleans(),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 2**31),
)
def test_exact_for_random_shapes(
    tmp_path_factory,
    channels,
    counts,
    side,
    k,
    refinement,
    space,
    solver,
    zero_row,
    dead_channel,
    signed,
    scale,
    seed,
):
    """Random shapes and ranks, k above the number of images, single images, dead channels, zero rows, any sign."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(counts), channels, side, side, generator=generator)
    if not signed:
        x = x.clamp(min=0)
    if dead_channel and channels > 1:
        x[:, 1] = 0
    x[:, 0, 0, 0] += 1  # no class is zero everywhere
    x[:, 0, 0, 0] = x[:, 0, 0, 0].abs() + 0.1
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    box = Classifier(Drawn(channels), len(counts)).eval()
    with torch.no_grad():
        box.head.weight.copy_(scale * torch.randn(box.head.weight.shape, generator=generator))
        if zero_row:
            box.head.weight[0] = 0
    config = PostHocPPN.Config(k=k, refinement=refinement, space=space, nmf_solver=solver[0], nmf_init=solver[1])
    folder = tmp_path_factory.mktemp("drawn")
    work = task(folder, TensorSamples(x, labels, len(counts)), config, black_box=box)
    model = PostHocPPN().fit(work)
    with torch.no_grad():
        assert torch.equal(model(x), box(x))
        explanation = model.explain(x)
        total = explanation.scores.unflatten(1, (len(counts), k)).sum(2) + box.head.bias
    size = explanation.scores.abs().sum(1, keepdim=True) + 1
    assert ((total - explanation.logits).abs() <= 1e-4 * size).all()
    assert torch.equal(model.vectors.sum(1).float(), box.head.weight)


@pytest.mark.parametrize(
    "module",
    [fingerprint, intervention, pipeline, refinement, scaling, lbfgs, nmf],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_examples_of_docstrings(module):
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
