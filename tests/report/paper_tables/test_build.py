"""The paper's tables from a store: which cells are in them, what stands beside them, what is said of the rest."""

import csv

import pytest

from bench.contract import RequestError
from bench.report import paper_table
from bench.report.paper_tables.published import FILE, TABLES, published
from bench.report.table import Row, Table, Value
from bench.report.table_layout import layout
from tests.support.paper_cells import ACCURACY, CUB, TABLE_2, on_cub, on_imagenet, paper_store, scores


def field(sheet: Table, row: str, column: str, group: str = "") -> Value:
    (found,) = [one for one in sheet.rows if one.label == row]
    (place,) = [one for one in sheet.columns if one.name == column and group in ("", one.group)]
    return found.value(place)


def fields(sheet: Table, row: Row) -> list[Value]:
    return [row.value(column) for column in sheet.columns]


def value(found: Value) -> float | None:
    return found.entry.value if found.entry else None


def names(sheet: Table) -> list[str]:
    return [row.label for row in sheet.rows]


def test_published_numbers_are_all_there():
    """As many as the tables of spec/paper.md have places: 8, 7 x 15, 5, 18, 6 x 3, 3 x 3."""
    assert [len(published(number)) for number in TABLES] == [8, 105, 5, 18, 18, 9]
    rows = list(csv.DictReader(FILE.open(newline="")))
    assert {row["section"] for row in rows} == {"4.1", "4.2", "4.3", "4.4", "B"}
    assert {row["status"] for row in rows if not row["value"]} == {"oom", "n/a"}


@pytest.mark.parametrize("number", TABLES)
def test_empty_store_gives_the_papers_numbers_and_command(maker, number):
    sheet = paper_table(maker.store, number)[0]
    places = [one for row in sheet.rows for one in fields(sheet, row)]
    # The summary of tables 2, 5 and 6 is computed; all others are in the paper.
    given = [one.published for row in sheet.rows if row.role == "method" for one in fields(sheet, row) if one.published]
    assert sorted(map(id, given)) == sorted(map(id, published(number)))
    assert all(one.entry is None and one.difference is None for one in places)
    assert sheet.missing[0] == f"nothing is measured yet: python -m bench run --suite table{number} --data-root DIR"


def test_rows_and_columns_are_the_papers(maker):
    sheet = paper_table(maker.store, 2)[0]
    assert sheet.groups == [(name, 3) for name in ("resnet34", "resnet152", "vgg19", "densenet121", "densenet161")]
    assert [one.name for one in sheet.columns[:3]] == ["consistency", "stability", "accuracy"]
    methods = ["prototree", "protopnet", "protopool", "deformable", "tesnet", "evalprotopnet", "ours"]
    assert names(sheet) == [*methods, "best prior", "ours − best prior"]
    assert [one.name for one in paper_table(maker.store, 3)[0].columns] == [
        "protopnet", "tesnet", "protopool", "deformable", "ours"
    ]  # fmt: skip
    assert names(paper_table(maker.store, 4)[0]) == ["k = 3", "k = 5", "k = 10"]


def test_best_prior_is_recomputed_from_the_papers_numbers(maker):
    """The margins of spec/baselines.md, section 17, which are not those of the paper's text."""
    sheet = paper_table(maker.store, 2)[0]
    margins = fields(sheet, {row.label: row for row in sheet.rows}["ours − best prior"])[::3]
    assert [round(one.published.value, 1) for one in margins] == [9.0, 9.3, 2.9, 2.1, -2.2]
    assert field(sheet, "best prior", "consistency", "resnet34").published.value == 53.3


