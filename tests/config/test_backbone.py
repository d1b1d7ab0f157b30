"""Preprocessing follows the backbone's weights, from the plan to the batches, noise and removed pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.config.backbone import protocol_of
from bench.contract import IMAGENET_MEAN, IMAGENET_STD, InputConfig, RequestError
from bench.core import registry
from bench.data.augmentation import draw
from bench.data.cache import prepare
from bench.data.cub import Cub
from bench.data.preprocessing import PRESETS, Preprocessing
from bench.models.backbones import input_config
from bench.models.tiny import TinyNet
from bench.results.labels import of_weights, shared_protocol
from metrics.deletion import Deletion, curve
from metrics.noise import gaussian_noise
from metrics.stability import Stability
from tests.support.samples import Silent
from tests.support.scripted_model import ScriptedModel, observe
from tests.support.small_birds import few_birds, planned

HALF = InputConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9, 224)
CENTRE = Preprocessing(**PRESETS["torchvision"])


def test_backbones_of_the_catalogue_take_images_as_before():
    for name in registry.names("backbones"):
        for preset in PRESETS.values():
            usual = Preprocessing(**preset)
            assert protocol_of(name, usual, "cub", {}).model_dump() == usual.model_dump()


def test_timm_names_bring_their_configuration():
    assert input_config("timm:tf_efficientnet_lite0") == InputConfig(HALF.mean, HALF.std, "bicubic")
    assert protocol_of("timm:tf_efficientnet_lite0", CENTRE, "imagenet", {}).model_dump(mode="json") == {
        "crop": "full", "size": 224, "coordinates": "exact", "resize": "resize-centre-crop", "outside": "hidden",
        "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    with pytest.raises(RequestError, match="timm has no model 'resnet_fifty'"):
        input_config("timm:resnet_fifty")


def test_settings_go_before_the_weights(monkeypatch):
    monkeypatch.setattr(TinyNet, "input_config", HALF, raising=False)
    chosen = protocol_of("tiny", Preprocessing(interpolation="bilinear"), "cub", {"backbone.std": [1, 1, 1]})
    assert (chosen.mean, chosen.std, chosen.interpolation) == (HALF.mean, (1, 1, 1), "bilinear")
    assert chosen.name == "bbox-224-truncated-mean_0.5_0.5_0.5-std_1.0_1.0_1.0"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"backbone.meen": [0, 0, 0]}, "backbone.meen: unknown setting; did you mean 'mean'"),
        ({"backbone.std": [0, 1, 1]}, r"backbone.std.0: Input should be greater than 0"),
        ({"backbone.size": 96, "cub.protocol.size": 64}, "backbone.size and cub.protocol.size set the same"),
    ],
)
def test_wrong_settings_are_refused(overrides, problem):
    with pytest.raises(RequestError, match=problem):
        protocol_of("tiny", Preprocessing(), "cub", overrides)


@pytest.mark.parametrize("name", ["vit_b_32_augreg", "vit_b_32_augreg@frozen"])
def test_a_network_that_converts_images_itself_takes_no_other_std(name):
    refusal = f"{name} converts images from ImageNet's mean and deviation to its own: leave mean and std unset"
    for protocol, overrides in [(CENTRE, {"backbone.std": [0.5] * 3}), (Preprocessing(mean=HALF.mean), {})]:
        with pytest.raises(RequestError, match=refusal):
            protocol_of(name, protocol, "cub", overrides)
    assert protocol_of(name, CENTRE, "cub", {"backbone.std": IMAGENET_STD}) == CENTRE


def test_crop_share_counts_only_where_something_is_cut():
    assert Preprocessing().for_weights(InputConfig(crop_share=0.5)).model_dump() == Preprocessing().model_dump()
    cut = CENTRE.for_weights(InputConfig(crop_share=0.95))
    assert cut.name == "full-224-exact-centre-crop_0.95"
    assert cut._scaled(300, 400) == ((235, 313), (6, 44))  # timm: floor(224 / 0.95), then torchvision's rounding
    assert CENTRE._scaled(300, 400) == ((256, 341), (16, 58))


def test_every_cell_of_a_backbone_is_planned_with_its_preprocessing(tmp_path, monkeypatch):
    birds, request = few_birds(tmp_path), {"methods": ("ours",), "controls": True}
    before = planned(birds, tmp_path / "home", **request)
    monkeypatch.setattr(TinyNet, "input_config", HALF, raising=False)
    after = planned(birds, tmp_path / "home", **request)
    assert {cell.spec.method for cell in after} >= {"ours", "blackbox", "constant"}
    for cell, old in zip(after, before, strict=True):
        own = {"interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
        assert cell.spec.protocol == old.spec.protocol | (own if cell.spec.backbone else {})
        assert (cell.spec.id == old.spec.id) == (cell.spec.backbone is None)  # controls are those of all backbones
        assert shared_protocol(cell.spec.protocol) == old.spec.protocol
    (ours,) = (cell.spec for cell in after if cell.spec.method == "ours")
    assert {cell.spec.black_box_id for cell in after if cell.spec.black_box} == {ours.black_box_id}
    assert of_weights(ours.protocol) == "interpolation bicubic, mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]"


def test_batches_are_normalised_as_the_protocol_says(tmp_path):
    birds, home = Cub(few_birds(tmp_path)), tmp_path / "home"
    usual, half = Preprocessing(size=32), Preprocessing(size=32, mean=HALF.mean, std=HALF.std)
    plain, other = (prepare(birds, protocol, home, Silent()) for protocol in (usual, half))
    assert len(list((home / "prepared").glob("*-truncated"))) == 1  # pixels before normalisation are shared
    for split in ("train", "test"):
        (one,), (two,) = plain[split].batches(99), other[split].batches(99)
        pixels = torch.from_numpy(np.array(plain[split].images)).movedim(-1, 1) / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        torch.testing.assert_close(one.images, (pixels - mean) / std)
        torch.testing.assert_close(two.images, (pixels - 0.5) / 0.5)
    augment = draw("protopnet2019", len(other["train"]), torch.Generator().manual_seed(0))
    (moved,) = other["train"].batches(99, augment=augment)
    (before,) = plain["train"].batches(99, augment=augment)
    torch.testing.assert_close(moved.images * 0.5 + 0.5, before.images * std + mean)


def samples(std):
    return SimpleNamespace(parts=["beak"], classes=1, protocol="full-8-truncated", mean=(0.5, 0.5, 0.5), std=std)


def noise_of(std):
    """The noise that stability adds to images of that deviation, and the table of its sigma."""
    shown = []

    class Shown(ScriptedModel):
        def explain(self, images, classes=None):
            shown.append(images)
            return super().explain(images, classes)

    model = Shown(torch.ones(1, 1, dtype=torch.bool), torch.rand(2, 1, 7, 7))
    metric = Stability(Stability.Config(), samples(std), model.prototypes)
    images = torch.zeros(2, 3, 8, 8)
    images[1, 0, 0, 0] = 10  # by which the scripted model knows it
    (seen,) = observe(model, images, torch.zeros(2).long(), torch.zeros(2, 1, 2), torch.ones(2, 1).bool(), [[0, 1]])
    metric.update(seen)
    return shown[-1] - seen.images, metric.compute().items["noise"]


def test_noise_is_the_same_in_pixels_for_any_deviation():
    (usual, table), (other, wide) = noise_of(IMAGENET_STD), noise_of((0.5, 0.25, 1.0))
    scale = torch.tensor(IMAGENET_STD).view(3, 1, 1), torch.tensor((0.5, 0.25, 1.0)).view(3, 1, 1)
    torch.testing.assert_close(255 * usual * scale[0], 255 * other * scale[1], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(table["sigma_pixels"], [11.679, 11.424, 11.475], atol=1e-3)
    np.testing.assert_array_equal(table["sigma_pixels"], wide["sigma_pixels"])
    np.testing.assert_allclose(table["sigma_normalised"], 0.2, rtol=1e-6)
    np.testing.assert_allclose(wide["sigma_normalised"] * [0.5, 0.25, 1.0] * 255, wide["sigma_pixels"], rtol=1e-6)


def test_noise_with_imagenets_deviation_keeps_its_bits():
    unit = Stability(Stability.Config(), samples(IMAGENET_STD), ScriptedModel(
        torch.ones(1, 1, dtype=torch.bool), torch.rand(2, 1, 7, 7)
    ).prototypes)._unit  # fmt: skip
    drawn = gaussian_noise(torch.arange(3), (3, 8, 8))
    assert torch.equal(drawn * unit, drawn)


def test_removed_pixels_have_one_colour_for_all_backbones():
    prototypes = ScriptedModel(torch.ones(1, 1, dtype=torch.bool), torch.rand(2, 1, 7, 7)).prototypes
    colour = Deletion(Deletion.Config(), samples((0.5, 0.5, 0.5)), prototypes)._colour
    (_, gone) = curve(torch.tensor([[0]]), torch.rand(3, 4, 4), 1, False, colour)
    torch.testing.assert_close(gone * 0.5 + 0.5, torch.tensor(IMAGENET_MEAN).view(3, 1, 1).expand(3, 4, 4))
