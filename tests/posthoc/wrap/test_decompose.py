"""`decompose` on anyone's classifier: exact for whatever shapes, honest about what it cannot do, resumable."""

import copy
import logging

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bench.posthoc.pipeline as classwise
from bench.contract import CellError, RequestError
from bench.posthoc import decompose
from bench.posthoc.decompose_class import DecompositionConfig
from tests.support.classifiers import QUICK, C, check, data_parallel, images, loader, net
from tests.support.samples import Silent, TensorSamples, stripes


@pytest.mark.parametrize("norm", [None, nn.LayerNorm(8), nn.BatchNorm1d(8)])
@pytest.mark.parametrize("k", [1, 3])
def test_logits_are_the_classifiers_and_maps_add_up_to_them(norm, k):
    classifier = net(norm=norm)
    x, labels = images()
    model = decompose(classifier, loader(x, labels), k)
    check(model, classifier, x)
    assert isinstance(model, nn.Module)
    assert not model.training
    assert model.facts["completeness_residual"] < 1e-5
    assert model.facts["top1_changed"] == 0
    assert model.facts["images"] == 20
    assert model.facts["row_residual"] < 1e-14
    assert model.facts["maps_residual"] < 1e-4
    if norm is None:
        assert torch.equal(model.vectors.sum(1).float(), classifier[-1].weight)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {}),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}),
        ("vit_tiny_patch16_224", {"img_size": 64, "global_pool": "avg", "depth": 1}),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 1, 1), "window_size": 2}),
    ],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_models_of_timm(name, options, precision):
    torch.manual_seed(0)
    classifier = timm.create_model(name, num_classes=3, **options).to(precision)
    x, labels = images(3, 2, size=64)
    model = decompose(classifier, loader(x, labels), 2, config=QUICK)
    check(model, classifier, x.to(precision), rtol=1e-4 if precision == torch.float32 else 5e-2)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    channels=st.integers(3, 12),
    k=st.integers(1, 3),
    per_class=st.integers(1, 3),
    size=st.integers(7, 20),
    zero_row=st.booleans(),
    dead_channel=st.booleans(),
    negative=st.booleans(),
    normed=st.booleans(),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    seed=st.integers(0, 2**31),
)
def test_exact_whatever_the_shapes(channels, k, per_class, size, zero_row, dead_channel, negative, normed, scale, seed):
    classifier = net(
        channels, 3, nn.Tanh() if negative else nn.ReLU(), seed, nn.LayerNorm(channels) if normed else None
    )
    with torch.no_grad():
        # An offset keeps at least one channel of each class alive; the second may be dead.
        classifier[0].bias[0] += 3
        if dead_channel:
            classifier[0].weight[1] = 0
            classifier[0].bias[1] = 0 if negative else -1
        classifier[-1].weight *= scale
        if zero_row:
            classifier[-1].weight[1] = 0
    x, labels = images(3, per_class, seed, max(size, 11))
    model = decompose(classifier, loader(x, labels, 4), k, config=QUICK)
    check(model, classifier, x)


def test_more_prototypes_than_images():
    classifier = net()
    x, labels = images(per_class=1)
    check(decompose(classifier, loader(x, labels), 6, config=QUICK), classifier, x)
    with pytest.raises(CellError, match="class 0: k=9 exceeds the rank of its features, at most 8"):
        decompose(classifier, loader(x, labels), 9)