def test_measured_beside_published(tmp_path):
    sheet = paper_table(paper_store(tmp_path).store, 2)[0]
    ours = field(sheet, "ours", "consistency", "resnet34")
    assert (value(ours), ours.published.value) == (63.0, 62.3)
    assert ours.difference == pytest.approx(0.7)
    assert ours.entry.spread == pytest.approx(2**0.5)
    assert ours.entry.seeds == (0, 1)
    assert field(sheet, "ours", "consistency", "densenet121").entry is None
    assert [row.role for row in sheet.rows][-4:] == ["summary", "summary", "reference", "control"]
    # A control looks at no backbone: the same number stands in all columns.
    assert {value(field(sheet, "constant", "stability", group)) for group in ("resnet34", "vgg19")} == {100.0}
    assert field(sheet, "constant", "accuracy", "resnet34").entry.status == "n/a"


def test_best_is_among_methods_and_prior_is_what_is_not_ours(tmp_path):
    sheet = paper_table(paper_store(tmp_path).store, 2)[0]
    best = {(row.label, n) for row in sheet.rows for n, one in enumerate(fields(sheet, row))
            if one.entry and one.entry.best}  # fmt: skip
    # resnet34 alone has two methods; the black box and the control are better there and do not compete.
    assert best == {("ours", 0), ("ours", 1), ("ours", 2)}
    margin = field(sheet, "ours − best prior", "consistency", "resnet34")
    assert value(margin) == 63.0 - 15.0
    assert margin.published.value == pytest.approx(62.3 - 53.3)


def test_what_failed_has_a_footnote_and_a_command(tmp_path):
    sheet = paper_table(paper_store(tmp_path).store, 2)[0]
    states = {name: field(sheet, name, "accuracy", "resnet34").entry for name in ("tesnet", "deformable", "protopool")}
    assert {name: entry.status for name, entry in states.items()} == {
        "tesnet": "oom", "deformable": "failed", "protopool": "missing"
    }  # fmt: skip
    told = {name: sheet.notes[entry.notes[0] - 1] for name, entry in states.items()}
    assert told["tesnet"] == "out of memory: tried to allocate 15.3 GiB"
    assert told["deformable"] == "failed: loss became nan in phase 'joint'"
    again = [text.partition(" (")[0::2] for text in sheet.missing if "seed 0): python -m bench run" in text]
    assert sorted(state for state, _ in again) == ["failed", "not finished"]


def test_what_was_never_run_is_named_with_its_command(tmp_path):
    sheet = paper_table(paper_store(tmp_path).store, 2)[0]
    (absent,) = [text for text in sheet.missing if text.startswith("not run")]
    command = absent.partition("): ")[2]
    lacking = "prototree, protopnet, protopool, deformable, tesnet, evalprotopnet"
    assert f"vgg19: {lacking}" in absent
    assert command.startswith("python -m bench run --suite table2 --methods prototree,protopnet,protopool,deformable,t")
    assert sheet.missing[-1] == "not measured: protoknn (Ukai et al., ICLR 2023): no code"
    assert not any(text.startswith("not in this harness") for text in sheet.missing)


def test_ticks_come_from_residuals_and_tolerances(tmp_path):
    sheet = paper_table(paper_store(tmp_path).store, 1)[0]
    held = {row.label: [one.holds for one in fields(sheet, row)] for row in sheet.rows}
    assert held == {
        "protopnet": [False, False, False, True],
        "deformable": [False, False, False, None],
        "ours": [True, True, True, True],
    }
    texts = [[place.text for place in row.places] for row in layout(sheet).lines]
    assert texts[:2] == [["× 97.90", "× 4.25", "× 0.31", "✓ 0.00"], ["×", "×", "×", "✓"]]
    assert texts[4:] == [["✓ 0.00", "✓ 2e-07", "✓ 3e-08", "✓ 0.00"], ["✓", "✓", "✓", "✓"]]


