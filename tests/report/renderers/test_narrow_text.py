"""Tables of long names on a narrow terminal: words are broken before a number is cut."""

import io

from rich.console import Console

from bench.report.renderers.text import as_text
from bench.report.table import Column, Row, Table
from bench.results.aggregate import Entry

LONG = "timm:tf_efficientnet_lite0@frozen"


def printed(rows, names, width=80):
    columns = tuple(Column(name, "%") for name in names)
    table = Table("birds", columns, tuple(rows), ("method", "backbone"))
    out = io.StringIO()
    as_text([table], Console(file=out, width=width))
    return out.getvalue().splitlines()


def row(label, backbone, names):
    return Row(label, dict.fromkeys(names, Entry("ok", -0.05, 0.02)), backbone=backbone)


def test_no_column_is_cut_beside_a_long_backbone():
    names = ("consistency", "stability")
    lines = printed([row("ours (k=3, refinement=lbfgs)", LONG, names)], names)
    assert max(map(len, lines)) <= 80
    (numbers,) = (line for line in lines if "-0.1 ± 0.0" in line)
    assert numbers.count("-0.1 ± 0.0") == 2
    assert any("consistency" in line and "stability" in line for line in lines)


def test_only_words_that_do_not_fit_are_broken():
    names = ("consistency", "stability", "accuracy")
    lines = printed([row("ours", LONG, names), row("ours", "squeezenet1_1", names)], names, width=64)
    assert max(map(len, lines)) <= 64
    text = "\n".join(lines)
    assert LONG not in text
    assert "squeezenet1_1" in text


def test_settings_of_long_labels_are_listed_below():
    first, second = "protopnet (cluster=0, depth=64, per_class=5)", "protopnet (cluster=1, depth=64, per_class=5)"
    rows = [Row(label, {"accuracy": Entry("ok", 50.0)}) for label in (first, second, "ours (k=5)")]
    table = Table("birds", (Column("accuracy", "%"),), tuple(rows), chance=(f"accuracy: constant ≥ {first}",))
    out = io.StringIO()
    as_text([table], Console(file=out, width=80))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "protopnet (3 settings) 1 50.0" in lines
    assert "protopnet (3 settings) 2 50.0" in lines
    assert "ours (k=5) 50.0" in lines
    assert "! Chance level, accuracy: constant ≥ protopnet (3 settings) 1" in lines
    assert "protopnet (3 settings) 1: cluster=0, depth=64, per_class=5" in lines
    assert "protopnet (3 settings) 2: cluster=1, depth=64, per_class=5" in lines
