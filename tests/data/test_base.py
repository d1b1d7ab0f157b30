"""What all readers share: folders that cannot be read, files that are not there, other splits."""

import os
import shutil

import pytest

from bench.contract import RequestError
from bench.data.cars import Cars
from bench.data.cub import Cub
from bench.data.dogs import Dogs
from bench.data.image_folder import ImageFolder
from tests.support.cub_trees import make_cars, make_dogs, make_tree, picture


def birds(root):
    root.mkdir()
    return Cub, make_tree(root), "images/001.Auk"


def cars(root):
    return Cars, make_cars(root), "cars_train"


def dogs(root):
    return Dogs, make_dogs(root), "Images/n1-Chow"


def own(root):
    for name in ("a", "b"):
        for number in range(3):
            picture(root / name / f"{number}.png", number)
    return ImageFolder, root, "a"


@pytest.mark.parametrize("make", [birds, cars, dogs, own])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, make):
    kind, root, inner = make(tmp_path / "set")
    kind(root)
    shutil.rmtree(root / inner)
    (root / inner).symlink_to(root / inner)  # unreadable for everyone, the administrator too
    with pytest.raises(RequestError, match=rf"{inner}: cannot be read \(.*link") as caught:
        kind(root)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
@pytest.mark.parametrize("make", [birds, cars, dogs, own])
def test_a_folder_without_permission_is_named(tmp_path, make):
    kind, root, inner = make(tmp_path / "set")
    (root / inner).chmod(0)
    try:
        with pytest.raises(RequestError, match=rf"{inner}: cannot be read \(Permission denied\)"):
            kind(root)
    finally:
        (root / inner).chmod(0o755)


@pytest.mark.parametrize("make", [birds, cars, dogs, own])
def test_other_splits_are_refused(tmp_path, make):
    kind, root, _ = make(tmp_path / "set")
    with pytest.raises(RequestError, match=r"no split 'validation' in .*; there are train and test"):
        kind(root).split("validation")


@pytest.mark.parametrize("make", [birds, cars, dogs, own])
def test_the_digest_is_of_the_content_alone(tmp_path, make):
    kind, root, _ = make(tmp_path / "set")
    before = kind(root).digest
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert kind(moved, tmp_path / "cache").digest == before
    image = kind(moved).split("train")[0].path
    image.write_bytes(image.read_bytes() + b"\0")
    assert kind(moved, tmp_path / "cache").digest != before
