"""Figures of prototypes, from cells that were really run on a few drawn birds."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from bench.cli.main import main
from bench.contract import RequestError
from bench.report.plots import style
from bench.results.result_set import ResultSet
from bench.results.store import Store
from bench.runner.cell import CellRunner
from bench.runner.intervene import intervene
from bench.runner.progress import ConsoleProgress
from bench.visualization import paper_figures
from bench.visualization.explanations import EXPLANATIONS, chosen_images
from bench.visualization.gallery import draw_class
from bench.visualization.image_rows import Row, draw_rows
from bench.visualization.intervention import draw_case
from bench.visualization.panels import _apart
from bench.visualization.viewer import Viewer, chosen_classes
from metrics.parts import hits
from metrics.peaks import peaks
from tests.support.small_birds import few_birds, quick


def run(home, birds, *arguments):
    command = ["run", "--no-tracking", *quick(arguments), "--data-root", str(birds), "--out", str(home), *arguments]
    result = CliRunner().invoke(main, command, env={"BENCH_HOME": str(home)})
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    home = tmp_path_factory.mktemp("figures")
    birds = few_birds(tmp_path_factory.mktemp("birds"))
    run(home, birds, "--methods", "ours,protopnet")
    run(home, birds, "--methods", "ours", "--set", "ours.k=5", "--metrics", "accuracy,consistency", "--no-controls")
    unscored = ["--set", "ours.refinement=naive", "--metrics", "accuracy", "--no-controls"]
    run(home, birds, "--methods", "ours", *unscored)
    run(home, birds, "--methods", "gradcam,dff", "--metrics", "accuracy,consistency", "--no-controls")
    return Store(home)


def opened(store, name):
    from rich.console import Console

    progress = ConsoleProgress(Console(), quiet=True)
    return Viewer(CellRunner(store, name, store.root, torch.device("cpu"), progress))


def cell_of(store, method, **settings):
    return next(
        name
        for name in store.cells()
        if (spec := store.specification(name)["spec"])["method"] == method
        and settings.items() <= spec["settings"].items()
    )


@pytest.fixture(scope="module")
def ours(store):
    return opened(store, cell_of(store, "ours", k=3, refinement="lbfgs"))


@pytest.fixture(scope="module")
def protopnet(store):
    return opened(store, cell_of(store, "protopnet"))


def table(viewer, name):
    with (viewer.cell.folder.result / "items" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["ours", "protopnet", "constant", "random"])
def test_peaks_and_verdicts_are_those_that_the_cell_stored(store, method):
    settings = {"k": 3, "refinement": "lbfgs"} if method == "ours" else {}
    viewer = opened(store, cell_of(store, method, **settings))
    images, prototypes = table(viewer, "consistency.image"), table(viewer, "consistency.prototype")
    for label in range(3):
        look = viewer.look(label)
        own = [row for row in images if row["class"] == str(label)]
        assert look.peaks.flatten(0, 1).tolist() == [[int(row["row"]), int(row["column"])] for row in own]
        rows = [row for row in prototypes if row["class"] == str(label)]
        assert look.prototypes.tolist() == [int(row["prototype"]) for row in rows]
        assert look.regions.consistent.tolist() == [row["consistent"] == "1" for row in rows]
        best = [look.regions.best(slot, 1) for slot in range(len(rows))]
        assert [pairs[0][1] if pairs else 0 for pairs in best] == [float(row["best_rate"]) for row in rows]


def test_the_region_that_is_drawn_is_the_metrics(ours):
    look = ours.look(1)
    expected = hits(look.peaks, look.keypoints, look.visible, look.regions.half, look.size)
    counts = torch.zeros(expected.shape[1:])
    for image in range(len(look.index)):
        for slot in range(len(look.prototypes)):
            assert torch.equal(look.inside(image, slot), expected[image, slot])
            counts[slot] += look.inside(image, slot)
    shown = look.visible.sum(0)
    rates = torch.where(shown > 0, counts.double() / shown.clamp(min=1), -1.0)
    assert torch.equal(rates, look.regions.rates)


def boxes(axes):
    return [p for p in axes.patches if isinstance(p, Rectangle) and p.get_gid() == "region"]


def test_page_shows_regions_and_keypoints_as_the_metric(ours):
    look = ours.look(2)
    drawing = draw_class(ours, 2, columns=3, shown=("region", "keypoints"))
    panels = [axes for axes in drawing.figure.axes if boxes(axes)]
    k = len(look.prototypes)
    assert len(panels) == 3 + 3 * k
    top = look.top(3)
    for slot in range(k):
        for place, image in enumerate(top[slot].tolist()):
            axes = panels[3 + 3 * slot + place]
            edge = boxes(axes)[-1]
            up, left, down, right = look.box(image, slot)
            assert (edge.get_x(), edge.get_y(), edge.get_width(), edge.get_height()) == (
                left,
                up,
                right - left,
                down - up,
            )
            assert to_hex(edge.get_edgecolor()).upper() == style.colour(slot)
            dots = {one.get_gid(): sorted(one.get_offsets().tolist()) for one in axes.collections}
            points = look.keypoints[image].flip(1)
            inside = look.inside(image, slot)
            assert dots["inside"] == sorted(points[inside].tolist())
            assert dots["outside"] == sorted(points[look.visible[image] & ~inside].tolist())
            assert axes.get_title() == f"{float(look.strengths[image, slot]):.3g}"


def texts(axes, gid="absent"):
    return [text.get_text() for text in axes.texts if text.get_gid() == gid]


def without(look, absent):
    """The same look with some ``(image, slot)`` turned negative everywhere."""
    maps = look.maps.clone()
    for image, slot in absent:
        maps[image, slot] = -1 - maps[image, slot].abs()
    return replace(look, maps=maps)


def test_absent_prototypes_are_drawn_as_absent(ours, monkeypatch):
    before = ours.look(2)
    before = replace(before, maps=before.maps.abs() + 1e-3)
    monkeypatch.setattr(ours, "look", lambda label: before)
    assert "absent" not in draw_class(ours, 2, columns=2).alt.lower()
    every = [(image, 1) for image in range(len(before.index))]
    look = without(before, [(0, 0), *every])
    monkeypatch.setattr(ours, "look", lambda label: look)
    width = 2
    drawing = draw_class(ours, 2, columns=width, shown=("region", "keypoints"))
    axes = [one for one in drawing.figure.axes if one.images and one.get_title() != "training patch"]
    together, own = axes[:width], axes[width:]
    assert [texts(one) for one in together] == [["absent: 1, 2"], ["absent: 2"]]
    assert [len(texts(one, None)) for one in together] == [1, 2]  # the numbers of those that are there
    for slot in range(3):
        for one in own[width * slot :][:width]:
            assert texts(one) == (["absent"] if slot == 1 else [])
            crosses = [line for line in one.lines if line.get_marker() == "+"]
            assert len(crosses) == (0 if slot == 1 else 2)
    plain = (look.pictures + look.pictures.mean(-1, keepdim=True)) / 2  # as drawn where no prototype is
    for image, one in zip(look.top(width)[1].tolist(), own[width:], strict=False):
        np.testing.assert_allclose(one.images[0].get_array(), plain[image], atol=1e-6)
    assert "Absent: the map is nowhere positive in that image" in drawing.guide
    assert "Prototype 1 is absent from image 1; prototype 2 is absent from image 1, 2." in drawing.alt
    assert "Prototype 2 is absent from 2 of its own 2." in drawing.alt
    rows = draw_rows("figure8", "t", [Row("r", "", look)], width, (), "c", [])
    assert "prototype 1 is absent from image 1; prototype 2 is absent from image 1, 2" in rows.alt
    assert "nowhere positive" in rows.caption


def test_figure_7_says_which_prototypes_are_absent(ours, monkeypatch):
    result = intervene(ours.cell)
    explain = result.model.explain

    def negative(images, classes=None):
        seen = explain(images, classes)
        maps = seen.maps.clone()
        maps[:, 2] = -1 - maps[:, 2].abs()
        return replace(seen, maps=maps)

    monkeypatch.setattr(result.model, "explain", negative)
    drawing = draw_case(result, 0, 0)
    assert [texts(axes) for axes in drawing.figure.axes[1:4]] == [[], [], ["absent"]]
    assert drawing.caption.endswith("nowhere positive in this image: prototype 3.")
    assert "is absent and contributes" in drawing.alt


def test_the_strongest_images_come_first(ours):
    look = ours.look(0)
    for slot, images in enumerate(look.top(3).tolist()):
        strengths = look.maps[:, slot].flatten(1).amax(1)
        assert strengths[images].tolist() == sorted(strengths.tolist(), reverse=True)[:3]
    assert (look.index == (ours.test.labels == 0).nonzero()[:, 0]).all()


def test_looking_at_a_class_is_explaining_its_images(protopnet):
    look = protopnet.look(1)
    batch = next(iter(protopnet.test.batches(8, index=look.index)))
    with torch.no_grad():
        seen = protopnet.model.explain(batch.images)
    torch.testing.assert_close(look.maps, seen.maps[:, look.prototypes], rtol=1e-5, atol=1e-5)
    assert look.predictions.tolist() == seen.logits.argmax(1).tolist()
    stored = protopnet.test.images[protopnet.test.rows[look.index].numpy()]
    torch.testing.assert_close(look.pictures * 255, torch.from_numpy(stored).float(), rtol=0, atol=1e-3)


def test_source_is_the_patch_of_the_projection(protopnet):
    found = 0
    for prototype in protopnet.look(0).prototypes.tolist():
        source = protopnet.source(prototype, 0)
        image = int(protopnet.model.prototypes.source_image[prototype])
        if source is None:
            assert image < 0
            continue
        found += 1
        assert source.image == protopnet.train.ids[image]
        row, column = protopnet.model.prototypes.source_patch[prototype].tolist()
        # Projected: nothing on that image is more like the prototype than this patch.
        assert float(source.map[row, column]) == pytest.approx(float(source.map.max()), rel=1e-5)
        height, width = source.map.shape
        box = (row * 224 / height, column * 224 / width, (row + 1) * 224 / height, (column + 1) * 224 / width)
        assert source.box == pytest.approx(box)
    assert found


def test_a_class_with_fewer_prototypes_than_others_is_drawn(store):
    """ProtoPool's classes share theirs, and some hold one twice."""
    viewer = opened(store, cell_of(store, "protopnet"))
    whole = viewer.look(0)
    viewer.model.prototypes.classes[whole.prototypes[1], 0] = False
    look = viewer.look(0)
    kept = [slot for slot in range(len(whole.prototypes)) if slot != 1]
    assert look.prototypes.tolist() == whole.prototypes[kept].tolist()
    torch.testing.assert_close(look.maps, whole.maps[:, kept])
    assert torch.equal(look.peaks, whole.peaks[:, kept])
    assert draw_class(viewer, 0, columns=2).figure.axes


