"""Scatter plots over all methods: what is plotted where, what is said, and what is missing."""

import itertools
import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from matplotlib.text import Text
from PIL import Image

from bench.cli.main import main
from bench.core import registry
from bench.core.errors import RequestError
from bench.core.registry import UnknownName
from bench.report.plots import style
from bench.report.plots.figure import Missing
from bench.report.plots.plot import colour_of
from bench.report.plots.scatter import cost, headline, interpretability
from bench.results.result_set import ResultSet
from tests.support.stores import StoreMaker, control, epoch, reseal, scores


def marks(drawing, metric):
    """Label -> the place of its mark in the panel of a metric."""
    found = {}
    for axes in drawing.figure.axes:
        for container in axes.containers:
            gid = container.lines[0].get_gid()
            if gid.endswith(f" {metric}"):
                found[gid.removesuffix(f" {metric}")] = container.lines[0].get_xydata()[0].tolist()
    return found


@pytest.fixture
def compared(maker):
    maker.cell("ours", scores(70.0, 80.0, 90.0), settings={"k": 3}, black_box_id="feed00000001")
    maker.cell("protopnet", scores(60.0, 85.0, 75.0))
    maker.cell("blackbox", scores(50.0, 75.0, 92.0), role="reference")
    control(maker, "constant", 65.0)
    control(maker, "random", 5.0)
    maker.cell("tesnet", failure=("failed", "loss became nan"))
    maker.black_box("feed00000001", [epoch(0, "all", 0.8), epoch(1, "all", 0.4)])
    return maker


def test_scatter_places_methods_and_draws_controls_as_lines(compared):
    (drawing,) = interpretability(compared.store)
    assert marks(drawing, "consistency") == {"ours": [90, 70], "protopnet": [75, 60], "blackbox": [92, 50]}
    assert marks(drawing, "stability")["ours"] == [90, 80]
    first = drawing.figure.axes[0]
    lines = {line.get_gid(): line.get_ydata()[0] for line in first.lines if line.get_gid().startswith("control")}
    assert lines == {"control constant": 65.0, "control random": 5.0}
    ((what, command),) = drawing.missing
    assert what == "tesnet (tiny): failed: loss became nan"
    assert command.startswith("python -m bench cell cells/")
    assert "ours on tiny: accuracy (%) 90, consistency 70.0, stability 80.0" in drawing.alt
    assert "constant: consistency 65.0" in drawing.alt
    assert "Grey lines: content-free controls" in drawing.caption


def test_cost_counts_the_black_box(compared):
    (drawing,) = cost(compared.store)
    assert marks(drawing, "accuracy") == {"ours": [94, 90], "protopnet": [90, 75], "blackbox": [90, 92]}


def test_seconds_that_spread_below_zero_stay_on_the_axis(maker):
    maker.cell("ours", scores(70.0, 80.0, 90.0))
    for seed, seconds in enumerate((10.0, 3000.0)):
        folder = maker.store.cell(maker.cell("protopnet", scores(60.0, 85.0, 75.0), seed=seed)).result
        result = json.loads((folder / "result.json").read_text())
        result["seconds"]["fit"] = seconds
        (folder / "result.json").write_text(json.dumps(result))
        reseal(folder)
    (drawing,) = cost(maker.store)
    (bars,) = [one for one in drawing.figure.axes[0].containers if one.lines[0].get_gid() == "protopnet accuracy"]
    (low, _), (high, _) = bars.lines[2][0].get_segments()[0]
    assert 0 < low < marks(drawing, "accuracy")["protopnet"][0] < high


def test_what_cost_is_not_on_record_is_said(compared):
    shutil.rmtree(compared.store.root / "blackboxes")
    (drawing,) = cost(compared.store)
    assert set(marks(drawing, "accuracy")) == {"protopnet", "blackbox"}
    assert Missing("ours (tiny): seconds to fit not on record") in drawing.missing
    assert "seconds to fit not on record" in drawing.caption
    (note,) = [text.get_text() for text in drawing.figure.texts if text.get_gid() == "missing"]
    told = "Not in this picture: tesnet (tiny): failed: loss became nan; ours (tiny): seconds to fit not on record."
    assert " ".join(note.split()) == told


