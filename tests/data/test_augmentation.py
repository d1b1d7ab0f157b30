"""Augmentation by policy: where pixels and annotations go, against torchvision and by hand; what a draw depends on."""

from typing import get_args

import bench.models  # noqa: F401  before anything that imports torchvision

# isort: split
import pytest
import torch
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2 as tv_transforms
from torchvision.transforms.v2 import functional as tvf

from bench.config.schedule import Phase, Schedule
from bench.data import augmentation
from bench.data.augmentation import POLICIES, Augmentation, draw, jitter

SIZE = 64
WARPS = [name for name in POLICIES if name != "flip"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=6, size=SIZE, seed=0):
    """Smooth images, so that two ways to interpolate agree."""
    coarse = torch.rand(n, 3, 4, 4, generator=seeded(seed))
    return functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


def still(n, **parts):
    return Augmentation(torch.zeros(n, dtype=torch.bool), **parts)


def test_the_schedule_names_the_policies():
    assert get_args(Schedule.model_fields["augment"].annotation) == ("none", *POLICIES)
    assert Schedule(phases=[Phase(name="all")], augment="paper").augment == "flip"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_draw_depends_on_the_generator_alone(policy):
    rows = torch.arange(6)
    one, same, other = (draw(policy, 6, seeded(seed))(pictures(), rows) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == pictures().shape
    assert one.min() >= 0
    assert one.max() <= 1


@pytest.mark.parametrize("policy", POLICIES)
def test_an_image_looks_the_same_in_any_batch(policy):
    images, drawn = pictures(), draw(policy, 9, seeded())
    rows = torch.tensor([8, 0, 3, 3, 7, 1])
    whole = drawn(images.clone(), rows)
    for size in (1, 4):
        parts = [drawn(*pair) for pair in zip(images.clone().split(size), rows.split(size), strict=True)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("policy", POLICIES)
def test_images_change_and_half_are_mirrored(policy):
    drawn = draw(policy, 4000, seeded())
    assert 0.47 < drawn.flip.float().mean() < 0.53
    if policy != "flip":
        moved = drawn.matrices[:, :2] != torch.eye(3)[:2]
        displaced = drawn.mesh is not None and drawn.mesh.flatten(1).any(1)
        assert (moved.flatten(1).any(1) | displaced).float().mean() > 0.99


def test_nothing_drawn_changes_nothing():
    images = pictures()
    eye = torch.eye(3, dtype=torch.float64).repeat(6, 1, 1)
    mesh, colour = torch.zeros(6, 2, 9, 9, dtype=torch.int8), torch.tensor([[1.0, 1, 1, 0]]).repeat(6, 1)
    assert torch.equal(still(6)(images, torch.arange(6)), images)
    found = still(6, matrices=eye, mesh=mesh, colour=colour)(images, torch.arange(6))
    torch.testing.assert_close(found, images, rtol=0, atol=1e-4)


def test_zero_strength_gives_matrices_that_move_nothing():
    eye = torch.eye(3, dtype=torch.float64).repeat(5, 1, 1)
    for matrices in (
        augmentation.rotation(5, seeded(), 0),
        augmentation.shear(5, seeded(), 0),
        augmentation.skew(5, seeded(), 0),
        augmentation.affine(5, 0, 0, seeded()),
    ):
        torch.testing.assert_close(matrices, eye)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_marked_place_moves_where_points_says(policy):
    """A bright spot is looked for in the augmented image: its brightest pixel is where its point went."""
    n, size = 24, 224
    drawn, rows = draw(policy, n, seeded(7)), torch.arange(n)
    centres = 50 + 124 * torch.rand(n, 1, 2, generator=seeded(8), dtype=torch.float64)
    pixels = torch.arange(size) + 0.5
    row, column = (centres[:, 0, axis, None] - pixels for axis in (0, 1))
    spots = torch.exp(-(row[:, :, None] ** 2 + column[:, None, :] ** 2) / 8).float()
    drawn = Augmentation(drawn.flip, drawn.matrices, drawn.mesh)  # of one colour anyway
    found = drawn(spots[:, None].repeat(1, 3, 1, 1), rows)[:, 0].flatten(1).argmax(1)
    expected = drawn.points(centres, rows, size)[:, 0]
    inside = ((expected > 4) & (expected < size - 4)).all(1)
    assert inside.sum() >= 18
    seen = torch.stack([found // size, found % size], 1) + 0.5
    assert (seen - expected)[inside].abs().max() < 1
    assert (expected - centres[:, 0]).norm(dim=1).max() > 2


def test_one_pixel_by_hand():
    """A quarter turn and a mirror: the pixel in row 1, column 2 of four goes to row 1, column 1, then to column 2."""
    quarter = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64).repeat(2, 1, 1)
    drawn = Augmentation(torch.tensor([False, True]), quarter)
    images = torch.zeros(2, 3, 4, 4)
    images[:, :, 1, 2] = 1
    found = drawn(images, torch.arange(2)).round()
    # The place (x, y) = (0.25, -0.25) is shown where x = y', y = -x': at (0.25, 0.25).
    assert found[0, 0].nonzero().tolist() == [[2, 2]]
    assert found[1, 0].nonzero().tolist() == [[2, 1]]
    at = torch.tensor([[[1.5, 2.5]]], dtype=torch.float64).repeat(2, 1, 1)
    torch.testing.assert_close(drawn.points(at, torch.arange(2), 4)[:, 0], at.new_tensor([[2.5, 2.5], [2.5, 1.5]]))


def test_affine_map_against_torchvision():
    images, n = pictures(8), 8
    matrices = augmentation.affine(n, 25, 15, seeded(3))
    angles = torch.atan2(-matrices[:, 1, 0], matrices[:, 1, 1])
    tangents = (torch.cos(angles) - matrices[:, 0, 0]) / torch.sin(angles)
    assert torch.rad2deg(angles).abs().max() <= 25
    assert torch.rad2deg(torch.atan(tangents)).abs().max() <= 15
    found = still(n, matrices=matrices)(images, torch.arange(n))
    points = 16 + 32 * torch.rand(n, 5, 2, generator=seeded(), dtype=torch.float64)
    moved = still(n, matrices=matrices).points(points, torch.arange(n), SIZE)
    for i in range(n):
        settings = {
            "angle": float(torch.rad2deg(angles[i])),
            "shear": [float(torch.rad2deg(torch.atan(tangents[i]))), 0.0],
            "translate": [0, 0],
            "scale": 1.0,
        }
        expected = tvf.affine(images[i], interpolation=tvf.InterpolationMode.BILINEAR, **settings)
        inner = (slice(None), slice(12, -12), slice(12, -12))
        torch.testing.assert_close(found[i][inner], expected[inner], rtol=0, atol=0.02)
        at = tvf.affine(tv_tensors.KeyPoints(points[i].flip(-1), canvas_size=(SIZE, SIZE)), **settings)
        torch.testing.assert_close(moved[i].flip(-1), at.as_subclass(torch.Tensor).double(), rtol=0, atol=1e-3)


def test_perspective_and_boxes_against_torchvision():
    images, n = pictures(8), 8
    to = augmentation.CORNERS * (1 - 0.4 * torch.rand(n, 4, 2, generator=seeded(), dtype=torch.float64))
    drawn = still(n, matrices=augmentation.homography(to, augmentation.CORNERS.expand(n, 4, 2)))
    found = drawn(images, torch.arange(n))
    box = torch.tensor([[20.0, 24, 40, 50]], dtype=torch.float64)
    for i in range(n):
        start, end = (((c + 1) * SIZE / 2).tolist() for c in (augmentation.CORNERS, to[i]))
        expected = tvf.perspective(images[i], start, end, interpolation=tvf.InterpolationMode.BILINEAR)
        covered = tvf.perspective(torch.ones(1, SIZE, SIZE), start, end)[0] > 0
        inner = functional.max_pool2d((~covered).float()[None, None], 11, 1, 5)[0, 0] == 0
        assert inner.float().mean() > 0.3
        torch.testing.assert_close(found[i][:, inner], expected[:, inner], rtol=0, atol=0.02)
        points = tv_tensors.KeyPoints([[24.0, 20], [50, 20], [50, 40], [24, 40]], canvas_size=(SIZE, SIZE))
        at = tvf.perspective(points, start, end).as_subclass(torch.Tensor)
        limits = torch.cat([at.amin(0).flip(0), at.amax(0).flip(0)]).double()
        torch.testing.assert_close(drawn.boxes(box, torch.tensor([i]), SIZE)[0], limits, rtol=0, atol=0.05)


def test_beyond_the_horizon_nothing_is_seen():
    """A perspective so strong that its horizon crosses the image must not show the mirrored world behind it."""
    matrix = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 2, 1]]], dtype=torch.float64)
    found = still(1, matrices=matrix)(torch.ones(1, 3, 8, 8), torch.tensor([0]))[0, 0]
    assert (found[:2] == 0).all()  # y' < -1/2
    assert (found[4:] > 0.9).all()