def test_control_has_no_source_and_no_prediction_verdict(store):
    viewer = opened(store, cell_of(store, "constant"))
    drawing = draw_class(viewer, 0, columns=2)
    titles = [axes.get_title() for axes in drawing.figure.axes]
    assert "training patch" not in titles
    assert "correct" not in titles
    assert "come from no single training patch" in drawing.guide


def test_rows_for_each_number_of_prototypes(store):
    drawing = paper_figures.sizes(ResultSet.of(store).cells, lambda name: opened(store, name), columns=2)
    assert drawing.cells == tuple(cell_of(store, "ours", k=k, refinement="lbfgs") for k in (3, 5))
    ((what, command),) = drawing.missing
    assert what == "k = 10"
    assert command.endswith("--set ours.k=10")
    assert "k = 3: 2 images" in drawing.alt
    assert "with 5 prototypes" in drawing.alt


def test_architectures_say_what_sets_them_apart(store):
    drawing = paper_figures.architectures(
        ResultSet.of(store).cells, lambda name: opened(store, name), classes=["1"], columns=2
    )
    assert drawing.missing[0].command.endswith("--backbones resnet34,vit_b_32,coc_tiny --recipe demo")
    texts = [text.get_text() for axes in drawing.figure.axes for text in axes.texts]
    assert "tiny" in texts
    assert any("M parameters" in text and "negative features: none" in text for text in texts)


