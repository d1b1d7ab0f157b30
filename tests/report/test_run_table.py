import io

import pytest
from rich.console import Console

from bench.contract import RequestError
from bench.core.files import read_json, write_json
from bench.report import Table, comparison, with_beyond_chance, write
from bench.report.renderers import as_markdown, as_text
from bench.report.table import Row
from bench.results.aggregate import Entry
from bench.results.labels import definition, protocol
from bench.results.store import Store
from tests.support.regenerate import GOLDEN
from tests.support.stores import METRICS, STAMP, StoreMaker, example_store, reseal

RUN = (GOLDEN / "run.md").read_text()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return example_store(tmp_path_factory.mktemp("store"))[0].store


def both(value: float, other: float = 50.0) -> dict[str, float]:
    return {"accuracy": 80.0, "consistency": value, "stability": other}


def only(store: Store, stamp: str | None = None) -> Table:
    (block,) = comparison(store, stamp)
    return block


def line(table: Table, name: str, backbone: str | None = None) -> Row:
    (found,) = [row for row in table.rows if row.label == name and backbone in (None, row.backbone)]
    return found


def printed(store: Store, width: int = 100) -> str:
    stream = io.StringIO()
    as_text(comparison(store), Console(file=stream, width=width))
    return stream.getvalue()


def test_markdown_is_this_text(example: Store) -> None:
    assert as_markdown(comparison(example)) == RUN


def test_rows_with_fewer_seeds_are_named(maker: StoreMaker) -> None:
    cells = [maker.cell("ours", both(90.0 + seed), seed=seed) for seed in range(3)]
    maker.invocation([*cells, *(maker.cell(name, both(80.0)) for name in ("tesnet", "protopool"))])
    (told,) = [fact for fact in only(maker.store).facts if fact.startswith("seeds")]
    assert told == "seeds: 0, 1, 2 (tesnet, protopool: 0); mean ± standard deviation (n - 1) over seeds"


def test_markdown_columns_line_up(example: Store) -> None:
    table = [row for row in as_markdown(comparison(example)).splitlines() if row.startswith("|")]
    assert len({tuple(place for place, letter in enumerate(row) if letter == "|") for row in table}) == 1


def test_text_has_every_number_mark_and_footnote(example: Store) -> None:
    text = printed(example)
    (ours,) = [row for row in text.splitlines() if row.startswith(" ours  ")]
    assert ours.split() == ["ours", "tiny", "91.0*", "±", "1.4", "73.0*", "±", "4.2", "81.0", "±", "1.4"]
    for said in (
        "! Chance level, stability: constant ≥ ours, protopnet",
        "⁴ n/a: predicts no class",
        "* best of the methods",
        "v2, region",
    ):
        assert said in text
    assert "*" not in text.split("constant (control)")[1].split("\n")[0]


def test_columns_are_those_that_were_asked_for(example: Store) -> None:
    (block,) = comparison(example, metrics=("stability", "accuracy"))
    assert [column.name for column in block.columns] == ["accuracy", "stability"]
    text = " ".join(block.facts)
    assert "stability v2" in text
    assert "consistency" not in text
    with pytest.raises(
        RequestError, match=r"axioms was not measured \(run .*\): .*results of: accuracy, consistency, stability"
    ):
        comparison(example, metrics=("axioms",))
    with pytest.raises(RequestError, match=r"no result of metric 'acuracy' .*; did you mean 'accuracy'"):
        comparison(example, metrics=("acuracy",))


def test_text_lines_up_decimals_and_fits(example: Store) -> None:
    rows = [row for row in printed(example, 80).splitlines() if row.startswith((" ours  ", " protopnet", " blackbox"))]
    points = [[place for place, letter in enumerate(row) if letter == "."] for row in rows]
    # The row of two seeds has the points of its deviations in between.
    assert points[1] == points[2] == points[0][::2]
    assert max(len(row.rstrip()) for row in printed(example, 80).splitlines()) <= 80


def test_columns_without_room_continue_below_with_the_names(example: Store) -> None:
    narrow, wide = printed(example, 60), printed(example, 200)
    for name in ("accuracy", "stability", "91.0* ± 1.4", "81.0  ± 1.4"):
        assert narrow.count(name) == wide.count(name)
    assert narrow.count("protopnet  ") == 2
    assert wide.count("protopnet  ") == 1
    assert max(map(len, narrow.splitlines())) <= 60


def test_rows_are_methods_then_references_then_controls(example: Store) -> None:
    assert [line.role for line in only(example).rows] == ["method"] * 4 + ["reference"] + ["control"] * 2