def test_readings_of_an_axiom_are_groups_of_their_own(maker):
    names = ("completeness", "completeness_contribution", "completeness_shapley")
    metrics = {name: {"version": "1", "parameters": {"tolerance": 1e-4}, "unit": ""} for name in names}
    maker.invocation([on_cub(maker, "protopnet", dict(zip(names, (40.0, 0.5, 0.0), strict=True)), metrics=metrics)])
    sheet = paper_table(maker.store, 1)[0]
    groups = ("displayed maps", "exact contributions", "Shapley values")
    found = [field(sheet, "protopnet", "completeness", group) for group in groups]
    assert [(value(one), one.holds) for one in found] == [(40.0, False), (0.5, False), (0.0, True)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "✓ 0.10"), (0.099, "✓ 0.10"), (0.1004, "× 0.1004"), (0.106, "× 0.11"), (0.0004, "✓ 4e-04"), (7.0, "× 7.00")],
)
def test_no_cross_beside_a_number_printed_as_the_tolerance(maker, value, text):
    metrics = {"sensitivity": {"version": "1", "parameters": {"tolerance": 0.1}, "unit": "%"}}
    maker.invocation([on_cub(maker, "protopnet", {"sensitivity": value}, metrics=metrics)])
    row = next(row for row in layout(paper_table(maker.store, 1)[0]).lines if row.names == ("protopnet",))
    assert row.places[0].text == text


def test_where_seeds_disagree_about_an_axiom_a_footnote_says_so(maker):
    """The means are on one side of the tolerance, single trainings on the other."""
    metrics = {name: {"version": "1", "parameters": {"tolerance": 0.1}} for name in ("sensitivity", "symmetry")}
    trainings = {
        "protopnet": [(0.2, 0.0), (0.02, 0.0), (0.38, 0.0)],
        "tesnet": [(0.01, 0.5), (0.12, 0.5), (0.02, 0.5)],
    }
    cells = [
        on_cub(maker, method, dict(zip(metrics, residuals, strict=True)), metrics=metrics, seed=seed)
        for method, rows in trainings.items()
        for seed, residuals in enumerate(rows)
    ]
    maker.invocation(cells)
    sheet = paper_table(maker.store, 1)[0]
    places = {row.names[0]: row.places for row in layout(sheet).lines if not row.below}
    told = "the mean decides the mark; by seed the axiom holds in"
    assert (places["protopnet"][0].text, places["tesnet"][0].text) == ("× 0.20", "✓ 0.05")
    assert [sheet.notes[number - 1] for number in places["protopnet"][0].notes] == [
        f"{told} 1 of 3: 0.2 (seed 0), 0.02 (seed 1), 0.38 (seed 2)"
    ]
    assert [sheet.notes[number - 1] for number in places["tesnet"][0].notes] == [
        f"{told} 2 of 3: 0.01 (seed 0), 0.12 (seed 1), 0.02 (seed 2)"
    ]
    # Where all seeds agree there is nothing to say.
    assert (places["protopnet"][3].notes, places["tesnet"][3].notes) == ((), ())
    assert "seeds: 0, 1, 2; mean over seeds" in sheet.facts


def test_a_tick_that_the_paper_does_not_have_is_told(maker):
    metrics = {"symmetry": {"version": "1", "parameters": {"tolerance": 1e-4}, "unit": ""}}
    maker.invocation([on_cub(maker, "protopnet", {"symmetry": 0.5}, metrics=metrics)])
    rows = layout(paper_table(maker.store, 1)[0]).lines
    below = next(row for row in rows if row.below)
    assert [place.text for place in below.places] == ["×", "×", "×", "✓ (differs)"]


def test_table_3_has_accuracy_and_memory(tmp_path):
    accuracy, memory = paper_table(paper_store(tmp_path).store, 3)
    assert [value(one) for one in fields(accuracy, accuracy.rows[0])] == [65.0, None, None, None, 73.3, 73.3]
    assert fields(accuracy, accuracy.rows[0])[1].entry.status == "oom"
    assert [one.name for one in memory.columns] == ["tesnet", "ours"]
    assert value(field(memory, "training step, peak (GiB)", "ours")) == 0.5
    literal = field(memory, "training step, peak (GiB), published code's form", "tesnet")
    assert literal.entry.status == "oom"
    assert memory.notes == (
        "measured with one image at a time; tried to allocate 9.0 GiB",
        "out of memory: tried to allocate 15.3 GiB of 6.0 GiB",
    )