def test_one_point_alone_is_no_picture_and_that_is_said(compared):
    cars = {"dataset": "cars", "metrics": {"accuracy": {"version": "1", "parameters": {}}}}
    compared.cell("deformable", {"accuracy": 70.0}, **cars)
    compared.cell("ours", {"accuracy": 80.0}, settings={"k": 3}, black_box_id="0" * 12, **cars)
    (drawing,) = cost(compared.store)
    assert drawing.name == "cost-demo"
    told = (
        "no picture of cars, where one point stands alone: deformable (tiny); ours (tiny): seconds to fit not on record"
    )
    assert Missing(told) in drawing.missing
    assert told in drawing.caption
    # Of other data the picture itself says nothing.
    assert "cars" not in next(text.get_text() for text in drawing.figure.texts if text.get_gid() == "missing")


def test_single_point_in_the_store_is_an_error_with_command(maker):
    maker.cell("ours", scores(70.0))
    for figure in (cost, interpretability):
        with pytest.raises(RequestError, match=r"one point stands alone: ours \(tiny\): python -m bench run .*demo"):
            figure(maker.store)


@pytest.fixture
def changed(compared):
    """Some settings that were changed, two of them below the marks of methods as they come."""
    for k, value in ((10, 70.0), (3, 69.5), (5, 30.0)):
        compared.cell("ours", scores(value, 80.0, 90.0), label=f"ours (k={k})", settings={"k": k, "more": True})
    return compared


def test_changed_settings_are_on_top_with_numbers_in_the_legend(changed):
    (drawing,) = interpretability(changed.store)
    (legend,) = drawing.figure.legends
    entries = [text.get_text() for text in legend.get_texts()]
    assert [text for text in entries if text[0].isdigit()] == ["1: ours (k=3)", "2: ours (k=5)", "3: ours (k=10)"]
    for axes in drawing.figure.axes:
        drawn = [container.lines[0].get_gid() for container in axes.containers]
        assert all("(k=" in gid for gid in drawn[-3:])
        numbers = {text.get_gid(): text for text in axes.texts if (text.get_gid() or "").startswith("number")}
        assert set(numbers) == {"number 1", "number 2", "number 3"}
        places = sorted(text.get_position()[1] for text in numbers.values())
        assert all(b - a > 0.04 for a, b in itertools.pairwise(places))
    assert "Small marks, numbered: changed settings." in drawing.caption


def test_unchanged_method_is_unchanged_under_any_label(maker):
    """A grid that writes out the default names the same cells otherwise."""
    grid = {"label": "ours (k=3, refinement=lbfgs)", "settings": {"k": 3}, "changed": []}
    maker.cell("ours", scores(70.0), **grid)
    maker.cell("ours", scores(60.0), label="ours (k=5)", settings={"k": 5}, changed=["k"])
    maker.cell("protopnet", scores(50.0), changed=[])
    (drawing,) = interpretability(maker.store)
    assert set(marks(drawing, "consistency")) == {"ours", "ours (k=5)", "protopnet"}
    (legend,) = drawing.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours", "protopnet", "1: ours (k=5)"]
    drawn = {bars.lines[0].get_gid(): bars.lines[0].get_markersize() for bars in drawing.figure.axes[0].containers}
    assert drawn["ours consistency"] == drawn["protopnet consistency"] > drawn["ours (k=5) consistency"]


def test_points_of_other_seeds_are_named_in_the_caption(maker):
    for seed in (0, 1, 2):
        maker.cell("ours", scores(70.0), settings={"k": 3}, seed=seed)
        maker.cell("protopnet", scores(50.0), seed=seed)
    (drawing,) = interpretability(maker.store)
    assert "different seeds" not in drawing.caption
    maker.cell("ours", scores(60.0), label="ours (k=5)", settings={"k": 5}, changed=["k"], seed=1)
    (drawing,) = interpretability(maker.store)
    assert (
        "different seeds, so compare with care: ours (k=5) of seed 1; the others of seeds 0, 1, 2." in drawing.caption
    )


def test_legend_and_note_cover_nothing(changed):
    shutil.rmtree(changed.store.root / "blackboxes")
    for drawing in (*interpretability(changed.store), *cost(changed.store)):
        drawing.figure.draw_without_rendering()
        legend = drawing.figure.legends[0].get_window_extent()
        (note,) = [text.get_window_extent() for text in drawing.figure.texts if text.get_gid() == "missing"]
        assert note.y0 >= 0
        assert note.y1 <= legend.y0
        assert legend.y1 <= min(axes.get_tightbbox().y0 for axes in drawing.figure.axes)