def test_a_cell_without_part_metrics_is_drawn_without_regions(store):
    viewer = opened(store, cell_of(store, "ours", refinement="naive"))
    look = viewer.look(0)
    assert look.regions is None
    assert torch.equal(look.peaks, peaks(look.maps))
    drawing = draw_class(viewer, 0, columns=2)
    assert "Percentages" not in drawing.guide
    with pytest.raises(RequestError, match="--show region: no part metric was measured in this cell"):
        draw_class(viewer, 0, columns=2, shown=("region",))


def test_classes_by_number_and_name(ours):
    assert chosen_classes(ours, (), 2) == [0, 1]
    assert chosen_classes(ours, (), 9) == [0, 1, 2]
    assert chosen_classes(ours, ("2", ours.class_names[1], ours.test.class_names[0]), 4) == [2, 1, 0]
    wrong = ours.class_names[1][:-2]
    with pytest.raises(RequestError, match=f"no class '{wrong}'; did you mean '{ours.class_names[1]}'"):
        chosen_classes(ours, (wrong,), 4)
    with pytest.raises(RequestError, match="no class '3'"):
        chosen_classes(ours, ("3",), 4)


def test_numbers_of_peaks_keep_apart():
    placed = _apart(torch.tensor([[100, 100], [100, 101], [101, 100], [0, 0], [223, 223]]), 224)
    assert placed[0] == (100, 100)
    for i, one in enumerate(placed):
        assert all(0 < coordinate < 224 for coordinate in one)
        assert all((one[0] - x) ** 2 + (one[1] - y) ** 2 > 20**2 for x, y in placed[:i])