def test_augmentor_shows_no_black():
    """Its shears and skews stay inside; a rotation cuts a corner off by little (its crop is too wide by a slip)."""
    white, n = torch.ones(50, 3, SIZE, SIZE), 50
    for matrices in (augmentation.shear(n, seeded()), augmentation.skew(n, seeded())):
        corners = augmentation._project(matrices, augmentation.CORNERS.expand(n, 4, 2))
        assert corners.abs().max() < 1 + 1e-9
    found = still(n, matrices=augmentation.rotation(n, seeded()))(white, torch.arange(n))
    assert (found > 0.5).float().mean() > 0.995


def test_rotation_cuts_what_augmentor_cuts():
    """At 15 degrees a side of 100 has a hull of 122.474: 24.02 are cut left and right, 26.38 above and below."""
    matrices = augmentation.rotation(2000, seeded())
    angles = torch.rad2deg(torch.atan2(-matrices[:, 1, 0], matrices[:, 0, 0]))
    steepest = matrices[int(angles.abs().argmax())]
    wide, high = steepest[:2, :2].norm(dim=0).tolist()
    assert wide == pytest.approx(1.22474 - 2 * 0.24024, abs=0.002)
    assert high == pytest.approx(1.22474 - 2 * 0.26380, abs=0.002)