def test_newest_memory_measurement_counts_without_mixing(tmp_path):
    maker = paper_store(tmp_path)
    newer, other = maker.store.scales()["20260306-090000-000"], maker.store.scales()["20260306-090000-000"]
    newer["rows"] = [row for row in newer["rows"] if row["method"] == "ours"]
    newer["rows"][0]["training"]["peak_bytes"] = 2**30
    other["batch_size"] = 1
    maker.store.record_scale("20260307-090000-000", newer)
    maker.store.record_scale("20260308-090000-000", other)
    _, alone, pair = paper_table(maker.store, 3)
    assert value(field(pair, "training step, peak (GiB)", "ours")) == 1.0
    assert value(field(pair, "training step, peak (GiB)", "tesnet")) == 0.75
    assert value(field(alone, "training step, peak (GiB)", "ours")) == 0.5


def test_table_4_puts_settings_in_their_places(tmp_path):
    sheet = paper_table(paper_store(tmp_path).store, 4)[0]
    assert value(field(sheet, "k = 3", "resnet34", "initial")) == 17.0
    assert field(sheet, "k = 3", "resnet34", "initial").difference == pytest.approx(0.6)
    assert value(field(sheet, "k = 3", "resnet34", "refined")) == 73.3
    assert value(field(sheet, "k = 5", "resnet34", "initial")) == 20.1
    assert field(sheet, "k = 10", "resnet34", "initial").entry is None
    assert value(field(sheet, "blackbox", "resnet34", "refined")) == 73.3
    (absent,) = [text for text in sheet.missing if text.startswith("not run")]
    assert "resnet34: k=5 refined, k=10 initial, k=10 refined; all on vit_b_32_augreg, coc_tiny)" in absent


def test_table_4_newest_fit_counts_and_others_are_named(maker):
    """Both solvers are refinements with k = 5; by the alphabet L-BFGS comes first."""
    cells = {
        solver: on_imagenet(
            maker, "ours", accuracy, label=f"ours (k=5, refinement={solver})",
            settings={"k": 5, "refinement": solver}, changed=["k", "refinement"],
        )
        for solver, accuracy in (("lbfgs", 70.0), ("nelder-mead", 60.0))
    }  # fmt: skip

    def refined() -> float | None:
        return value(field(paper_table(maker.store, 4)[0], "k = 5", "resnet34", "refined"))

    maker.invocation([cells["lbfgs"]], "20260301-000000-000")
    maker.invocation([cells["nelder-mead"]], "20260302-000000-000")
    assert refined() == 60.0
    told = "left out: 1 cell of older runs: unfinished, or in settings that a newer run replaced"
    assert told in paper_table(maker.store, 4)[0].facts
    maker.invocation([cells["lbfgs"]], "20260303-000000-000")
    assert refined() == 70.0


def test_other_images_than_the_papers_give_no_difference(tmp_path):
    sheet = paper_table(paper_store(tmp_path).store, 5)[0]
    assert [one.name for one in sheet.columns] == ["mobilenet_v2"]
    assert names(sheet) == ["deformable", "ours", "best prior", "ours − best prior"]
    assert sheet.warnings == (
        "Not the images of Tan et al. 2024: 276 training and 142 test images here, 8144 training and 8041 test images "
        "there; "
        "no differences are given.",
        "Not the papers' settings: recipe small.",
    )
    assert all(one.difference is None for row in sheet.rows for one in fields(sheet, row))


def test_explanations_of_the_black_box_are_no_prior_work(maker):
    cells = [on_cub(maker, name, scores(accuracy, 50.0, 50.0)) for name, accuracy in (("ours", 80.0), ("tesnet", 70.0))]
    stamp = maker.invocation([*cells, on_cub(maker, "dff", scores(90.0, 90.0, 90.0))])
    assert "dff" not in names(paper_table(maker.store, 2)[0])
    asked = paper_table(maker.store, 2, stamp=stamp)[0]  # a run that asked for it
    assert "dff" in names(asked)
    assert value(field(asked, "best prior", "accuracy", "resnet34")) == 70.0


