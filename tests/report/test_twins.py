"""Rows whose numbers are all those of the reference that their method is a twin of."""

from bench.report import comparison


def scores(consistency, accuracy=90.0):
    return {"accuracy": accuracy, "consistency": consistency, "stability": 50.0}


def table(maker, **methods):
    cells = []
    for name, values in {"ours": scores(20.0), "blackbox": scores(18.0), **methods}.items():
        role = "reference" if name == "blackbox" else "method"
        cells += [maker.cell(name, values, seed=seed, role=role, backbone="tiny") for seed in (0, 1)]
    maker.invocation(cells)
    (found,) = comparison(maker.store)
    return found


def told(found):
    return [fact for fact in found.facts if "no row of its own" in fact]


def test_a_twin_has_no_row_and_a_line_says_so(maker):
    found = table(maker, gradcam=scores(18.00001), hirescam=scores(18.0))
    assert [row.label for row in found.rows] == ["ours", "blackbox"]
    assert told(found) == ["no row of its own, since all its numbers are those of blackbox (tiny): gradcam, hirescam"]
    assert found.rows[0].values["accuracy"].notes == ()


def test_a_number_that_differs_as_printed_makes_a_row(maker):
    found = table(maker, gradcam=scores(18.1), hirescam=scores(18.0))
    assert [row.label for row in found.rows] == ["ours", "gradcam", "blackbox"]
    assert len(told(found)) == 1


def test_other_methods_keep_their_rows_whatever_their_numbers(maker):
    found = table(maker, dff=scores(18.0))
    assert [row.label for row in found.rows] == ["ours", "dff", "blackbox"]
    assert not told(found)


def test_unfinished_cells_are_no_twins(maker):
    found = table(maker, blackbox=None, hirescam=None)
    assert [row.label for row in found.rows] == ["ours", "hirescam", "blackbox"]