def test_skews_are_as_likely_as_augmentors():
    """Twelve kinds: which corners of the image have left the canvas."""
    matrices = augmentation.skew(20000, seeded())
    planes = augmentation._project(torch.linalg.inv(matrices), augmentation.CORNERS.expand(len(matrices), 4, 2))
    outward = (planes - augmentation.CORNERS) * augmentation.CORNERS
    assert outward.min() > -1e-9
    assert 0.39 < outward.max() <= 0.4
    moved = (outward > 1e-9).sum((1, 2))
    assert (moved == 2).float().mean() == pytest.approx(3 / 4, abs=0.02)
    assert ((moved == 1) | (moved == 2)).all()


def test_each_copy_has_one_kind():
    """ProtoPNet's kinds leave traces: a skew a bottom row, a rotation two slanted axes, a shear only one."""
    matrices = draw("protopnet2019", 9000, seeded()).matrices
    skewed = matrices[:, 2, :2].abs().amax(1) > 1e-12
    slanted = (matrices[:, [0, 1], [1, 0]].abs() > 1e-12).sum(1)
    for share in (skewed, ~skewed & (slanted == 2), ~skewed & (slanted == 1)):
        assert share.float().mean() == pytest.approx(1 / 3, abs=0.02)
    drawn = draw("tesnet2021", 9000, seeded())
    displaced = drawn.mesh.flatten(1).any(1)
    assert displaced.float().mean() == pytest.approx(1 / 4, abs=0.02)
    assert torch.equal(drawn.matrices[displaced], torch.eye(3, dtype=torch.float64).expand(int(displaced.sum()), 3, 3))
    assert drawn.mesh.min() == -5
    assert drawn.mesh.max() == 5


def test_colours_against_torchvision():
    images = pictures(6)
    images[0] = 0.4  # grey: no hue to move
    images[1, :, :8] = 0
    factors = torch.tensor([0.6, 0.8, 1.0, 1.1, 1.3, 1.4])
    turns = torch.tensor([0.4, -0.4, 0.0, 0.25, -0.1, 0.33])
    found = jitter(images, torch.stack([factors, factors.flip(0), factors.roll(2), turns], 1))
    for i in range(6):
        expected = tvf.adjust_brightness(images[i], factors[i].item())
        expected = tvf.adjust_contrast(expected, factors.flip(0)[i].item())
        expected = tvf.adjust_saturation(expected, factors.roll(2)[i].item())
        expected = tvf.adjust_hue(expected, turns[i].item())
        torch.testing.assert_close(found[i], expected, rtol=0, atol=2e-5)


def test_strengths_of_prototree():
    drawn = draw("prototree2021", 4000, seeded())
    assert (drawn.colour[:, :3] - 1).abs().max() <= 0.4
    assert drawn.colour[:, 3].abs().max() <= 0.4
    # What is cut is 7/8 wide; where no perspective was drawn the area seen is that of a turned square of that side.
    plain = drawn.matrices[:, 2, :2].abs().amax(1) < 1e-12
    assert plain.float().mean() == pytest.approx(1 / 2, abs=0.03)
    assert torch.allclose(torch.linalg.det(drawn.matrices[plain]), torch.tensor((7 / 8) ** 2, dtype=torch.float64))


def test_resized_crops_are_torchvisions():
    matrices = augmentation.resized_crop(20000, seeded())
    wide, high, x, y = matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2], matrices[:, 1, 2]
    assert (wide <= 1).all()
    assert (high <= 1).all()
    assert (x.abs() <= 1 - wide + 1e-12).all()
    assert (y.abs() <= 1 - high + 1e-12).all()
    # Beside torchvision's own draws on an image so large that its rounding to pixels does not show.
    torch.manual_seed(0)
    side, crop = 4000, tv_transforms.RandomResizedCrop(224)
    blank = tv_tensors.Image(torch.empty(1, side, side, dtype=torch.uint8))
    drawn = (
        torch.tensor(
            [[crop.make_params([blank])[name] for name in ("width", "height", "left", "top")] for _ in range(4000)]
        )
        / side
    )
    left, top = (x - wide + 1) / 2, (y - high + 1) / 2
    for own, theirs in zip((wide, high, left, top), drawn.double().T, strict=True):
        for level in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert float(own.quantile(level)) == pytest.approx(float(theirs.quantile(level)), abs=0.025)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", WARPS)
def test_cuda_sees_the_same(policy):
    drawn, rows = draw(policy, 6, seeded()), torch.arange(6)
    torch.testing.assert_close(drawn(pictures().cuda(), rows).cpu(), drawn(pictures(), rows), rtol=0, atol=1e-3)
