"""Dot plots by year and slope plots of a changed setting: what is plotted where, and what is refused."""

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core.errors import RequestError
from bench.report.plots.changes import changes
from bench.report.plots.dots import dots
from bench.report.references import year_of
from tests.support.stores import control, scores


@pytest.fixture
def compared(maker):
    cells = [
        maker.cell("ours", scores(70.0, 80.0, 90.0)),
        maker.cell("ours", scores(72.0, 80.0, 90.0), seed=1),
        maker.cell("ours", scores(20.0), settings={"k": 5}, label="ours (k=5)"),
        maker.cell("ours", scores(68.0), settings={"k": 5}, seed=1, label="ours (k=5)"),
        maker.cell("protopnet", scores(60.0, 85.0, 75.0)),
        maker.cell("cosine-head", scores(55.0)),
        maker.cell("blackbox", scores(50.0, 75.0, 92.0), role="reference"),
        control(maker, "constant", 65.0),
    ]
    maker.invocation(cells, suite="one")
    maker.invocation([maker.cell("tesnet", scores(40.0))], stamp="2", suite="two")
    return maker


def test_methods_are_in_the_order_of_publication(compared):
    (drawing,) = dots(compared.store, metrics=["consistency", "stability"])
    first, second = drawing.figure.axes
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["protopnet, 2019", "tesnet, 2021", "ours, 2024", "cosine-head", "blackbox"]
    places = {box.lines[0].get_gid(): box.lines[0].get_xydata()[0].tolist() for box in first.containers}
    assert places["protopnet tiny consistency"] == [60, 0]
    assert places["ours tiny consistency"] == [71, 2]
    (line,) = [line for line in first.lines if str(line.get_gid()).startswith("control")]
    assert line.get_xdata() == [65, 65]
    assert second.get_xlabel() == "stability (%)"
    assert "constant: consistency 65.0" in drawing.alt
    assert "standard deviation over seeds" in drawing.caption


def test_rows_and_suites_are_chosen(compared):
    (drawing,) = dots(compared.store, only=["ours (k=5)", "tesnet"])
    assert [label.get_text() for label in drawing.figure.axes[0].get_yticklabels()] == [
        "tesnet, 2021",
        "ours (k=5), 2024",
    ]
    (drawing,) = dots(compared.store, suites=["one"])
    assert "tesnet" not in drawing.alt
    with pytest.raises(RequestError, match=r"suite 'three' has not been run"):
        dots(compared.store, suites=["three"])
    with pytest.raises(RequestError, match="no two methods have purity"):
        dots(compared.store, metrics=["purity"])


def test_a_slope_joins_cells_that_differ_in_one_setting(maker):
    for stage, accuracy in (("unprojected", 91.0), ("projected", 88.0)):
        for seed in (0, 1):
            maker.cell("protopnet", scores(20.0 + seed, accuracy=accuracy), settings={"stage": stage}, seed=seed,
                       label=f"protopnet (stage={stage})")  # fmt: skip
        # Another setting differs too: no line joins it with those above.
        maker.cell("tesnet", scores(50.0), settings={"stage": stage, "depth": len(stage)}, label=f"tesnet ({stage})")
    (drawing,) = changes(maker.store, "stage=unprojected,projected")
    panels = {axes.get_ylabel(): axes for axes in drawing.figure.axes}
    (line,) = panels["accuracy (%)"].lines
    assert (line.get_gid(), line.get_ydata().tolist()) == ("protopnet tiny accuracy", [91, 88])
    assert [tick.get_text() for tick in panels["accuracy (%)"].get_xticklabels()] == ["unprojected", "projected"]
    assert panels["consistency (%)"].lines[0].get_ydata().tolist() == [20.5, 20.5]
    assert "protopnet on tiny 91 to 88" in drawing.alt
    with pytest.raises(RequestError, match="no two finished cells differ in 'depth' alone"):
        changes(maker.store, "depth")


def test_years_are_those_of_the_publications():
    assert [year_of(name) for name in ("dff", "protopnet", "ours", "epic")] == [2018, 2019, 2024, 2026]


def test_the_command_writes_both(compared, tmp_path):
    run = ["figure", "dots", "changes", "--setting", "k", "--metrics", "consistency", "--out", str(compared.store.root)]
    shown = CliRunner().invoke(main, [*run, "--to", str(tmp_path), "--format", "svg"])
    assert shown.exit_code == 0, shown.output
    names = {file.name for file in tmp_path.iterdir() if file.suffix == ".svg"}
    assert names == {"dots-consistency-demo.svg", "changes-k-3-5-demo.svg"} or any(
        "changes-k" in name for name in names
    )
    refused = CliRunner().invoke(main, ["figure", "cost", "--metrics", "accuracy"])
    assert refused.exit_code != 0
    assert "--metrics means nothing for cost" in str(refused.output) + str(refused.exception)
