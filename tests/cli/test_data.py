"""The commands around data sets, and a run over several of them."""

import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.config import schema
from bench.config.plan import Context, plan
from bench.config.schema import Request
from bench.data.datasets import open_dataset
from tests.support.cub_trees import make_cars, make_dogs, make_tree, picture
from tests.support.samples import Silent


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with three data sets under their usual names."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BENCH_DATA", raising=False)
    base = tmp_path / "sets"
    (base / "CUB_200_2011").mkdir(parents=True)
    make_tree(base / "CUB_200_2011", 12)
    make_cars(base / "stanford_cars")
    make_dogs(base / "stanford_dogs", boxes=False)
    return base


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_list_tells_what_is_found_and_how_to_get_the_rest(place):
    rows = {row["name"]: row for row in json.loads(call("data", "list", "--data-root", place, "--json").stdout)}
    assert rows["cars"]["found"] == str(place / "stanford_cars")
    assert rows["imagenet"]["found"] is None
    assert rows["imagenet"]["looked_for"] == str(place / "imagenet")
    assert rows["cub"]["get"] == "python -m bench data fetch cub"
    text = call("data", "list", "--data-root", place).output
    assert f"looked in {place} (--data-root)" in text
    assert "imagenet: image-net.org asks for a login" in text


def listed(*arguments):
    return {row["name"]: row for row in json.loads(call("data", "list", *arguments, "--json").stdout)}


def test_folder_is_listed_where_verify_would_take_it(place, tmp_path):
    own = tmp_path / "home/data"
    make_tree(own / "demo-2", 6)
    assert listed()["folder"]["found"] is None
    assert listed()["cub"]["get"] == "python -m bench data fetch cub"
    assert "no class folders with images" in call("data", "verify", "folder").stderr
    pictures = own / "demo-2/images"
    assert listed("--data-root", pictures)["folder"]["found"] == str(pictures)
    assert call("data", "verify", "folder", "--data-root", pictures).exit_code == 0
    (tmp_path / "own/train").mkdir(parents=True)
    assert listed("--data-root", tmp_path / "own")["imagenet"]["found"] is None


def test_trees_under_other_names_are_listed_with_what_to_write(place):
    for usual, here in (("CUB_200_2011", "cub50"), ("stanford_cars", "cars10"), ("stanford_dogs", "dogs10")):
        (place / usual).rename(place / here)
    rows = listed("--data-root", place)
    text = call("data", "list", "--data-root", place).output
    for name, here in (("cub", "cub50"), ("cars", "cars10"), ("dogs", "dogs10")):
        assert rows[name]["found"] is None
        assert f"{name}: {here} in that folder has this layout: add --set {name}.folder={here}\n" in text
        assert listed("--data-root", place, "--set", f"{name}.folder={here}")[name]["found"] == str(place / here)
    assert "fetch" not in text
    ran = call("run", "--methods", "ours", "--datasets", "cub", "--data-root", place)
    assert ran.exit_code == 2
    assert "images.txt; cub50 in that folder has this layout: add --set cub.folder=cub50" in ran.stderr


def test_verify_names_what_is_wrong(place):
    fine = call("data", "verify", "dogs", "--data-root", place)
    assert fine.exit_code == 0, fine.output
    assert "nothing is wrong" in fine.output
    file = place / "stanford_cars/cars_test/00002.png"
    file.write_bytes(file.read_bytes()[:99])
    broken = call("data", "verify", "cars", "--data-root", place)
    assert broken.exit_code == 1
    assert "image: cars_test/00002.png: cannot be decoded" in broken.output
    assert "1 anomalies" in broken.output
    report = json.loads(call("data", "verify", "cars", "--data-root", place, "--json").stdout)
    assert report["images"] == {"train": 6, "test": 6}
    assert [anomaly["where"] for anomaly in report["anomalies"]] == ["cars_test/00002.png"]


def test_prepare_makes_what_run_uses(place, tmp_path):
    arguments = ("data", "prepare", "cub", "--data-root", place / "CUB_200_2011", "--set", "cub.protocol.size=16")
    first = call(*arguments)
    assert first.exit_code == 0, first.output
    assert "8 train, 4 test images, protocol bbox-16-truncated" in first.output
    (folder,) = [path for path in (tmp_path / "home/prepared").iterdir() if path.is_dir()]
    assert folder.name in first.output.replace("\n", "")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert call(*arguments).exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