def test_other_images_have_the_papers_number_but_no_difference(maker):
    maker.invocation([on_cub(maker, "ours", scores(90.0, 50.0, 50.0), images=(1500, 1452))])
    found = field(paper_table(maker.store, 2)[0], "ours", "accuracy")
    assert (value(found), found.published.value, found.difference) == (90.0, 82.3, None)


def test_protocols_versions_and_data_never_share_a_sheet(maker):
    old = {**TABLE_2, "stability": {"version": "v1", "parameters": {}}}
    cells = [
        on_cub(maker, "ours", scores(1.0, 1.0, 1.0)),
        on_cub(maker, "protopnet", scores(2.0, 2.0, 2.0)),
        on_cub(maker, "tesnet", scores(3.0, 3.0, 3.0), protocol={"crop": "full", "size": 224}),
        on_cub(maker, "deformable", scores(4.0, 4.0, 4.0), digest="0ther"),
        on_cub(maker, "protopool", scores(5.0, 5.0, 5.0), metrics=old),
    ]
    maker.invocation(cells)
    sheets = paper_table(maker.store, 2)
    measured = [[row.label for row in sheet.rows if row.role == "method" and any(f.entry for f in fields(sheet, row))]
                for sheet in sheets]  # fmt: skip
    assert sorted(measured) == [["deformable"], ["protopnet", "ours"], ["protopool"], ["tesnet"]]
    assert len({sheet.title for sheet in sheets}) == 4
    # Another metric of other cells does not tear a table apart.
    maker.invocation([on_imagenet(maker, "ours", 1.0)], "20260305-000000-000")
    assert len(paper_table(maker.store, 2)) == 4


def test_the_newest_settings_of_a_row_count(maker):
    old = on_cub(maker, "ours", scores(80.0, 60.0, 70.0), settings={"k": 3, "norm": "l2"})
    new = on_cub(maker, "ours", scores(81.0, 61.0, 71.0), settings={"k": 3, "norm": "zscore"})
    maker.invocation([new], "20260302-000000-000")
    maker.invocation([old], "20260301-000000-000")
    sheet = paper_table(maker.store, 2)[0]
    assert value(field(sheet, "ours", "consistency", "resnet34")) == 61.0
    assert "left out: 1 cell of older runs: unfinished, or in settings that a newer run replaced" in sheet.facts
    # Asked for again, the old ones are the newest wish.
    maker.invocation([old], "20260303-000000-000")
    assert value(field(paper_table(maker.store, 2)[0], "ours", "consistency", "resnet34")) == 60.0


def test_a_method_stands_beside_the_black_box_of_its_own_run(maker):
    """The same settings and seed in a newer run without a black box, and of another training."""
    both = [
        on_cub(maker, "ours", scores(80.0, 60.0, 70.0)),
        on_cub(maker, "blackbox", scores(80.0, 40.0, 50.0), role="reference"),
    ]
    more = {**TABLE_2, "cost": {"version": "2", "parameters": {}, "unit": "s"}}
    alone = on_cub(maker, "ours", {**scores(81.0, 61.0, 71.0), "cost": 1.0}, metrics=more)
    maker.invocation(both, "20260301-000000-000")
    maker.invocation([alone], "20260302-000000-000")
    assert value(field(paper_table(maker.store, 2)[0], "ours", "accuracy", "resnet34")) == 80.0
    maker.invocation([alone, both[1]], "20260303-000000-000")
    assert value(field(paper_table(maker.store, 2)[0], "ours", "accuracy", "resnet34")) == 81.0


def test_unfinished_newer_run_does_not_hide_a_result(maker):
    maker.invocation([on_cub(maker, "ours", scores(80.0, 60.0, 70.0), settings={"a": 1})], "20260301-000000-000")
    maker.invocation([on_cub(maker, "ours", settings={"a": 2})], "20260302-000000-000")
    assert value(field(paper_table(maker.store, 2)[0], "ours", "consistency", "resnet34")) == 60.0