def figure(store, folder, *arguments):
    command = ["figure", *arguments, "--out", str(store.root), "--to", str(folder), "--device", "cpu"]
    return CliRunner().invoke(main, command, env={"BENCH_HOME": str(store.root)})


def test_figure_1_has_a_column_for_each_explanation(store):
    cells = ResultSet.of(store).cells
    drawing = paper_figures.explanations(cells, lambda name: opened(store, name), columns=2, shown=("region",))
    panels = [axes for axes in drawing.figure.axes if axes.images]
    assert len(panels) == 2 * 4
    assert [axes.get_title() for axes in panels[:4]] == ["image", *EXPLANATIONS.values()]
    models = [opened(store, name) for name in drawing.cells]
    assert [viewer.cell.spec.method for viewer in models] == list(EXPLANATIONS)
    for place, axes in enumerate(panels):
        row, column = divmod(place, 4)
        if column == 0:
            continue
        viewer = models[column - 1]
        label = int(viewer.test.labels[chosen_images(viewer, [panels[4 * row].get_xlabel()], -1, 1)[0]])
        look = viewer.look(label)
        assert len(boxes(axes)) == 2 * len(look.prototypes)
        with torch.no_grad():
            shown = viewer.model.explain(batch_of(viewer, look.index[row]), torch.tensor([label]))
        bias = float(viewer.model.offset(torch.tensor([label]))[0])
        part, whole = float(shown.scores.sum()), float(shown.logits[0, label]) - bias
        assert axes.get_xlabel() == f"shows {part:+.1f} of {whole:+.1f}"


def batch_of(viewer, image):
    return next(iter(viewer.test.batches(1, index=image[None]))).images


def test_figure_1_of_a_chosen_image_and_without_some_methods(store, tmp_path):
    cells = [cell for cell in ResultSet.of(store).cells if cell.spec["method"] != "dff"]
    found = paper_figures.explanations(cells, lambda name: opened(store, name), images=["3"])
    assert len([axes for axes in found.figure.axes if axes.images]) == 3
    assert "--methods dff" in found.missing[0].command
    result = figure(store, tmp_path, "1", "--image", "3", "--format", "png")
    assert result.exit_code == 0, result.output
    result = figure(store, tmp_path, "1", "--image", "x.jpg")
    assert result.exit_code == 2
    assert "no test image 'x.jpg'" in result.stderr


def test_the_command_draws_the_same_bytes_again(store, tmp_path):
    for folder in ("a", "b"):
        result = figure(store, tmp_path / folder, "8", "gallery", "--count", "1", "--images", "2", "--show", "region")
        assert result.exit_code == 0, result.output
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == [
        f"{name}.{form}" for name in ("figure8-ours", "gallery-ours-000") for form in ("pdf", "png", "txt")
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert "Alt text: Rows of images" in (tmp_path / "a" / "figure8-ours.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["8", "--show", "peaks"], "--show peaks: write region, keypoints"),
        (["8", "--format", "gif"], "--format gif: write pdf, svg, png"),
        (["8", "--cell", "zzz"], "no cell 'zzz'"),
        (["6", "--classes", "0,1"], "this figure is about one class; 2 were named"),
        (["9"], "'9' is not one of"),
    ],
)
def test_wrong_requests(store, tmp_path, arguments, message):
    result = figure(store, tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_all_draws_what_it_can_and_says_what_it_cannot(store, tmp_path):
    result = figure(store, tmp_path, "all", "--count", "1", "--images", "2", "--format", "png")
    assert result.exit_code == 0, result.output
    names = {file.stem for file in tmp_path.iterdir()}
    assert {"figure4", "figure6", "figure8-ours", "interpretability-cub", "cost-cub", "figure5-cub-tiny"} <= names
    drawn = "figure7" in names
    assert drawn != ("figure 7 is not drawn: " in result.output)


def test_unfinished_cells_are_refused_with_the_command(store, tmp_path):
    name = cell_of(store, "ours", k=3)
    written = store.specification(name)
    unfinished = Store(tmp_path)
    (tmp_path / "cells" / name).mkdir(parents=True)
    (tmp_path / "cells" / name / "cell.json").write_text(json.dumps(written))
    with pytest.raises(RequestError, match=f"cell {name} is not finished: python -m bench cell"):
        opened(unfinished, name)
    result = figure(unfinished, tmp_path / "to", "8")
    assert result.exit_code == 2
    assert "no cell of a method is finished: python -m bench run" in result.stderr