def test_columns_begin_with_the_known_ones(maker: StoreMaker) -> None:
    metrics = {"abacus": {"version": "1", "parameters": {}}, **dict(reversed(METRICS.items()))}
    maker.invocation([maker.cell("ours", {**both(1.0), "abacus": 2.0}, metrics=metrics)])
    names = [column.name for column in only(maker.store).columns]
    assert names == ["accuracy", "consistency", "stability", "abacus"]


def test_seeds_give_mean_and_sample_deviation(maker: StoreMaker) -> None:
    maker.invocation([maker.cell("ours", both(value), seed=seed) for seed, value in enumerate((60.0, 64.0, 71.0))])
    entry = line(only(maker.store), "ours").values["consistency"]
    # Mean 65; squared deviations 25 + 1 + 36 = 62 over n - 1 = 2.
    assert (entry.value, entry.seeds) == (65.0, (0, 1, 2))
    assert entry.spread == pytest.approx(31**0.5)


def test_one_seed_has_no_deviation(maker: StoreMaker) -> None:
    maker.invocation([maker.cell("ours", both(60.0))])
    assert line(only(maker.store), "ours").values["consistency"] == Entry("ok", 60.0, None, (0,))
    assert "±" not in as_markdown(comparison(maker.store)).replace("±36 px", "")


def test_best_is_among_methods_only_and_follows_the_direction(maker: StoreMaker) -> None:
    metrics = {**METRICS, "cost": {"version": "1", "parameters": {}, "higher_is_better": False, "unit": "s"}}
    cells = [
        maker.cell("ours", {**both(60.0), "cost": 3.0}, metrics=metrics),
        maker.cell("protopnet", {**both(50.0), "cost": 2.0}, metrics=metrics),
        maker.cell("blackbox", {**both(99.0), "cost": 1.0}, metrics=metrics, role="reference"),
        maker.cell("constant", {**both(98.0), "cost": 1.0}, metrics=metrics, role="control", backbone=None),
    ]
    maker.invocation(cells)
    block = only(maker.store)
    best = {(line.label, metric) for line in block.rows for metric, entry in line.values.items() if entry.best}
    equal = {(name, metric) for name in ("ours", "protopnet") for metric in ("accuracy", "stability")}
    assert best == {("ours", "consistency"), ("protopnet", "cost")} | equal


def test_what_is_printed_alike_is_marked_alike(maker: StoreMaker) -> None:
    maker.invocation(
        [maker.cell("ours", both(62.34)), maker.cell("protopnet", both(62.26)), maker.cell("z", both(62.2))]
    )
    block = only(maker.store)
    assert [line.values["consistency"].best for line in block.rows] == [True, True, False]


def best(maker: StoreMaker, metric: dict[str, object], values: dict[str, float]) -> set[str]:
    """The methods that are marked where each has this value."""
    metrics = {"m": {"version": "1", "parameters": {}, **metric}}
    maker.invocation([maker.cell(name, {"m": value}, metrics=metrics) for name, value in values.items()])
    return {line.label for line in only(maker.store).rows if line.values["m"].best}


def test_four_digits_are_compared_where_four_are_printed(maker: StoreMaker) -> None:
    values = {"ours": 12.3441, "protopnet": 12.3449, "tesnet": 12.351}
    assert best(maker, {"unit": "px", "higher_is_better": False}, values) == {"ours", "protopnet"}


@pytest.mark.parametrize(
    ("values", "marked"),
    [
        # All hold, and what is left is rounding.
        ({"ours": 4.866e-16, "protopnet": 4.963e-16}, set()),
        # Those that hold are better than the one that does not, and none of them is the better one.
        ({"ours": 4.866e-16, "protopnet": 4.963e-16, "tesnet": 31.2}, {"ours", "protopnet"}),
        ({"ours": 0.5, "protopnet": 31.2}, {"ours"}),
    ],
)
def test_axioms_that_hold_hold_alike(maker: StoreMaker, values: dict[str, float], marked: set[str]) -> None:
    axiom = {"unit": "", "higher_is_better": False, "parameters": {"tolerance": 1e-4}}
    assert best(maker, axiom, values) == marked


def test_a_method_alone_is_not_called_the_best(maker: StoreMaker) -> None:
    maker.invocation([maker.cell("ours", both(60.0)), maker.cell("blackbox", both(50.0), role="reference")])
    assert not any(entry.best for line in only(maker.store).rows for entry in line.values.values())