def test_one_fit_measured_in_two_runs_is_one_row(maker):
    """Accuracy from one cell, the rest from another: the settings are the same, what was measured is not."""
    parts = {name: METRICS for name, METRICS in TABLE_2.items() if name != "accuracy"}
    maker.invocation([on_cub(maker, "ours", {"accuracy": 80.0}, metrics=ACCURACY)], "20260301-000000-000")
    maker.invocation(
        [on_cub(maker, "ours", {"consistency": 60.0, "stability": 70.0}, metrics=parts)], "20260302-000000-000"
    )
    sheet = paper_table(maker.store, 2)[0]
    assert [value(one) for row in sheet.rows if row.label == "ours" for one in fields(sheet, row)[:3]] == [
        60.0,
        70.0,
        80.0,
    ]


def test_changed_settings_are_left_out_unless_a_run_is_named(maker):
    changed = on_cub(maker, "ours", scores(1.0, 2.0, 3.0), label="ours (k=9)", settings={"k": 9})
    maker.invocation([on_cub(maker, "ours", scores(80.0, 60.0, 70.0))], "20260301-000000-000")
    maker.invocation([changed], "20260302-000000-000", "wide")
    over_all = paper_table(maker.store, 2)[0]
    assert "ours (k=9)" not in names(over_all)
    assert any("1 cell with changed settings" in fact for fact in over_all.facts)
    of_run = paper_table(maker.store, 2, suite="wide")[0]
    assert value(field(of_run, "ours (k=9)", "stability", "resnet34")) == 3.0
    # The paper's number is about k = 3.
    assert field(of_run, "ours (k=9)", "stability", "resnet34").published is None
    assert value(field(paper_table(maker.store, 2, stamp="20260301-000000-000")[0], "ours", "accuracy", "resnet34"))


def test_cell_named_otherwise_by_a_grid_is_the_method(maker):
    """The newest request decides the label: k = 3, written out in a grid, is the default."""
    label = "ours (k=3, refinement=lbfgs)"
    cells = [
        on_cub(maker, "ours", scores(80.0, 60.0, 70.0), label=label, settings={"k": 3}, changed=[]),
        on_cub(maker, "ours", scores(82.0, 62.0, 72.0), settings={"k": 3}, changed=[], seed=1),
        on_cub(maker, "ours", scores(1.0, 1.0, 1.0), label="ours (k=5)", settings={"k": 5}, changed=["k"]),
    ]
    maker.invocation(cells)
    found = field(paper_table(maker.store, 2)[0], "ours", "consistency", "resnet34")
    assert (value(found), found.entry.seeds) == (61.0, (0, 1))


def test_unfinished_cells_of_an_older_run_are_forgotten(maker):
    unfinished, finished = on_cub(maker, "ours", seed=1), on_cub(maker, "ours", scores(80.0, 60.0, 70.0))
    maker.invocation([unfinished], "20260301-000000-000")
    maker.invocation([finished], "20260302-000000-000")
    sheet = paper_table(maker.store, 2)[0]
    assert field(sheet, "ours", "consistency", "resnet34").entry.notes == ()
    # In the newest run it is what one waits for.
    maker.invocation([unfinished, finished], "20260303-000000-000")
    assert paper_table(maker.store, 2)[0].notes == ("seed 1 not finished",)


def test_seeds_that_were_not_asked_for_a_metric_are_not_missed(maker):
    more = [on_cub(maker, "ours", {"accuracy": 90.0}, metrics=ACCURACY, seed=seed) for seed in (1, 2)]
    maker.invocation([on_cub(maker, "ours", scores(81.0, 60.0, 70.0)), *more])
    sheet = paper_table(maker.store, 2)[0]
    assert field(sheet, "ours", "consistency", "resnet34").entry.seeds == (0,)
    assert field(sheet, "ours", "accuracy", "resnet34").entry.seeds == (0, 1, 2)
    assert sheet.notes == ()


