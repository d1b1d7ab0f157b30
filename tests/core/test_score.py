"""What a score must be before it is written: a violation names the metric and the rule."""

import numpy as np
import pytest
import torch

from bench.contract import Aggregate, CellError, Score, share
from bench.core.score import check_unique_names, validated


def test_a_sound_score_gets_plain_numbers():
    columns = {
        "index": torch.arange(3),
        "value": np.array([1.0, np.nan, 2.0]),
        "part": ["head", "wing", "tail"],
        "hit": [True, False, np.bool_(True)],
    }
    score = Score(np.float32(12.5), np.int64(3), {"image": columns}, {"area": 7, "in.all": -1.0})
    found = validated("m", score, "%", {})
    assert (found.value, found.n, found.also) == (12.5, 3, {"area": 7.0, "in.all": -1.0})
    assert {type(found.value), type(found.also["area"])} == {float}
    assert type(found.n) is int
    assert found.items == {"image": columns}


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (12.5, "compute returns a float"),
        (Score(1.0, -5), "n is -5"),
        (Score(1.0, 2.5), "n is 2.5"),
        (Score(1.0, True), "n is True"),
        (Score(1.0, None), "n is None"),
        (Score(250.0, 1), "m is 250 %, outside 0 to 100"),
        (Score(-0.1, 1), "outside 0 to 100"),
        (Score(float("nan"), 1), "m is nan"),
        (Score(10**400, 1), "m is inf"),
        (Score("1", 1), "m is a str"),
        (Score(True, 1), "m is a bool"),
        (Score(None, 1), "m is a NoneType"),
        (Score(torch.tensor(1.0), 1), "m is a Tensor"),
        (Score(1j, 1), "m is a complex"),
        (Score(1.0, 1, also={"x": float("inf")}), "m.x is inf"),
        (Score(1.0, 1, also={"../x": 1.0}), r"further number '\.\./x'"),
        (Score(1.0, 1, also={"": 1.0}), "further number ''"),
        (Score(1.0, 1, also={"a": 1.0, "A": 1.0}), "two further numbers are called 'A'"),
        (Score(1.0, 1, also=[1.0]), "further numbers are a list"),
        (Score(1.0, 1, {"../../x": {}}), r"table '\.\./\.\./x'"),
        (Score(1.0, 1, {"..": {}}), r"table '\.\.'"),
        (Score(1.0, 1, {".hidden": {}}), "no dot first"),
        (Score(1.0, 1, {"/etc/x": {}}), "table '/etc/x'"),
        (Score(1.0, 1, {"a\\b": {}}), "table"),
        (Score(1.0, 1, {"a\n": {}}), "table"),
        (Score(1.0, 1, {"x" * 65: {}}), "up to 64"),
        (Score(1.0, 1, {1: {}}), "table '1'"),
        (Score(1.0, 1, {"image": {}, "Image": {}}), "two tables are called 'Image'"),
        (Score(1.0, 1, {"image": [1, 2]}), "'image' is a list"),
        (Score(1.0, 1, {"image": {"a": [1, 2], "b": [1]}}), "columns of different lengths"),
        (Score(1.0, 1, {"image": {"a": [[1], [2]]}}), "column 'a'"),
        (Score(1.0, 1, {"image": {"a": torch.zeros(2, 2)}}), "column 'a'"),
        (Score(1.0, 1, {"image": {"a": np.zeros(2, complex)}}), "column 'a'"),
        (Score(1.0, 1, {"image": {"a": [object()]}}), "column 'a'"),
        (Score(1.0, 1, {"image": {"a": "text"}}), "column 'a'"),
        (Score(1.0, 1, {"image": {"a": iter([1])}}), "column 'a'"),
        (Score(1.0, 1, {"image": {"a\nb": [1]}}), "names are printable"),
    ],
)
def test_a_broken_rule_is_told(score, message):
    with pytest.raises(CellError, match=f"^m.*{message}|^{message}"):
        validated("m", score, "%", {})


def test_ranges_are_those_that_a_metric_declares():
    free = {"": Aggregate("image", "gain", "index")}
    assert validated("m", Score(-250.0, 1), "%", free).value == -250.0
    assert validated("m", Score(250.0, 1), "ms", {}).value == 250.0
    assert validated("m", Score(100.0 + 1e-9, 1), "%", {}).value > 100
    for unit in ("", "%"):
        with pytest.raises(CellError, match=r"^m is 101 .*outside 0 to 100$"):
            validated("m", Score(101.0, 1), unit, {"": share("image", "hit", "index")})
    with pytest.raises(CellError, match=r"^m\.area is -1"):
        validated("m", Score(1.0, 1, also={"area": -1.0}), "%", {"area": share("image", "area", "index")})


def test_two_metrics_never_write_under_one_name():
    def table(name):
        return Score(1.0, 1, {name: {}})

    check_unique_names({"a": table("b"), "b": table("b")})
    with pytest.raises(CellError, match=r"table of the name a\.b\.c\.csv"):
        check_unique_names({"a": table("b.c"), "a.b": table("c")})
    with pytest.raises(CellError, match=r"number of the name a\.b"):
        check_unique_names({"a.b": Score(1.0, 1), "a": Score(1.0, 1, also={"b": 1.0})})