def test_footnotes_are_numbered_and_shared(example: Store) -> None:
    block = only(example)
    assert len(block.notes) == 4
    assert line(block, "constant").values["accuracy"] == Entry("n/a", notes=(4,))
    assert line(block, "random").values["accuracy"] == Entry("n/a", notes=(4,))
    assert line(block, "ours (k=9)").values["stability"] == Entry("oom", notes=(2,))
    assert line(block, "protopnet").values["accuracy"] == Entry("ok", 85.0, None, (0,), (1,), False)


def test_a_data_set_that_lacks_annotations_says_so(maker: StoreMaker) -> None:
    reason = "cars has no part key-points"
    refused = {"consistency": reason, "stability": reason}
    maker.invocation([maker.cell("ours", {"accuracy": 90.0}, dataset="cars", not_applicable=refused)])
    block = only(maker.store)
    assert [column.name for column in block.columns] == ["accuracy", "consistency", "stability"]
    assert block.notes == (f"n/a: {reason}",)


def test_two_seeds_that_failed_alike_are_one_footnote(maker: StoreMaker) -> None:
    maker.invocation([maker.cell("ours", seed=seed, failure=("failed", "no\nway")) for seed in (0, 1)])
    block = only(maker.store)
    assert block.notes == ("failed: no way",)
    assert line(block, "ours").values["accuracy"].status == "failed"


def test_what_was_fitted_one_image_at_a_time_is_marked(maker: StoreMaker) -> None:
    cells = [maker.cell("ours", both(60.0), seed=seed) for seed in (0, 1)]
    file = maker.store.cell(cells[1]).result / "result.json"
    written = read_json(file)
    write_json(file, {**written, "facts": {"batch_size_after_out_of_memory": 1}})
    reseal(file.parent)
    maker.invocation(cells)
    block = only(maker.store)
    assert block.notes == ("seed 1 fitted with one image at a time: more did not fit into memory",)
    assert {entry.notes for entry in block.rows[0].values.values()} == {(1,)}


@pytest.mark.parametrize(("others", "lines"), [("abc", 0), ("def", 1)])
def test_a_black_box_that_was_trained_again_is_told(maker: StoreMaker, others: str, lines: int) -> None:
    cells = [maker.cell(name, both(60.0), black_box_id="feed00000001") for name in ("ours", "blackbox")]
    for name, digest in zip(cells, ("abc", others), strict=True):
        file = maker.store.cell(name).result / "result.json"
        write_json(file, {**read_json(file), "black_box": digest})
        reseal(file.parent)
    maker.invocation(cells)
    told = [text for text in only(maker.store).facts if "the black box was trained again" in text]
    assert len(told) == lines
    assert all(text.endswith(": ours | blackbox") for text in told)


def test_two_versions_of_a_metric_never_share_a_table(maker: StoreMaker) -> None:
    old = {**METRICS, "consistency": {"version": "v1", "parameters": METRICS["consistency"]["parameters"]}}
    wide = {**METRICS, "consistency": {"version": "v2", "parameters": {"half_size": 50, "size": 224, "threshold": 0.8}}}
    kinds = (("ours", METRICS), ("old", old), ("wide", wide), ("protopnet", METRICS))
    maker.invocation([maker.cell(name, both(60.0), metrics=metrics) for name, metrics in kinds])
    blocks = comparison(maker.store)
    assert [[line.label for line in block.rows] for block in blocks] == [["ours", "protopnet"], ["old"], ["wide"]]
    assert [block.title for block in blocks] == [
        "demo: consistency v2, region ±36 px of 224, threshold 0.8",
        "demo: consistency v1, region ±36 px of 224, threshold 0.8",
        "demo: consistency v2, region ±50 px of 224, threshold 0.8",
    ]


def test_two_states_of_the_data_never_share_a_table(maker: StoreMaker) -> None:
    full = {"crop": "full", "size": 224, "coordinates": "truncated"}
    cells = [
        maker.cell("ours", both(60.0)),
        maker.cell("ours", both(61.0), digest="ffff"),
        maker.cell("ours", both(62.0), protocol=full),
        maker.cell("ours", both(63.0), dataset="cub"),
    ]
    maker.invocation(cells)
    assert [block.title for block in comparison(maker.store)] == [
        "demo: data 5d41402abc4b2a76; bbox-224-truncated",
        "demo: data ffff; bbox-224-truncated",
        "demo: data 5d41402abc4b2a76; full-224-truncated",
        "cub",
    ]