def test_a_cell_with_nothing_to_measure_is_not_waited_for(maker):
    refused = {"accuracy": "constant predicts no class"}
    control = on_cub(
        maker, "constant", metrics=ACCURACY, not_applicable=refused, role="control", dataset="cars", backbone=None
    )
    maker.invocation([on_cub(maker, "ours", {"accuracy": 1.0}, metrics=ACCURACY, dataset="cars"), control])
    assert not any("constant" in text for text in paper_table(maker.store, 5)[0].missing)


def test_training_images_and_other_data_sets_stay_outside(maker):
    maker.invocation([on_cub(maker, "ours", scores(1.0, 2.0, 3.0), dataset="demo")])
    sheet = paper_table(maker.store, 2)[0]
    assert sheet.missing[0].startswith("nothing is measured yet")


def test_a_suite_of_the_table_belongs_to_it_whatever_its_data(maker):
    cells = [on_cub(maker, "ours", {"accuracy": 91.0}, metrics=ACCURACY, dataset="dogs", images=(400, 200))]
    maker.invocation(cells, suite="table3_small")
    sheet = paper_table(maker.store, 3)[0]
    assert sheet.title == "Table 3: accuracy on ImageNet, measured on dogs"
    assert value(field(sheet, "accuracy (%)", "ours")) == 91.0


def test_controls_that_reach_a_method_are_told(tmp_path):
    sheet = paper_table(paper_store(tmp_path).store, 2)[0]
    assert list(sheet.chance) == [
        "consistency: constant ≥ ours (vgg19), protopnet",
        "stability: constant ≥ every method",
    ]


def test_wrong_requests(maker):
    with pytest.raises(RequestError, match=r"Tan et al\. 2024 have no table 7: write --table 1 to 6"):
        paper_table(maker.store, 7)
    maker.invocation([on_cub(maker, "ours", scores(1.0, 2.0, 3.0), images=CUB)])
    with pytest.raises(RequestError, match="suite 'tabel2' has not been run yet; there are results of: default"):
        paper_table(maker.store, 2, suite="tabel2")


def test_a_row_of_reasons_alone_is_left_out(maker):
    refused = {"accuracy": "constant predicts no class"}
    maker.invocation(
        [
            on_cub(maker, "ours", {"accuracy": 1.0}, metrics=ACCURACY, dataset="cars"),
            on_cub(
                maker, "constant", {}, metrics=ACCURACY, not_applicable=refused, role="control", dataset="cars",
                backbone=None,
            ),
        ]
    )  # fmt: skip
    rows: tuple[Row, ...] = paper_table(maker.store, 5)[0].rows
    assert [row.label for row in rows if row.role == "control"] == []


def test_intervals_are_below_values_or_missing_with_footnote(maker):
    """70 of 100 images: near the normal approximation, 70 ± 1.96 sqrt(70 · 30 / 100)."""
    hits = {"accuracy.image": {"index": range(100), "label": [0] * 100, "correct": [1] * 70 + [0] * 30}}
    accuracy = {"accuracy": {"version": "1", "parameters": {}}}
    cells = [
        on_cub(maker, "ours", {"accuracy": 70.0}, metrics=accuracy, items=hits),
        on_cub(maker, "tesnet", {"accuracy": 60.0}, metrics=accuracy),
    ]
    maker.invocation(cells, "20260301-090000-000", "table2")
    plain, bounded = (paper_table(maker.store, 2, intervals=asked)[0] for asked in (False, True))
    assert field(plain, "ours", "accuracy", "resnet34").entry.low is None
    entry = field(bounded, "ours", "accuracy", "resnet34").entry
    assert (entry.low, entry.high) == pytest.approx((61.0, 79.0), abs=1.6)
    assert any("BCa bootstrap over images (accuracy)" in fact for fact in bounded.facts)
    (note,) = field(bounded, "tesnet", "accuracy", "resnet34").entry.notes
    assert "no interval" in bounded.notes[note - 1]
    rows = [line for line in layout(bounded).lines if line.names == ("95 % interval",)]
    assert len(rows) == 1
    assert rows[0].below
