"""The measurement: complete, consistent with itself, refused where it would mean nothing. No times are judged."""

import json
import sys

import pytest
import torch

from bench.contract import RequestError
from bench.diagnostics.speed_decompose import measure, table
from bench.diagnostics.synthetic import class_features
from bench.report.renderers import as_markdown

SMALL = {"classes": 4, "images": 3, "hw": 9, "features": 12, "k": 2}


@pytest.fixture(scope="module")
def result():
    return measure(**SMALL, sample=2, memory_limit=2 * 4 * 3 * 9 * 12)  # two classes at a time


def test_carries_what_the_issue_asks_for(result):
    assert {"ratio", "objective_ratio", "nmf_error_ratio", "roofline_share", "peak_bytes"} <= set(result)
    assert json.loads(json.dumps(result)) == result
    assert all(result[name] > 0 for name in ("ratio", "objective_ratio", "nmf_error_ratio", "roofline_share"))


def test_numbers_follow_from_each_other(result):
    slow, ours = result["reference"], result["ours"]
    assert result["ratio"] == pytest.approx(slow["seconds_per_class"] / ours["seconds_per_class"])
    assert result["objective_ratio"] == pytest.approx(ours["objective"] / slow["objective"])
    assert slow["seconds"] == pytest.approx(4 * slow["seconds_per_class"])
    assert slow["extrapolated"]
    assert (slow["classes_measured"], ours["classes_measured"]) == (2, 4)
    # Every update reads F twice: 27 x 12 numbers of four bytes.
    assert ours["nmf_bytes_read"] == pytest.approx(2 * 4 * ours["nmf_updates_per_class"] * 27 * 12 * 4)
    assert ours["roofline_share"] == pytest.approx(
        ours["nmf_bytes_read"] / ours["copy_bandwidth"] / (4 * ours["nmf_seconds_per_class"])
    )


def test_all_pipelines_see_the_same_classes(result):
    """Classes 0 and 3: the errors and objectives are those of the library on them, whatever the chunks."""
    from bench.diagnostics import reference_pipeline
    from bench.diagnostics.speed_decompose import COMPARABLE, FAST
    from bench.posthoc.decompose_class import DecompositionConfig, decompose_classes

    drawn = {label: class_features(label, 3, 9, 12, 0) for label in (0, 3)}
    literal = [reference_pipeline.decompose(F.numpy(), v.numpy(), 2) for F, v in drawn.values()]
    assert result["reference"]["objective"] == pytest.approx(sum(one.objective for one in literal) / 2)
    objectives = [
        decompose_classes(
            DecompositionConfig(k=2, **COMPARABLE, **FAST), F[None], torch.tensor([27]), v[None], (3, 3), 0, [label]
        )[1]
        for label, (F, v) in drawn.items()
    ]
    expected = sum(one["objective"].item() for one in objectives) / 2
    assert result["ours"]["objective"] == pytest.approx(expected, rel=1e-4)


def test_text_says_what_was_extrapolated(result):
    text = as_markdown([table(result)])
    for word in ("published", "scikit-learn", "hals", "extrapolated from 2 classes", "roofline", "peak memory"):
        assert word in text
    whole = measure(**SMALL, sample=9, sklearn=False)
    assert not whole["reference"]["extrapolated"]
    assert "extrapolated" not in as_markdown([table(whole)])
    assert "scikit-learn" not in as_markdown([table(whole)])


def test_features_are_drawn_per_class_as_after_a_relu():
    F, v = class_features(5, 6, 49, 64, 1)
    assert F.shape == (6 * 49, 64)
    assert v.shape == (64,)
    assert (F >= 0).all()
    assert 0.2 < (F > 0).float().mean() < 0.9
    assert torch.equal(class_features(5, 6, 49, 64, 1)[0], F)
    assert not torch.equal(class_features(6, 6, 49, 64, 1)[0], F)


def test_peak_memory_holds_the_features():
    # Memory that was used and freed before must not hide what is used now.
    freed = [torch.ones(2**20) for _ in range(20)]
    del freed
    large = measure(classes=2, images=200, hw=49, features=256, k=2, sample=1, sklearn=False)
    assert large["peak_bytes"] >= 4 * 200 * 49 * 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 13}, "exceeds the rank of the features, 12"),
        ({"classes": 0}, "at least 1"),
        ({"settings": {"norm": "minmax"}}, "norm=l2"),
        ({"settings": {"refinement": "none"}}, "a refinement"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    with pytest.raises(RequestError, match=message):
        measure(**{**SMALL, **change})


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(RequestError, match="scikit-learn is not installed"):
        measure(**SMALL)


def test_a_busy_machine_is_said(result):
    assert "the machine is busy" in as_markdown([table({**result, "load": 1e6})])
    assert "the machine is busy" not in as_markdown([table({**result, "load": 0.0})])
