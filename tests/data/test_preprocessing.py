import io

import bench.models  # noqa: F401  before anything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from bench.contract import CellError, Record
from bench.data.cub import Cub
from bench.data.decoding import decode
from bench.data.preprocessing import Preprocessing
from tests.support.cub_trees import real


def records(cub):
    return [*cub.split("train"), *cub.split("test")]


def drawn(tmp_path, box=(3.7, 2.2, 20.9, 11.5), size=(32, 24), points=((10.4, 5.6, True), (0.0, 0.0, False))):
    image = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    return Record("a", tmp_path / "a.png", 0, box, points), image


@pytest.fixture(scope="module")
def full():
    return records(Cub(real("cub3_full")))


@pytest.fixture(scope="module")
def both():
    return records(Cub(real("cub3_full"))) + records(Cub(real("cub50")))


def test_name_and_checked_settings():
    assert Preprocessing().name == "bbox-224-truncated"
    assert Preprocessing(crop="full", size=64, coordinates="exact").name == "full-64-exact"
    for wrong in ({"size": 0}, {"size": -1}, {"crop": "box"}, {"coordinates": "rounded"}, {"sise": 224}):
        with pytest.raises(ValidationError):
            Preprocessing(**wrong)


def test_pixels_by_hand(tmp_path):
    record, image = drawn(tmp_path)
    found = Preprocessing(size=16).apply(record)
    expected = Image.fromarray(image[2:13, 3:23]).resize((16, 16), Image.Resampling.BILINEAR)
    assert found.image.dtype == np.uint8
    np.testing.assert_array_equal(found.image, np.asarray(expected).transpose(2, 0, 1))
    np.testing.assert_array_equal(found.keypoints, [[16 * 3 // 11, 16 * 7 // 20], [0, 0]])
    np.testing.assert_array_equal(found.visible, [True, False])
    np.testing.assert_array_equal(found.box, [0, 0, 16, 16])


def test_whole_image_keeps_the_box(tmp_path):
    record, image = drawn(tmp_path)
    found = Preprocessing(crop="full", size=16).apply(record)
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found.image, np.asarray(expected).transpose(2, 0, 1))
    np.testing.assert_array_equal(found.keypoints[0], [16 * 5 // 24, 16 * 10 // 32])
    np.testing.assert_allclose(found.box, [16 * 2 / 24, 16 * 3 / 32, 16 * 13 / 24, 16 * 23 / 32])
    exact = Preprocessing(crop="full", size=16, coordinates="exact").apply(record)
    np.testing.assert_allclose(exact.keypoints[0], [16 * 5.6 / 24, 16 * 10.4 / 32])
    np.testing.assert_allclose(exact.box, [16 * 2.2 / 24, 16 * 3.7 / 32, 16 * 13.7 / 24, 16 * 24.6 / 32])


def test_a_box_that_exceeds_the_image_scales_by_the_box(tmp_path):
    record, image = drawn(tmp_path, box=(20, 10, 40, 30), points=((30.0, 20.0, True), (19.0, 9.0, True)))
    found = Preprocessing(size=16).apply(record)
    expected = Image.fromarray(image[10:24, 20:32]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found.image, np.asarray(expected).transpose(2, 0, 1))
    # Truncated toward zero, not down: -0.53 and -0.4 become 0.
    np.testing.assert_array_equal(found.keypoints, [[16 * 10 // 30, 16 * 10 // 40], [0, 0]])
    before, image = drawn(tmp_path, box=(-5, -5, 20, 20))
    expected = Image.fromarray(image[:15, :15]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(Preprocessing(size=16).apply(before).image, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize(("box", "left"), [((20, 10, 40, 30), (20, 10, 32, 24)), ((-5, -6, 20, 20), (0, 0, 15, 14))])
def test_exact_places_follow_the_boxs_pixels_in_the_image(tmp_path, box, left):
    x1, y1, x2, y2 = left
    point = (x1 + 3, y1 + 2)
    record, _ = drawn(tmp_path, box=box, points=((*map(float, point), True),))
    found = Preprocessing(size=16, coordinates="exact").apply(record)
    np.testing.assert_allclose(found.keypoints[0], [16 * 2 / (y2 - y1), 16 * 3 / (x2 - x1)])
    inside = drawn(tmp_path, box=(x1, y1, x2 - x1, y2 - y1), points=((*map(float, point), True),))[0]
    same = Preprocessing(size=16, coordinates="exact").apply(inside)
    np.testing.assert_array_equal(found.image, same.image)
    np.testing.assert_array_equal(found.keypoints, same.keypoints)


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((3.0, 3.0, 0.9, 8.0), "holds no pixel"),
        ((3.0, 3.0, 8.0, 0.0), "holds no pixel"),
        ((32.0, 3.0, 8.0, 8.0), "outside the image"),
        ((-9.0, 3.0, 9.0, 8.0), "outside the image"),
        (None, "no box to crop to; use crop=full"),
    ],
)
def test_boxes_without_a_pixel(tmp_path, box, problem):
    record, _ = drawn(tmp_path, box=box)
    with pytest.raises(CellError, match=r"a\.png: .*" + problem):
        Preprocessing(size=16).apply(record)
    assert Preprocessing(crop="full", size=16).apply(record).image.shape == (3, 16, 16)


def test_without_annotations(tmp_path):
    record, _ = drawn(tmp_path, box=None, points=())
    found = Preprocessing(crop="full", size=8).apply(record)
    assert found.keypoints.shape == (0, 2)
    assert found.visible.shape == (0,)
    assert np.isnan(found.box).all()


def test_real_crops_pixel_by_pixel(full):
    resize = v2.Resize((224, 224))
    for record in full[::25]:
        x, y, w, h = (int(value) for value in record.box)
        with Image.open(record.path) as image:
            crop = np.asarray(image.convert("RGB"))[y : y + h, x : x + w]
        assert crop.shape == (h, w, 3)
        expected = np.asarray(resize(Image.fromarray(crop)))
        np.testing.assert_array_equal(Preprocessing().apply(record).image, expected.transpose(2, 0, 1))


def test_truncated_key_points_of_all_real_rows():
    for name in ("cub3_full", "cub50"):
        root = real(name)
        boxes = {}
        for line in (root / "bounding_boxes.txt").read_text().splitlines():
            image, *numbers = line.split()
            boxes[image] = [int(text.split(".")[0]) for text in numbers]
        expected = {}
        for line in (root / "parts/part_locs.txt").read_text().splitlines():
            image, part, x, y, visible = line.split()
            x1, y1, w, h = boxes[image]
            at = (int(224 * (int(float(y)) - y1) / h), int(224 * (int(float(x)) - x1) / w))
            expected[image, int(part)] = (*at, True) if visible == "1" else (0, 0, False)
        ids = {row.split()[1]: row.split()[0] for row in (root / "images.txt").read_text().splitlines()}
        rows = 0
        for record in records(Cub(root)):
            keypoints, visible, _ = Preprocessing().place(record, 1, 1)
            for part in range(15):
                found = (*keypoints[part].tolist(), bool(visible[part]))
                assert found == expected[ids[record.id], part + 1]
                rows += 1
        assert rows == len(expected)


def test_truncation_is_exact_where_the_result_is_whole(tmp_path):
    # One division after the product never falls below a whole result; the product with a ratio does, for these.
    cases = [(k, side) for side in range(1, 501) for k in range(side) if int(224 * (k / side)) != 224 * k // side]
    assert (115, 224) in cases
    for k, side in cases:
        record = Record("a", tmp_path, 0, (7, 9, side, side), ((7.0 + k, 9.0 + k, True),))
        assert Preprocessing(order="product").place(record, 1, 1)[0].tolist() == [[224 * k // side] * 2]


def test_official_order_loses_a_pixel_at_eight_places(tmp_path):
    # ratio = loc / (x2 - x1) and int(img_size * ratio), as in the official util/eval_interpretability.py
    lost = [(61, 112), (61, 224), (115, 224), (122, 224), (183, 336), (122, 448), (230, 448), (244, 448)]
    pairs = [(k, side) for side in range(1, 501) for k in range(side)]
    assert [(k, side) for k, side in pairs if int(224 * k / side) != int(224 * (k / side))] == lost
    for k, side in [*lost, *pairs[::97]]:
        record = Record("a", tmp_path, 0, (7, 9, side, side), ((7.0 + k, 9.0 + k, True),))
        ratio = k / side
        assert Preprocessing(order="ratio").place(record, 1, 1)[0].tolist() == [[int(224 * ratio)] * 2]
        assert int(224 * ratio) == 224 * k // side - ((k, side) in lost)


def test_order_is_named_where_it_changes_real_key_points(full):
    changed = set()
    for size in (112, 224, 336, 448):
        one, other = (Preprocessing(size=size, order=order) for order in ("ratio", "product"))
        assert Preprocessing(size=size) == other
        assert one.name != other.name
        assert one.model_dump() != other.model_dump()
        assert Preprocessing(**one.model_dump()) == one
        assert Preprocessing(**other.model_dump()) == other
        for record in full:
            if (one.place(record, 1, 1)[0] != other.place(record, 1, 1)[0]).any():
                changed.add(size)
    assert changed == {336, 448}
    names = [Preprocessing(size=size, order=order).name for size in (224, 336) for order in ("ratio", "product")]
    end = "-truncated"
    assert names == [f"bbox-224{end}-ratio", f"bbox-224{end}", f"bbox-336{end}-ratio", f"bbox-336{end}"]
    assert Preprocessing().model_dump() == {"crop": "bbox", "size": 224, "coordinates": "truncated"}


def test_visible_real_key_points_lie_in_the_image(both):
    for coordinates in ("truncated", "exact"):
        for record in both:
            keypoints, visible, _ = Preprocessing(coordinates=coordinates).place(record, 10**4, 10**4)
            assert visible.any()
            assert (keypoints[visible] >= 0).all()
            assert (keypoints[visible] < 224).all()


@pytest.mark.parametrize("crop", ["bbox", "full"])
def test_exact_key_points_against_torchvision(both, crop):
    for record in both[::7]:
        with Image.open(record.path) as image:
            width, height = image.size
        visible = np.array([seen for _, _, seen in record.keypoints])
        points = torch.tensor([point[:2] for point in record.keypoints], dtype=torch.float64)[visible]
        moved = tv_tensors.KeyPoints(points, canvas_size=(height, width))
        if crop == "bbox":
            x, y, w, h = (int(value) for value in record.box)
            moved = tvf.crop(moved, y, x, h, w)
        moved = tvf.resize(moved, [224, 224])
        found, seen, _ = Preprocessing(crop=crop, coordinates="exact").place(record, width, height)
        np.testing.assert_array_equal(seen, visible)
        # torchvision rounds its two ratios to float32, hence the tolerance.
        np.testing.assert_allclose(found[visible], moved.numpy()[:, ::-1], rtol=1e-6, atol=1e-6)


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def stored(image, format="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (stored(Image.fromarray(GREY)), GREY),
        (stored(Image.fromarray(GREY.astype(np.uint16) * 256 + 99)), GREY),
        (stored(Image.fromarray(GREY.astype(np.uint16) * 256 + 99), "TIFF"), GREY),
        (stored(Image.fromarray(GREY).convert("P")), GREY),
        (stored(Image.fromarray(GREY).convert("RGBA")), GREY),
        (stored(Image.fromarray(GREY).convert("LA")), GREY),
        (stored(Image.fromarray(GREY // 128 * 255).convert("1")), GREY // 128 * 255),
        (stored(Image.fromarray(GREY).convert("RGB").convert("CMYK"), "TIFF"), GREY),
    ],
    ids=["grey", "grey16", "grey16-tiff", "palette", "alpha", "grey-alpha", "bilevel", "cmyk"],
)
def test_every_mode_becomes_rgb(tmp_path, data, expected):
    (tmp_path / "a").write_bytes(data)
    found = decode(tmp_path / "a")
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.repeat(expected[..., None], 3, axis=-1))


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    colour = Image.new("RGB", (16, 16), (200, 120, 40))
    colour.convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(np.asarray(decode(tmp_path / "a.jpg"))[8, 8], (200, 120, 40), atol=4)


def test_orientation_tag_is_ignored(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "plain.jpg")
    assert Image.open(tmp_path / "turned.jpg").getexif()[0x0112] == 6
    np.testing.assert_array_equal(
        np.asarray(decode(tmp_path / "turned.jpg")), np.asarray(decode(tmp_path / "plain.jpg"))
    )


JPEG = stored(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")


@pytest.mark.parametrize(
    "data",
    [
        JPEG[: len(JPEG) // 2],
        JPEG[:20],
        b"",
        b"<html>not found</html>",
        stored(Image.fromarray(GREY))[:-30],
        stored(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        None,
    ],
    ids=["half", "header", "empty", "html", "png", "float", "absent"],
)
def test_what_cannot_be_decoded_names_the_file(tmp_path, data):
    path = tmp_path / "bird.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CellError, match=r"bird\.jpg: cannot be decoded \(.+\); restore the file") as caught:
        decode(path)
    assert "\n" not in str(caught.value)


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CellError, match=r"bomb\.png: cannot be decoded"):
        decode(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(CellError, match=r"bomb\.png: .*16 by 16 pixels"):
        decode(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 256)
    assert decode(tmp_path / "bomb.png").size == (16, 16)