def test_crops_and_whole_images_have_their_own_chance(maker: StoreMaker) -> None:
    full = {"crop": "full", "size": 448, "coordinates": "truncated"}
    maker.invocation([
        maker.cell("ours", both(60.0)), maker.cell("constant", both(10.0, 90.0), role="control"),
        maker.cell("ours", both(70.0), protocol=full),
        maker.cell("center", both(20.0, 80.0), protocol=full, role="control"),
    ])  # fmt: skip
    cut, whole = comparison(maker.store)
    crops = "consistency 10.0 (constant); stability 90.0 (constant)"
    others = "consistency 20.0 (center); stability 80.0 (center)"
    end = "; a number belongs beside its own table's chance"
    beside = f"full-448-truncated: accuracy 80.0 (center); {others}"
    assert cut.facts[-1] == f"chance here: accuracy 80.0 (constant); {crops} | {beside}{end}"
    assert whole.facts[-1].startswith(f"chance here: accuracy 80.0 (center); {others} | bbox-224-truncated: ")
    # The canvas of the scores has 224 pixels whatever the input.
    region = "region ±36 px of 224: ±72 px of these images of 448, 32 % of their side"
    assert region in whole.facts
    assert not [fact for fact in cut.facts if fact.startswith("region")]


def test_rows_of_one_name_and_other_settings_are_never_averaged(maker: StoreMaker) -> None:
    cells = [maker.cell("ours", both(60.0), settings={"k": k}) for k in (3, 5)]
    maker.invocation(cells)
    names = [line.label for line in only(maker.store).rows]
    assert names == [f"ours #{cell[:6]}" for cell in cells]


def test_backbones_are_rows(maker: StoreMaker) -> None:
    maker.invocation([maker.cell("ours", both(value), backbone=name) for name, value in (("a", 1.0), ("b", 2.0))])
    block = only(maker.store)
    assert line(block, "ours", "b").values["consistency"].value == 2.0
    assert [line.backbone for line in block.rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ((49.9, 49.9), None),
        ((50.0, 49.9), "consistency: constant ≥ ours"),
        ((10.0, 51.0), "stability: constant ≥ ours"),
        ((90.0, 50.0), "consistency, stability: constant ≥ ours"),
    ],
)
def test_a_control_that_reaches_a_method_is_told(
    maker: StoreMaker, control: tuple[float, float], said: str | None
) -> None:
    scores = dict(zip(("consistency", "stability"), control, strict=True))
    refused = {"accuracy": "constant predicts no class"}
    cells = [
        maker.cell("ours", both(50.0, 50.0)),
        maker.cell("blackbox", both(1.0, 1.0), role="reference"),
        maker.cell("constant", scores, role="control", backbone=None, not_applicable=refused),
    ]
    maker.invocation(cells)
    assert only(maker.store).chance == ((said,) if said else ())


def test_metrics_with_the_same_chance_warning_are_grouped(maker: StoreMaker) -> None:
    cells = [maker.cell("ours", both(50.0))]
    cells += [maker.cell(name, both(40.0, 60.0), role="control", backbone=None) for name in ("constant", "center")]
    cells += [maker.cell("random", both(99.0, 1.0), role="control", backbone=None)]
    maker.invocation(cells)
    assert only(maker.store).chance == (
        "accuracy: constant, center, random ≥ ours",
        "consistency: random ≥ ours",
        "stability: constant, center ≥ ours",
    )


def test_where_low_is_good_a_lower_control_is_told(maker: StoreMaker) -> None:
    metrics = {"error": {"version": "1", "parameters": {}, "higher_is_better": False}}
    cells = [
        maker.cell("ours", {"error": 30.0}, metrics=metrics),
        maker.cell("low", {"error": 30.0}, metrics=metrics, role="control", backbone=None),
        maker.cell("high", {"error": 31.0}, metrics=metrics, role="control", backbone=None),
    ]
    maker.invocation(cells)
    assert only(maker.store).chance == ("error: low ≤ ours",)


def test_chance_warning_names_backbones_if_only_some(maker: StoreMaker) -> None:
    values = {("ours", "a"): 40.0, ("ours", "b"): 60.0, ("protopnet", "a"): 30.0, ("protopnet", "b"): 45.0}
    cells = [maker.cell(name, both(90.0, value), backbone=backbone) for (name, backbone), value in values.items()]
    controls = {"constant": 50.0, "center": 100.0, "random": 35.0}
    refused = {"accuracy": "predicts no class"}
    for name, value in controls.items():
        scores = {"consistency": 0.0, "stability": value}
        cells.append(maker.cell(name, scores, role="control", backbone=None, not_applicable=refused))
    maker.invocation(cells)
    assert only(maker.store).chance == (
        "stability: constant ≥ ours (a), protopnet; center ≥ every method; random ≥ protopnet (a)",
    )