def test_classes_do_not_depend_on_each_other():
    classifier = net()
    x, labels = images()
    whole = decompose(classifier, loader(x, labels), 2)
    other = x.clone()
    other[labels != 2] = other[labels != 2].flip(0) * 0.5
    changed = decompose(classifier, loader(other, labels), 2)
    torch.testing.assert_close(changed.vectors[2], whole.vectors[2], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(changed.vectors[1], whole.vectors[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["single", "half"])
def test_memory_limit_changes_only_where_features_are(precision):
    classifier = net()
    x, labels = images()
    free = decompose(classifier, loader(x, labels), 2, config=QUICK)
    cells, images_of_a_class = 16, 4
    tight = decompose(
        classifier,
        loader(x, labels),
        2,
        config=QUICK,
        memory_limit=4 * (4 * 4 * cells * 8 * images_of_a_class) // 3 + 1,
        precision=precision,
    )
    tolerance = 1e-5 if precision == "single" else 3e-2
    torch.testing.assert_close(tight.vectors, free.vectors, rtol=tolerance, atol=tolerance)
    check(tight, classifier, x)
    with pytest.raises(RequestError, match=r"class 0: its 4 images need .* use at most images_per_class=3"):
        decompose(classifier, loader(x, labels), 2, memory_limit=4 * (4 * 4 * cells * 8 * 4) // 3 - 2)


def test_images_per_class_takes_the_first_ones():
    classifier = net()
    x, labels = images()
    first = torch.cat([(labels == label).nonzero()[:2, 0] for label in range(C)]).sort().values
    few = decompose(classifier, loader(x, labels), 2, config=QUICK, images_per_class=2)
    same = decompose(classifier, loader(x[first], labels[first]), 2, config=QUICK)
    torch.testing.assert_close(few.vectors, same.vectors, rtol=1e-4, atol=1e-6)
    assert few.facts["images"] == 20  # verified on all of them


def test_sources_are_the_strongest_cells():
    classifier = net()
    x, labels = images()
    model = decompose(classifier, loader(x, labels), 2)
    with torch.no_grad():
        maps = model.explain(x).maps
    for j in range(2 * C):
        i, (row, column) = int(model.prototypes.source_image[j]), model.prototypes.source_patch[j].tolist()
        assert labels[i] == j // 2
        assert maps[i, j, row, column] >= maps[labels == j // 2, j].max() - 1e-4


def test_an_interrupted_decomposition_goes_on_where_it_stopped(tmp_path, monkeypatch):
    classifier = net()
    x, labels = images()
    whole = decompose(classifier, loader(x, labels), 2, config=QUICK, memory_limit=11000)
    real, seen = classwise.decompose_classes, []

    def breaks(config, F, rows, v, cells, seed, classes):
        if 3 in classes and not seen.count("broken"):
            seen.append("broken")
            raise KeyboardInterrupt
        seen.extend(classes)
        return real(config, F, rows, v, cells, seed, classes)

    monkeypatch.setattr(classwise, "decompose_classes", breaks)
    passes = []

    class Counted(DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                passes.append(1)
                yield batch

    data = Counted(TensorDataset(x, labels), 6)
    with pytest.raises(KeyboardInterrupt):
        decompose(classifier, data, 2, config=QUICK, memory_limit=11000, folder=tmp_path)
    assert seen == [0, 1, 2, "broken"]
    assert len(passes) == 4
    progress = Silent()
    model = decompose(classifier, data, 2, config=QUICK, memory_limit=11000, folder=tmp_path, progress=progress)
    assert seen == [0, 1, 2, "broken", 3, 4]
    assert len(passes) == 9  # one batch to verify the split, and all to compare them; features are not computed again
    assert any("3 of 5 classes need no work" in note for note in progress.notes)
    assert torch.equal(model.vectors, whole.vectors)
    assert model.facts == whole.facts
    assert not (tmp_path / "features.bin").exists()
    again = decompose(classifier, data, 2, config=QUICK, memory_limit=11000, folder=tmp_path)
    assert torch.equal(again.vectors, whole.vectors)
    assert seen == [0, 1, 2, "broken", 3, 4]


def test_interrupted_while_features_were_gathered(tmp_path):
    classifier = net()
    x, labels = images()

    def stops():
        yield x[:8], labels[:8]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        decompose(classifier, stops(), 2, config=QUICK, folder=tmp_path)
    model = decompose(classifier, loader(x, labels), 2, config=QUICK, folder=tmp_path)
    assert torch.equal(model.vectors, decompose(classifier, loader(x, labels), 2, config=QUICK).vectors)


def test_loaders_of_any_kind():
    classifier = net(classes=3)
    samples = stripes(size=18)
    expected = decompose(classifier, list(samples.batches(7)), 2, config=QUICK).vectors
    once = (batch for batch in samples.batches(7))  # a generator, which can be read once only
    assert torch.equal(decompose(classifier, once, 2, config=QUICK).vectors, expected)
    pairs = [[batch.images, batch.labels.tolist(), "more"] for batch in samples.batches(7)]
    assert torch.equal(decompose(classifier, pairs, 2, config=QUICK).vectors, expected)
    wrapped = data_parallel(classifier)
    assert torch.equal(decompose(wrapped, pairs, 2, config=QUICK).vectors, expected)


def test_empty_batches_say_nothing():
    classifier = net()
    x, labels = images()
    none = (x[:0], labels[:0])
    expected = decompose(classifier, [(x, labels)], 2, config=QUICK).vectors
    for batches in ([none, (x, labels)], [(x[:7], labels[:7]), none, (x[7:], labels[7:]), none]):
        torch.testing.assert_close(decompose(classifier, batches, 2, config=QUICK).vectors, expected)


def test_a_classifier_that_cannot_run_is_named():
    classifier = timm.create_model("resnet10t", num_classes=2, global_pool="")
    x, labels = images(2, 3, size=64)
    with pytest.raises(RequestError, match=r"ResNet does not run on images \(6, 3, 64, 64\): mat1 and mat2"):
        decompose(classifier, loader(x, labels), 2)


def test_errors_name_the_class_and_say_what_to_do():
    classifier = net()
    x, labels = images()
    gap = labels != 3
    names = ["ant", "bee", "cat", "dog", "eel"]
    with pytest.raises(CellError, match=r"class 3 \(dog\) has no image .* missing='keep'"):
        decompose(classifier, loader(x[gap], labels[gap]), 2, class_names=names)
    kept = decompose(classifier, loader(x[gap], labels[gap]), 2, config=QUICK, missing="keep")
    check(kept, classifier, x)
    torch.testing.assert_close(kept.vectors[3], (classifier[-1].weight[3].double() / 2).expand(2, -1))
    broken = x.clone()
    broken[5, 0, 4, 4] = float("nan")
    with pytest.raises(CellError, match=rf"class {labels[5]}: features of image 5 are not finite"):
        decompose(classifier, loader(broken, labels), 2)
    dark = net(last=nn.Threshold(0.0, 0.0))
    with torch.no_grad():
        dark[0].bias.fill_(-1)
    zero = x.clone()
    zero[labels == 2] = 0
    with pytest.raises(CellError, match=r"class 2 \(cat\): all its features are zero or below"):
        decompose(dark, loader(zero, labels), 2, class_names=names)
    for bad, message in (
        ([(x, labels + 1)], "label 5 in the loader: the classifier has classes 0 to 4; if labels count from 1"),
        ([(x, ["cat"] * len(x))], "one whole number per image as labels, not list of str"),
        ([(x, [None] * len(x))], "one whole number per image"),
        ([(x, labels[:3])], r"not int64 \(3,\) for 20 images"),
        ([(x, torch.nn.functional.one_hot(labels))], r"not int64 \(20, 5\) for 20 images"),
        ([(x[:0], labels[:0])], "gave no images"),
        ([(x[:, :1], labels)], r"Sequential does not run on images \(8, 1, 18, 18\)"),
        ([(x[:, :, :2, :2], labels)], r"does not run on images"),
        (["abc"], "must give batches .* not str"),
        (5, r"must give batches \(images, labels\), not be a int"),
        ([x], "must give batches"),
        ([(x, labels.float())], "one whole number per image"),
        ([((x * 255).byte(), labels)], "float tensors"),
        ([], "gave no images"),
        ([(x[:4], labels[:4]), (x[:, :, :14], labels)], "all images in one size"),
    ):
        with pytest.raises(RequestError, match=message):
            decompose(classifier, bad, 2)
    with pytest.raises(RequestError, match="k: Input should be greater than 0"):
        decompose(classifier, loader(x, labels), 0)
    with pytest.raises(RequestError, match="refinement='none' leaves a rest"):
        decompose(classifier, loader(x, labels), 2, config=DecompositionConfig(refinement="none"))
    for options, message in (
        ({"device": "nonsense"}, "cannot go to device 'nonsense'"),
        ({"precision": "double"}, "write one of single, half"),
        ({"missing": "Keep"}, "write one of refuse, keep"),
        ({"images_per_class": 0}, "write a whole number from 1"),
        ({"memory_limit": -1}, "write a whole number from 1"),
        ({"seed": "a"}, "write a whole number from 0"),
        ({"class_names": "abcde"}, "a list of names, not one word"),
        ({"config": {"k": 2}}, "must be a DecompositionConfig, not dict"),
    ):
        with pytest.raises(RequestError, match=message):
            decompose(classifier, loader(x, labels), 2, **options)
    with pytest.raises(RequestError, match=r"must be a torch\.nn\.Module, not function"):
        decompose(lambda x: x, loader(x, labels), 2)
    with pytest.raises(RequestError, match="2 class_names for a classifier of 5"):
        decompose(classifier, loader(x, labels), 2, class_names=["a", "b"])


def test_features_too_large_for_half_precision_name_the_class():
    classifier = net()
    x, labels = images()
    x[labels == 4] *= 1e7
    with pytest.raises(CellError, match="class 4: features are too large for half precision"):
        decompose(classifier, loader(x, labels), 2, precision="half")


def test_classifier_that_changes_between_batches_is_refused():
    class Moody(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (1.0 if self.calls < 3 else 1.1)

    classifier = net()
    classifier[-1] = Moody(8, C)
    with pytest.raises(RequestError, match="several heads or rescaled"):
        decompose(classifier, loader(*images()), 2)


def test_rounding_the_model_keeps_its_prototypes_and_their_sum():
    classifier = net(norm=nn.LayerNorm(8))
    x, labels = images()
    model = decompose(classifier, loader(x, labels), 2)
    before = model.vectors.clone()
    rounded = copy.deepcopy(model).bfloat16()
    assert rounded.vectors.dtype == torch.float64
    torch.testing.assert_close(rounded.vectors[:, 0], before[:, 0], rtol=1e-9, atol=1e-9)
    check(rounded, rounded.classifier, x.bfloat16(), rtol=5e-2)
    assert torch.equal(model.vectors, before)


def test_progress_tells_classes_per_second(caplog):
    classifier = net()
    x, labels = images()
    progress = Silent()
    decompose(classifier, loader(x, labels), 2, config=QUICK, progress=progress)
    assert any("5 of 5 classes decomposed" in note and "classes/s" in note for note in progress.notes)
    with caplog.at_level(logging.INFO, "bench.posthoc"):
        decompose(classifier, loader(x, labels), 2, config=QUICK)
    assert "classes/s" in caplog.text


def test_prototypes_that_only_cancel_are_replaced(monkeypatch):
    real = classwise.decompose_classes

    def wild(config, F, rows, v, cells, seed, classes):
        parts, numbers = real(config, F, rows, v, cells, seed, classes)
        if config.refinement == "lbfgs" and 2 in classes:
            i = classes.index(2)
            parts[i, 0] += 1e6
            parts[i, 1] -= 1e6
            numbers["cancellation"][i] = 1e6
        return parts, numbers

    monkeypatch.setattr(classwise, "decompose_classes", wild)
    classifier, (x, labels), progress = net(), images(), Silent()
    model = decompose(classifier, loader(x, labels), 2, progress=progress)
    assert model.vectors.abs().max() < 1e3
    assert any("class 2: refined prototypes cancel each other" in note for note in progress.notes)
    check(model, classifier, x)


def test_samples_of_the_harness_can_be_decomposed_too():
    samples = stripes(size=18)
    assert isinstance(samples, TensorSamples)
    classifier = net(classes=3)
    check(decompose(classifier, samples.batches(8), 2, config=QUICK), classifier, samples.images)


def test_inside_autocast():
    classifier = net(norm=nn.LayerNorm(8))
    x, labels = images()
    with torch.autocast("cpu", torch.bfloat16):
        model = decompose(classifier, loader(x, labels), 2, config=QUICK)
        with torch.no_grad():
            assert torch.equal(model(x), classifier(x))
    assert 0 < model.facts["completeness_residual"] < 5e-2
    check(model, classifier, x)  # and outside of it, in full precision


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_on_cuda(precision):
    classifier = net(norm=nn.LayerNorm(8)).to(precision)
    x, labels = images()
    model = decompose(classifier, loader(x, labels), 2, device="cuda")
    check(model, classifier, x.to("cuda", precision), rtol=1e-3 if precision == torch.float32 else 5e-2)


@pytest.mark.parametrize("where", ["mps", "meta"])
def test_devices_without_double_precision_are_refused(where):
    classifier = net()
    x, labels = images()
    with pytest.raises(RequestError, match=f"device {where}: only cpu and cuda are supported"):
        decompose(classifier, loader(x, labels), 2, config=QUICK, device=where)
    with pytest.raises(RequestError, match="device meta: only cpu and cuda are supported"):
        decompose(classifier.to("meta"), loader(x, labels), 2, config=QUICK)