def test_of_many_changed_settings_none_is_numbered(maker):
    maker.cell("protopnet", scores(50.0))
    for k in range(30):
        maker.cell("ours", scores(float(k)), label=f"ours (k={k})", settings={"k": k})
    (drawing,) = interpretability(maker.store)
    (legend,) = drawing.figure.legends
    assert "small: changed settings" in [text.get_text() for text in legend.get_texts()]
    assert not any((text.get_gid() or "").startswith("number") for text in drawing.figure.axes[0].texts)


def test_only_the_rows_that_are_asked_for(changed):
    def drawn(*only):
        (drawing,) = interpretability(changed.store, only=only)
        return set(marks(drawing, "consistency")), [what for what, _ in drawing.missing]

    assert drawn("default") == ({"ours", "protopnet", "blackbox"}, ["tesnet (tiny): failed: loss became nan"])
    assert drawn("protopnet", "ours (k=5)") == ({"protopnet", "ours (k=5)", "blackbox"}, [])
    with pytest.raises(UnknownName, match="--only 'protopnett': no row has that name; did you mean 'protopnet'"):
        drawn("protopnett")


def test_a_legend_names_a_dozen(maker):
    for number in range(16):
        maker.cell(f"m{number:02}", scores(5.0 * number))
    maker.cell("blackbox", scores(50.0), role="reference")
    (drawing,) = interpretability(maker.store)
    (legend,) = drawing.figure.legends
    named = [f"m{number:02}" for number in range(6, 16)]
    assert [text.get_text() for text in legend.get_texts()] == [
        *named, "blackbox (reference)", "6 others: see the caption",
    ]  # fmt: skip
    assert "Grey marks: m00, m01, m02, m03, m04, m05." in drawing.caption
    assert len(marks(drawing, "consistency")) == 17


def test_a_page_sets_width_title_and_font(changed, tmp_path):
    with style.on_page(style.Page(85 / 25.4, False, "DejaVu Serif")):
        (drawing,) = interpretability(changed.store)
        (png,) = drawing.save(tmp_path, ["png"])
        texts = [text for text in drawing.figure.findobj(Text) if text.get_text()]
        assert {text.get_fontname() for text in texts} == {"DejaVu Serif"}
    assert abs(Image.open(png).width - 85 / 25.4 * 200) <= 1
    assert drawing.smallest_letters >= 6
    assert not any("Accuracy against" in text.get_text() for text in texts)
    shown = [axes.get_position() for axes in drawing.figure.axes if axes.axison]
    assert len({round(place.x0, 2) for place in shown}) == 1  # one column
    assert {axes.get_tightbbox().x1 <= drawing.figure.bbox.x1 for axes in drawing.figure.axes} == {True}
    with pytest.raises(RequestError, match="no font 'DejaVu Serifs'; did you mean 'DejaVu Serif'"):
        style.on_page(style.Page(font="DejaVu Serifs")).__enter__()


def test_what_was_made_for_another_width_is_scaled_with_its_letters():
    with style.on_page(style.Page(width=5.0)), style.styled():
        figure = style.new_figure(10.0, 4.0, "A title")
        for _ in range(2):
            style.tame(figure)
            assert figure._suptitle.get_fontsize() == 5.0
    assert figure.get_size_inches().tolist() == [5.0, 2.0]


def test_caption_and_alt_text_are_in_a_file(changed, tmp_path):
    def drawn(*more):
        where = ["--out", str(changed.store.root), "--to", str(tmp_path), "--format", "svg"]
        return CliRunner().invoke(main, ["figure", "interpretability", *where, *more])

    done = drawn("--width", "174mm", "--only", "default")
    assert done.exit_code == 0, done.output
    (drawing,) = interpretability(changed.store, only=["default"])
    told = (tmp_path / "interpretability-demo.txt").read_text()
    assert told == f"{drawing.title}\n\nCaption: {drawing.caption}\n\nAlt text: {drawing.alt}\n"
    assert drawing.alt not in done.output
    assert "interpretability-demo.svg" in done.output
    assert 'width="493' in (tmp_path / "interpretability-demo.svg").read_text()  # 174 mm in points
    assert "write a width between" in drawn("--width", "85").stderr
    alone = CliRunner().invoke(main, ["figure", "5", "--only", "default", "--out", str(changed.store.root)])
    assert "--only means nothing for 5" in alone.stderr