def test_many_settings_of_one_method_are_told_together(maker: StoreMaker) -> None:
    cells = [maker.cell("ours", both(90.0, 40.0), settings={"k": k}, label=f"ours (k={k})") for k in (3, 5, 10)]
    cells += [maker.cell("tesnet", both(90.0, 80.0)), maker.cell("protopnet")]
    for name, value in {"center": 50.0, "random": 80.0}.items():
        scores, refused = {"consistency": 0.0, "stability": value}, {"accuracy": "predicts no class"}
        cells.append(maker.cell(name, scores, role="control", backbone=None, not_applicable=refused))
    maker.invocation(cells)
    # What is not finished is no method that it could reach.
    assert only(maker.store).chance == ("stability: center ≥ ours (all 3 settings); random ≥ every method",)


def test_a_control_is_no_rival_in_what_it_costs(maker: StoreMaker) -> None:
    known = {"cost": {"version": "1", "parameters": {}, "unit": "ms", "higher_is_better": False}}
    metrics = {**known, "consistency": METRICS["consistency"]}
    cells = [
        maker.cell("ours", {"consistency": 50.0, "cost": 20.0}, metrics=metrics),
        maker.cell("center", {"consistency": 50.0, "cost": 0.1}, metrics=metrics, role="control", backbone=None),
    ]
    maker.invocation(cells)
    assert only(maker.store).chance == ("consistency: center ≥ ours",)


def test_the_latest_invocation_is_taken(maker: StoreMaker) -> None:
    first, second = maker.cell("ours", both(60.0)), maker.cell("protopnet", both(50.0))
    maker.invocation([second], "20260101-000000-000", "other")
    maker.invocation([first], "20260102-000000-000")
    assert line(only(maker.store), "ours")
    assert line(comparison(maker.store, suite="other")[0], "protopnet")
    assert line(only(maker.store, "20260101-000000-000"), "protopnet")


def test_cells_that_were_deleted_are_counted(maker: StoreMaker) -> None:
    maker.invocation([maker.cell("ours", both(60.0)), "0123456789ab"])
    assert "1 cell of this run is no longer on disk" in only(maker.store).facts


def test_wrong_requests_are_one_line(maker: StoreMaker) -> None:
    with pytest.raises(RequestError, match="nothing has been run yet"):
        comparison(maker.store)
    maker.invocation(["0123456789ab"], suite="table2")
    with pytest.raises(RequestError, match=r"yet; did you mean 'table2'\? There are results of: table2$"):
        comparison(maker.store, suite="tabel2")
    with pytest.raises(RequestError, match=f"no run 'x' in .*; the newest is '{STAMP}'"):
        comparison(maker.store, "x")
    with pytest.raises(RequestError, match=r"no cell of .* is on disk any more"):
        comparison(maker.store)
    with pytest.raises(RequestError, match="--format 'pdf': write text, md, latex, html, csv, json"):
        write([], fmt="pdf")


def test_names_with_brackets_and_bars_survive(maker: StoreMaker) -> None:
    maker.invocation([maker.cell("ours", both(60.0), label="ours (a=[bold]|x)")])
    assert "ours (a=[bold]|x)" in printed(maker.store)
    assert "| ours (a=[bold]\\|x) |" in as_markdown(comparison(maker.store))


def test_report_prints_both_formats(example: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    markdown, text = io.StringIO(), io.StringIO()
    tables = with_beyond_chance(comparison(example, suite="default"))
    write(tables, "md", Console(file=markdown, width=40))
    write(tables, "text", Console(file=text, width=100))
    assert markdown.getvalue().startswith(RUN)
    assert text.getvalue().startswith(printed(example))
    assert "### demo: beyond chance" in markdown.getvalue()
    assert "demo: beyond chance" in text.getvalue()


def test_definitions_and_protocols_are_words() -> None:
    facts = {"version": "v2", "parameters": {"half_size": 36, "size": 224, "threshold": 0.8}}
    assert definition("consistency", facts) == "consistency v2, region ±36 px of 224, threshold 0.8"
    assert definition("size", {"version": "3", "parameters": {"size": 7}}) == "size v3, size 7"
    assert protocol({"crop": "full", "size": 256, "coordinates": "exact", "new": True}) == "full-256-exact-new=true"
