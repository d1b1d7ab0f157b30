"""Figures from stored numbers: what is plotted where, what is said, and what is missing."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex

from bench.core.errors import RequestError
from bench.report.plots import style
from bench.report.plots.ablation import ablation
from bench.report.plots.axes import spread_out
from bench.results.store import Store
from tests.support.stores import StoreMaker, control, scores


def ablated(maker, k, refinement, consistency=None, seed=0, **rest):
    found = None if consistency is None else scores(consistency)
    label = f"ours (k={k}, refinement={refinement})"
    settings = {"k": k, "refinement": refinement}
    return maker.cell("ours", found, label=label, settings=settings, seed=seed, **rest)


def curves(drawing):
    """Panel -> label -> points of its curves."""
    found = {}
    for axes in drawing.figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        lines = {label: handle.lines[0] for handle, label in zip(handles, labels, strict=True)}
        found[axes.get_ylabel()] = {label: line.get_xydata().tolist() for label, line in lines.items()}
    return found


def test_ablation_curves_are_the_stored_scores(maker):
    for k, initial, naive, dynamic in ((3, 40, 20, 50), (5, 30, 10, 60), (10, 20, 5, 70)):
        for name, value in (("none", initial), ("naive", naive), ("lbfgs", dynamic)):
            ablated(maker, k, name, float(value))
    maker.cell("ours-contrast", scores(66.0), settings={"k": 3})
    control(maker, "constant", 33.0)
    (drawing,) = ablation(maker.store)
    found = curves(drawing)
    assert found["consistency (%)"] == {
        "refined (dynamic)": [[3, 50], [5, 60], [10, 70]],
        "refined (naive)": [[3, 20], [5, 10], [10, 5]],
        "initial": [[3, 40], [5, 30], [10, 20]],
        "ours-contrast": [[3, 66]],
    }
    assert set(found) == {"consistency (%)", "stability (%)"}
    (line,) = [line for line in drawing.figure.axes[0].lines if line.get_gid() == "control constant"]
    assert set(line.get_ydata()) == {33.0}
    assert drawing.missing == ()
    assert "50.0 for k = 3, 60.0 for k = 5, 70.0 for k = 10" in drawing.alt
    assert len(drawing.cells) == 10


def test_seeds_are_averaged(maker):
    for seed, value in ((0, 40.0), (1, 60.0)):
        ablated(maker, 3, "lbfgs", value, seed=seed)
        ablated(maker, 5, "lbfgs", value + 10, seed=seed)
    (drawing,) = ablation(maker.store)
    assert curves(drawing)["consistency (%)"]["refined (dynamic)"] == [[3, 50], [5, 60]]
    bars = drawing.figure.axes[0].containers[0].lines[2][0].get_segments()
    assert bars[0][:, 1].tolist() == pytest.approx([50 - 200**0.5, 50 + 200**0.5])
    assert "mean ± standard deviation over seeds" in drawing.caption
    assert "No content-free control was measured here" in drawing.caption


def test_points_of_one_plot_are_of_the_same_seeds(maker):
    """A seed that one point has alone would look like what k does."""
    for k, value in ((3, 40.0), (5, 50.0)):
        ablated(maker, k, "lbfgs", value)
    ablated(maker, 3, "lbfgs", 90.0, seed=1)
    (drawing,) = ablation(maker.store)
    assert curves(drawing)["consistency (%)"]["refined (dynamic)"] == [[3, 40], [5, 50]]
    assert "one seed, so no spread is known. Seed 1 is left out: not all points have it." in drawing.caption
    ablated(maker, 10, "lbfgs", 60.0, seed=2)
    (drawing,) = ablation(maker.store)
    assert curves(drawing)["consistency (%)"]["refined (dynamic)"] == [[3, 65], [5, 50], [10, 60]]
    assert "points are of different seeds" in drawing.caption


def test_what_is_missing_is_said_with_the_command(maker):
    ablated(maker, 3, "lbfgs", 50.0)
    ablated(maker, 3, "none", 40.0)
    ablated(maker, 5, "lbfgs", failure=("oom", "tried 40 GiB"))
    ablated(maker, 10, "lbfgs")
    (drawing,) = ablation(maker.store)
    ((what, command),) = drawing.missing
    assert "k = 5 with refinement lbfgs: out of memory: tried 40 GiB" in what
    assert "k = 10 with refinement lbfgs: not finished" in what
    assert "k = 3 with refinement naive, k = 5 with refinement naive, k = 10 with refinement naive: not run" in what
    assert what in drawing.caption
    assert command == (
        "python -m bench run --methods ours --datasets demo --backbones tiny --recipe demo "
        "--set ours.k=3,5,10 --set ours.refinement=none,naive,lbfgs"
    )


def test_nothing_to_draw_is_an_error_with_a_command(maker):
    with pytest.raises(RequestError, match=r"there are no cells in .*python -m bench run"):
        ablation(maker.store)
    maker.cell("protopnet", scores(10.0))
    with pytest.raises(RequestError, match="python -m bench run --suite fig5_small"):
        ablation(maker.store)
    with pytest.raises(RequestError, match="nothing has been run yet"):
        ablation(maker.store, suite="fig5")


def test_different_data_never_meet_in_one_plot(maker):
    for digest, value in (("a" * 16, 10.0), ("b" * 16, 20.0)):
        for k in (3, 5):
            ablated(maker, k, "lbfgs", value, digest=digest)
    first, second = ablation(maker.store)
    assert first.name != second.name
    assert {curves(d)["consistency (%)"]["refined (dynamic)"][0][1] for d in (first, second)} == {10.0, 20.0}
    assert "data aaaa" in first.title + second.title


def test_labels_keep_their_distance():
    generator = np.random.default_rng(0)
    for _ in range(50):
        places = sorted(generator.random(6))
        moved = spread_out(places, 0.1)
        assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(moved))
        assert max(moved) <= 1
    assert spread_out([0.1, 0.5], 0.1) == [0.1, 0.5]


# Of the linear channels: what is left of colours without one kind of cone (Machado et al., IEEE TVCG 2009, severity 1).
CONES = {
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("cones", CONES)
def test_colours_differ_for_every_kind_of_sight(cones):
    linear = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in style.PALETTE])
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4) @ np.array(CONES[cones]).T
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    t = np.maximum(xyz / [0.9505, 1, 1.089], 0)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    # A difference of about 2 is just noticeable.
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 12


def test_a_store_of_500_cells(tmp_path):
    maker = StoreMaker(tmp_path)
    for seed in range(56):
        for k, refinement in itertools.product((3, 5, 10), ("none", "naive", "lbfgs")):
            ablated(maker, k, refinement, float(k + seed % 3), seed=seed)
    assert len(Store(tmp_path).cells()) == 504
    (drawing,) = ablation(maker.store)
    assert len(drawing.cells) == 504


@pytest.mark.parametrize(("text", "lines"), [("short", 1), ("prototypes of timm:tf_efficientnet_lite0@frozen " * 3, 3)])
def test_a_heading_stays_inside_its_figure(text, lines):
    figure = style.new_figure(4, 3, text)
    axes = figure.subplots()
    figure.draw_without_rendering()
    drawn = figure._suptitle.get_window_extent()
    assert 0 < drawn.x0 < drawn.x1 < figure.bbox.x1
    assert axes.bbox.y1 < drawn.y0 < drawn.y1 <= figure.bbox.y1
    assert len(figure._suptitle._get_wrapped_text().splitlines()) == lines


def test_a_dark_figure_keeps_marks_on_photographs_and_letters_on_discs():
    with style.styled():
        figure = style.new_figure(3, 2, "title")
        plain, photograph = figure.subplots(1, 2)
        photograph.imshow(np.zeros((4, 4, 3)))
        (cross,) = photograph.plot(1, 1, "+", color="white")
        name = photograph.set_title("verdict", color=style.MUTED)
        number = style.numbered(plain, 0.5, 0.5, 6)
        (line,) = plain.plot([0, 1], color=style.BLUE)
        rule = plain.axhline(0, color=style.MUTED)
        style.darken(figure)
    assert to_hex(figure.get_facecolor()) == to_hex(plain.get_facecolor()) == "#14171b"
    assert [to_hex(one.get_color()) for one in (cross, line, rule)] == ["#ffffff", style.BLUE.lower(), "#a9b1bc"]
    assert to_hex(name.get_color()) == "#a9b1bc"
    assert to_hex(number.get_color()) == to_hex(style.ink(style.colour(6)))