WRONG = {
    "unknown": (("verify", "cubb"), "did you mean 'cub'?"),
    "not there": (("prepare", "imagenet"), "imagenet not found"),
    "by hand": (("fetch", "cars"), "from a copy of Stanford Cars"),
    "own": (("fetch", "folder"), "DIR/train/CLASS"),
    "no boxes": (("prepare", "dogs", "--set", "dogs.protocol.crop=bbox"), "has no boxes to crop to"),
    "no protocol": (("prepare", "dogs", "--set", "dogs.protocol=hole"), "did you mean 'whole'?"),
    "no option": (("verify", "folder", "--set", "folder.options.sede=1"), "did you mean 'seed'?"),
    "no such folder": (("verify", "cub", "--set", "cub.folder=x/y"), "x/y not found"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(name, place):
    arguments, message = WRONG[name]
    result = call("data", *arguments, "--data-root", place)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert message in line


@pytest.mark.slow
def test_a_run_over_three_data_sets(place):
    """Consistency and stability are n/a with their reason where there are no key-points; nothing fails."""
    settings = [
        *(f"{name}.protocol.size=32" for name in ("cub", "cars", "dogs")),
        "pretrained=false", "ours.k=2", "classifier.schedule.phases.0.epochs=1",
        "protopnet.schedule.phases.0.epochs=1", "protopnet.schedule.phases.1.epochs=1",
    ]  # fmt: skip
    result = call(
        "run", "--methods", "ours,protopnet", "--datasets", "cub,cars,dogs", "--data-root", place, "--backbones",
        "tiny", "--recipe", "demo", "--device", "cpu", "--no-tracking",
        *[part for setting in settings for part in ("--set", setting)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(call("results", "--json").stdout)
    for name in ("cars", "dogs"):
        own = {(row["method"], row["metric"]): row for row in rows if row["dataset"] == name}
        for method in ("ours", "protopnet", "blackbox"):
            assert own[method, "accuracy"]["status"] == "ok"
            for metric in ("consistency", "stability"):
                assert own[method, metric]["status"] == "n/a"
                assert own[method, metric]["reason"] == f"{name} has no part key-points"
        assert own["constant", "accuracy"]["reason"] == "constant predicts no class"
        assert own["constant", "stability"]["reason"] == f"{name} has no part key-points"
    assert {row["status"] for row in rows} == {"ok", "n/a"}
    assert {row["status"] for row in rows if row["dataset"] == "cub" and row["method"] == "ours"} == {"ok"}


def test_boxes_do_for_masks_on_whole_images(place):
    sizes = [part for name in ("cub", "cars") for part in ("--set", f"{name}.protocol.size=32")]
    result = call("run", "--methods", "center", "--no-controls", "--datasets", "cub,cars", "--data-root", place,
                  "--metrics", "mask_energy", "--no-tracking", *sizes)  # fmt: skip
    assert result.exit_code == 0, result.output
    found = {(row["dataset"], row["metric"]): row for row in json.loads(call("results", "--json").stdout)}
    assert found["cars", "mask_energy"]["status"] == "ok"
    assert found["cars", "mask_energy.boxes"]["value"] == 100
    assert "no object masks" in found["cub", "mask_energy"]["reason"]


def test_black_box_recipe_of_each_data_set_is_the_papers(place, tmp_path):
    """Section 4.2 mirrors birds only; appendix B has a policy for cars and one for dogs. `--set` still has its way."""

    def planned(*overrides):
        names = ("cub", "cars", "dogs")
        request = Request(
            methods=("blackbox",), datasets=names, backbones=("tiny",), recipe="published", controls=False,
            overrides={f"{name}.protocol.size": 32 for name in names} | {"pretrained": False} | dict(overrides),
        )  # fmt: skip
        cells = plan(request, Context(tmp_path, Silent(), data_root=place))
        return {cell.spec.dataset: cell.spec.black_box["schedule"]["augment"] for cell in cells}

    assert planned() == {"cub": "flip", "cars": "prototree2021", "dogs": "resized_crop"}
    assert set(planned(("classifier.schedule.augment", "none")).values()) == {"none"}


def test_verify_caps_each_kind_and_counts_the_rest(place):
    root = place / "CUB_200_2011"
    locations = root / "parts/part_locs.txt"
    lines = locations.read_text().splitlines()
    locations.write_text("\n".join(line.rpartition(" ")[0] + " 7" if n < 14 else line for n, line in enumerate(lines)))
    broken = root / "images/002.Wren/bird_3.png"
    broken.write_bytes(broken.read_bytes()[:99])
    (root / "images/002.Wren/bird_1.png").unlink()
    result = call("data", "verify", "cub", "--data-root", place)
    assert result.exit_code == 2, result.output  # `run` refuses it
    assert result.output.count("visible flag '7'") == 10
    assert "  part_locs.txt: ... and 4 more; --json has all of them" in result.output
    assert "image: 002.Wren/bird_3.png: cannot be decoded" in result.output
    assert "16 anomalies: 14 part_locs.txt, 1 missing, 1 image" in result.output
    report = json.loads(call("data", "verify", "cub", "--data-root", place, "--json").stdout)
    assert len(report["anomalies"]) == 16
    assert report["refused"] is True


def test_trees_unpacked_twice_over_and_as_on_kaggle(place, tmp_path):
    def images(name):
        result = call("data", "verify", name, "--data-root", place, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["images"]

    before = {name: images(name) for name in ("cub", "cars", "dogs")}
    digests = {name: opened(name, place, tmp_path).digest for name in before}
    (place / "CUB_200_2011").rename(place / "x")
    (place / "CUB_200_2011").mkdir()
    (place / "x").rename(place / "CUB_200_2011/CUB_200_2011")
    for name, around in (("cars_train", "cars_train"), ("cars_test", "cars_test"), ("devkit", "car_devkit")):
        (place / "stanford_cars" / name).rename(place / "x")
        (place / "stanford_cars" / around).mkdir()
        (place / "x").rename(place / "stanford_cars" / around / name)
    annotations = place / "stanford_cars/cars_test_annos_withlabels.mat"
    annotations.rename(annotations.with_stem("cars_test_annos_withlabels (1)"))
    (place / "stanford_dogs/Images").rename(place / "x")
    (place / "stanford_dogs/images").mkdir()
    (place / "x").rename(place / "stanford_dogs/images/Images")
    assert {name: images(name) for name in before} == before
    assert opened("cub", place, tmp_path).digest == digests["cub"]
    # Two of them: which one is meant is asked.
    (place / "CUB_200_2011/again").mkdir()
    (place / "CUB_200_2011/again/images.txt").write_text("")
    result = call("data", "verify", "cub", "--data-root", place)
    assert result.exit_code == 2
    assert "in CUB_200_2011/ and again/ (name one: --data-root " in result.stderr


def opened(name, place, home):
    settings = schema.dataset_config(name, {})
    return open_dataset(name, settings.reader or name, settings.folder, place, home, Silent())


def test_unlabelled_test_cars_are_named(place):
    file = place / "stanford_cars/cars_test_annos_withlabels.mat"
    file.rename(file.parent / "devkit/cars_test_annos.mat")
    result = call("run", "--methods", "ours", "--datasets", "cars", "--data-root", place)
    assert result.exit_code == 2
    assert "cars_test_annos_withlabels.mat is missing (" in result.stderr
    assert "devkit/cars_test_annos.mat has no labels)" in result.stderr


def test_verify_run_and_decompose_say_the_same_numbers(tmp_path, monkeypatch):
    """Of one folder with all kinds of things in it; what was left out is in the log and in the results."""
    import timm
    import torch

    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    root = tmp_path / "set"
    for number in range(6):
        picture(root / f"cat/{number}.png", number)
        picture(root / f"dog/husky/{number}.png", 100 + number)
        picture(root / f"dog/.ipynb_checkpoints/{number}.png", 200 + number)
        picture(root / f"@eaDir/{number}.png", 300 + number)
    (root / "cat/notes.txt").write_text("no image")
    note = "left out: of the system: 6 (@eaDir), not an image: 1 (cat/notes.txt), hidden: 6 (dog/.ipynb_checkpoints)"

    looked = call("data", "verify", "folder", "--data-root", root)
    assert looked.exit_code == 0, looked.output
    assert "folder: 8 train, 4 test images of 2 classes" in looked.output.replace("\n", " ")
    assert note in looked.output
    verified = json.loads(call("data", "verify", "folder", "--data-root", root, "--json").stdout)
    assert verified["images"] == {"train": 8, "test": 4}
    assert {reason: entry["files"] for reason, entry in verified["left_out"].items()} == {
        "of the system": 6, "not an image": 1, "hidden": 6
    }  # fmt: skip

    settings = ("folder.protocol.size=32", "pretrained=false", "classifier.schedule.phases.0.epochs=1")
    ran = call(
        "run", "--methods", "blackbox", "--datasets", "folder", "--data-root", root, "--backbones", "tiny", "--recipe",
        "demo", "--metrics", "accuracy", "--no-controls", "--no-tracking", "--device", "cpu",
        *[part for setting in settings for part in ("--set", setting)],
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert note in ran.output
    (result,) = (tmp_path / "home").glob("cells/*/result/result.json")
    stored = json.loads(result.read_text())
    assert stored["images"] == verified["images"]
    assert stored["left_out"] == verified["left_out"]
    assert note in (result.parent / "log.txt").read_text()

    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t", num_classes=2).state_dict(), tmp_path / "w.pth")
    decomposed = call(
        "decompose", "--model", "timm:resnet10t", "--weights", tmp_path / "w.pth", "--data", root, "--k", "2", "--out",
        tmp_path / "out", "--draw", "0", "--device", "cpu",
    )  # fmt: skip
    assert decomposed.exit_code == 0, decomposed.output
    assert f"12 images of 2 classes in {root}; {note}" in decomposed.output
    facts = json.loads((tmp_path / "out/prototypes.json").read_text())
    assert facts["facts"]["images"] == sum(verified["images"].values())
    assert facts["left_out"] == verified["left_out"]
