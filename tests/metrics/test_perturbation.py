"""Changes of pixels against torchvision and Pillow, and the stability under them, worked by hand."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft
from torchvision.transforms import functional as tvf

from bench.contract import Explanation, Observation, PartPrototypeModel, PrototypeTable
from metrics.perturbation import Perturbation
from metrics.pixel_changes import STRENGTH, changed, compressed
from tests.oracle import plain_loops
from tests.support.samples import TensorSamples


def pictures(count, side=48):
    """Smooth coloured images, of whole levels."""
    small = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)
    return (255 * images).round() / 255


def normalised(images):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (TensorSamples.mean, TensorSamples.std))
    return (images - mean) / std


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
    images = torch.full((count, 3, 16, 16), 0.5)
    images[:, :, :8, :8] = 0.9
    points = torch.tensor([[4, 4], [4, 12]]).expand(count, -1, -1)
    masks = torch.zeros(count, 16, 16, dtype=torch.uint8)
    masks[:, :, :8] = 255
    return normalised(images), points, masks


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


class ColourParts(PartPrototypeModel):
    """Five prototypes of ragged classes, whose maps are mixtures of the colours of cells of 8 x 8 pixels."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Identity()
        owners = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]]).bool()
        self.prototypes = PrototypeTable(owners)
        self.mixtures = torch.randn(5, 3, generator=torch.Generator().manual_seed(5))

    def head(self, features, classes=None):
        cells = torch.nn.functional.avg_pool2d(features, 8)
        maps = torch.einsum("pc,nchw->nphw", self.mixtures.to(cells), cells)
        logits = torch.zeros(len(features), 3)
        if classes is None:
            return Explanation(logits, maps, maps.amax((2, 3)))
        indices = self.prototypes.of(classes)
        maps = self.pick(maps, indices)
        return Explanation(logits, maps, maps.amax((2, 3)), indices)

    def attribute(self, features, classes):
        return self.head(features, classes).maps.sum(1)


def jpeg_by_blocks(image, quality=20):
    """JPEG of ``(3, H, W)`` from 0 to 1, block by block with scipy's transform and Pillow's tables."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", quality=quality)
    tables = [np.empty((8, 8)), np.empty((8, 8))]
    for table, steps in zip(tables, Image.open(stream).quantization.values(), strict=True):
        for place, step in enumerate(steps):
            table[divmod(place, 8)] = step
    red, green, blue = np.round(255 * image)
    luma = np.round(0.299 * red + 0.587 * green + 0.114 * blue)
    blueness, redness = np.round((blue - luma) * 0.5 / 0.886), np.round((red - luma) * 0.5 / 0.701)
    decoded = []
    for number, plane in enumerate((luma - 128, blueness, redness)):
        plane, steps = plane.copy(), tables[min(number, 1)]
        for y, x in itertools.product(range(0, plane.shape[0], 8), range(0, plane.shape[1], 8)):
            found = fft.dctn(plane[y : y + 8, x : x + 8], norm="ortho") / steps
            found = np.sign(found) * np.floor(np.abs(found) + 0.5) * steps
            plane[y : y + 8, x : x + 8] = fft.idctn(found, norm="ortho")
        decoded.append(np.round(plane))
    luma, blueness, redness = decoded[0] + 128, decoded[1], decoded[2]
    red, blue = luma + 1.402 * redness, luma + 1.772 * blueness
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return np.clip(np.round(np.stack([red, green, blue])), 0, 255) / 255


def test_the_metric_is_that_of_loops_over_images_and_kinds():
    count, side, most = 9, 56, 7
    half, canvas = 11, 70  # smaller than published, so that exact peaks are quick
    generator = torch.Generator().manual_seed(11)
    split = TensorSamples(normalised(pictures(count, side)), torch.tensor([0, 1, 2, 0, 1, 0, 1, 1, 0]), 3)
    split.keypoints = torch.randint(0, side, (count, 6, 2), generator=generator).double()
    split.visible = torch.rand(count, 6, generator=generator) < 0.8
    # Blocks of 8 x 8 pixels at grey levels of 0, 51, ... 255; the object of one image is all of it.
    masks = 51 * torch.randint(2, 6, (count, 7, 7), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    masks[6] = 255
    model = ColourParts()

    def hits(picture, i):
        cells = normalised(torch.as_tensor(picture).float()[None])[0].unflatten(1, (7, 8)).unflatten(3, (7, 8))
        cells = cells.mean((2, 4)).double().tolist()
        found = []
        for p in range(5):
            if model.prototypes.classes[p, split.labels[i]]:
                weights = model.mixtures[p].tolist()
                grid = [[sum(weights[c] * cells[c][y][x] for c in range(3)) for x in range(7)] for y in range(7)]
                points = [[int(canvas * place / side) for place in point] for point in split.keypoints[i].tolist()]
                at = plain_loops.peak(grid, canvas)
                found.append(plain_loops.hit_vector(at, points, split.visible[i].tolist(), half, canvas))
        return found

    kinds = {
        "brightness": lambda image: tvf.adjust_brightness(image, 0.3),
        "contrast": lambda image: tvf.adjust_contrast(image, 0.2),
        "saturation": lambda image: tvf.adjust_saturation(image, 0.3),
        "hue": lambda image: tvf.adjust_hue(image, 0.2),
        "blur": lambda image: tvf.gaussian_blur(image, [21, 21], [2.0, 2.0]),
        "jpeg": lambda image: torch.from_numpy(jpeg_by_blocks(image.double().numpy())).float(),
    }
    rows = {f"{kind}_{where}": [] for kind in kinds for where in ("inside", "outside")}
    for i in sorted({position * count // most for position in range(most)}):
        picture, inside = pictures(count, side)[i], masks[i] > 200
        if not any(model.prototypes.classes[:, split.labels[i]]) or inside.all() or not inside.any():
            continue
        before = hits(picture, i)
        for kind, change in kinds.items():
            for where, region in (("inside", inside), ("outside", ~inside)):
                copy = picture.clone()
                copy[:, region] = change(picture)[:, region]
                after = hits(copy, i)
                rows[f"{kind}_{where}"].append(np.mean([one == two for one, two in zip(before, after, strict=True)]))
    metric = Perturbation(Perturbation.Config(images=most, half_size=half, size=canvas), split, model.prototypes)
    for at in torch.tensor([5, 0, 8, 3, 1, 2, 7, 6, 4]).split(4):
        rest = (split.keypoints[at], split.visible[at], split.boxes[at])
        masked = masks[at].to(torch.uint8)
        metric.update(Observation(model, split.images[at], split.labels[at], at, *rest, masks=masked))
    found = metric.compute()
    means = {name: 100 * np.mean(values) for name, values in rows.items()}
    assert found.n == len(rows["hue_inside"]) == 5
    assert {name: found.also[name] for name in means} == pytest.approx(means)
    sides = [np.mean([value for name, value in means.items() if name.endswith(where)])
             for where in ("_inside", "_outside")]  # fmt: skip
    assert [found.value, found.also["inside"], found.also["outside"]] == pytest.approx([np.mean(sides), *sides])
    assert 20 < found.value < 90