def test_of_accuracy_alone_no_control_is_missed(maker):
    only = {"accuracy": {"version": "1", "parameters": {}}}
    for name in ("protopnet", "tesnet"):
        maker.cell(name, {"accuracy": 50.0}, metrics=only)
    (drawing,) = cost(maker.store)
    assert "control" not in drawing.caption


def test_coordinates_of_a_point_are_means_over_the_same_seeds(maker):
    maker.cell("ours", scores(70.0, accuracy=90.0), settings={"k": 3})
    only = {"accuracy": {"version": "1", "parameters": {}}}
    maker.cell("ours", {"accuracy": 50.0}, settings={"k": 3}, seed=1, metrics=only)
    maker.cell("protopnet", scores(60.0, accuracy=75.0))
    (drawing,) = interpretability(maker.store)
    assert marks(drawing, "consistency") == {"ours": [90, 70], "protopnet": [75, 60]}


def test_a_method_has_one_colour_whatever_else_is_plotted(tmp_path):
    few, many = StoreMaker(tmp_path / "few"), StoreMaker(tmp_path / "many")
    for name in ("tesnet", "protopool"):
        few.cell(name, scores(1.0))
    for name in ("deformable", "ours", "protopnet", "tesnet"):
        many.cell(name, scores(1.0))

    def colour(drawing):
        marks = [container.lines[0] for container in drawing.figure.axes[0].containers]
        return next(mark.get_color() for mark in marks if mark.get_gid().startswith("tesnet"))

    assert colour(interpretability(few.store)[0]) == colour(interpretability(many.store)[0])


@pytest.mark.parametrize("kind", ["pdf", "svg", "png", "webp"])
def test_the_same_store_gives_the_same_bytes(compared, tmp_path, kind):
    first, second = (interpretability(compared.store)[0].save(tmp_path / name, [kind])[0] for name in ("a", "b"))
    assert first.name == f"interpretability-demo.{kind}"
    assert first.read_bytes() == second.read_bytes()


def test_other_formats_and_bad_folders_are_refused(compared, tmp_path):
    drawing = interpretability(compared.store)[0]
    with pytest.raises(RequestError, match="unknown picture format 'gif': write pdf, svg, png"):
        drawing.save(tmp_path, ["gif"])
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="choose another folder"):
        drawing.save(tmp_path / "file", ["png"])


def test_plots_of_stored_numbers_need_no_torch(compared, tmp_path):
    script = (
        "import sys; from click.testing import CliRunner; from bench.cli.main import main\n"
        f"result = CliRunner().invoke(main, ['figure', 'cost', '--out', {str(compared.store.root)!r}, "
        f"'--to', {str(tmp_path / 'to')!r}, '--format', 'png'])\n"
        "assert result.exit_code == 0, result.output\n"
        "assert 'missing: tesnet (tiny): failed: loss became nan' in result.output\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 0
    assert (tmp_path / "to" / "cost-demo.png").is_file()


def test_the_headline_has_recipes_alone(compared):
    compared.cell("ours", scores(99.0, 99.0, 99.0), label="ours (k=5)", settings={"k": 5}, changed=["k"])
    cells = ResultSet.of(compared.store)
    (drawing,) = headline(cells, {cell.name for cell in cells})
    assert marks(drawing, "consistency") == {"ours": [90, 70], "protopnet": [75, 60], "blackbox": [92, 50]}
    assert len(drawing.figure.axes) == 1
    assert list(headline(cells, {"no such cell"})) == []


def test_two_methods_of_one_plot_have_two_colours(maker):
    known = [name for name, entry in registry.names("methods").items() if entry.role == "method"]
    pair = known[0], known[len(style.PALETTE)]
    assert colour_of(pair[0]) == colour_of(pair[1])
    for place, name in enumerate(pair):
        maker.cell(name, scores(60.0 + place))
    (drawing,) = interpretability(maker.store)
    shown = {line.get_label(): line.get_color() for legend in drawing.figure.legends for line in legend.get_lines()}
    assert shown[pair[0]] == colour_of(pair[0])
    assert shown[pair[0]] != shown[pair[1]]
