"""Changes of pixels against torchvision and Pillow, and the stability under them, worked by hand."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tvf

from bench.contract import Explanation, Observation, PartPrototypeModel, PrototypeTable
from metrics.perturbation import Perturbation
from metrics.pixel_changes import STRENGTH, changed, compressed
from tests.support.samples import TensorSamples


def pictures(count, side=48):
    """Smooth coloured images, of whole levels."""
    small = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)
    return (255 * images).round() / 255


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue", "blur"])
def test_changes_are_torchvisions(kind):
    images, strength = pictures(3), STRENGTH[kind]
    expected = {
        "blur": lambda: tvf.gaussian_blur(images, [21, 21], [strength, strength]),
    }.get(kind, lambda: torch.stack([getattr(tvf, f"adjust_{kind}")(image, strength) for image in images]))()
    torch.testing.assert_close(changed(images, kind), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("quality", "side"), [(20, 48), (75, 44), (95, 16)])
def test_compression_is_pillows(quality, side):
    images = pictures(2, side)
    found = compressed(images, quality)
    for image, ours in zip(images, found, strict=True):
        stream = io.BytesIO()
        Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).save(
            stream, "JPEG", quality=quality, subsampling=0
        )
        theirs = np.asarray(Image.open(stream)).astype(float)
        difference = np.abs(255 * ours.permute(1, 2, 0).numpy() - theirs)
        # Its cosines are whole numbers, so that a coefficient between two steps may take the other one.
        assert difference.mean() < 0.7
        assert np.mean(difference <= 2) > 0.93


class BrightestCell(PartPrototypeModel):
    """One prototype for one class, whose map is the mean of red over cells of 8 x 8 pixels."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Identity()
        self.prototypes = PrototypeTable(torch.ones(1, 1).bool())

    def head(self, features, classes=None):
        maps = torch.nn.functional.avg_pool2d(features[:, :1], 8)
        indices = None if classes is None else self.prototypes.of(classes)
        return Explanation(torch.zeros(len(features), 1), maps, maps.amax((2, 3)), indices)

    def attribute(self, features, classes):
        return self.head(features).maps[:, 0]


def measure(pictures, points, masks, **settings):
    count = len(pictures)
    split = TensorSamples(pictures, torch.zeros(count, dtype=torch.long), 1)
    split.keypoints, split.visible = points.double(), torch.ones(points.shape[:2]).bool()
    model = BrightestCell()
    metric = Perturbation(Perturbation.Config(half_size=4, size=16, **settings), split, model.prototypes)
    for at in torch.arange(count).split(2):
        rest = (split.keypoints[at], split.visible[at], split.boxes[at])
        metric.update(Observation(model, split.images[at], split.labels[at], at, *rest, masks=masks[at]))
    return metric.compute()


def half_and_half(count=3):
    """The left half of 16 x 16 pixels is the object and brighter than the right one; a part is in each."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (TensorSamples.mean, TensorSamples.std))
    images = torch.full((count, 3, 16, 16), 0.5)
    images[:, :, :8, :8] = 0.9
    points = torch.tensor([[4, 4], [4, 12]]).expand(count, -1, -1)
    masks = torch.zeros(count, 16, 16, dtype=torch.uint8)
    masks[:, :, :8] = 255
    return (images - mean) / std, points, masks


def test_where_the_change_is_decides():
    # The bright half darkened to 0.27 is darker than the other: the peak moves. Darkening the other changes nothing.
    found = measure(*half_and_half(), kind="brightness")
    assert (found.also["brightness_inside"], found.also["brightness_outside"]) == (0, 100)
    assert (found.value, found.also["inside"], found.also["outside"], found.n) == (50, 0, 100, 3)
    # Half as bright is bright enough.
    assert measure(*half_and_half(), kind="brightness", strength=0.8).value == 100


def test_all_kinds_are_averaged():
    found = measure(*half_and_half())
    numbers = [found.also[f"{kind}_{side}"] for kind in STRENGTH for side in ("inside", "outside")]
    assert found.value == pytest.approx(np.mean(numbers))
    assert found.also["hue_inside"] == 100  # grey has no hue


def test_images_are_chosen_and_strength_is_of_one_kind():
    assert measure(*half_and_half(), images=2).n == 2
    with pytest.raises(ValueError, match="set kind too"):
        Perturbation.Config(strength=0.5)
