"""The measurement: complete, consistent with itself, refused where it would mean nothing. No times are judged."""

import json

import pytest
import torch
from click.testing import CliRunner

from bench.cli.main import main
from bench.contract import RequestError
from bench.diagnostics.speed_metrics import draw_samples, literal, measure, table
from bench.report.renderers import as_markdown
from tests.oracle import plain_loops

SMALL = {"backbone": "tiny", "prototypes": 6, "images": 5, "classes": 3, "batch_size": 2, "sample": 3}


@pytest.fixture(scope="module")
def result():
    return measure(**SMALL)


def test_carries_what_the_issue_asks_for(result):
    assert {"over_forward", "over_loop", "peak_bytes", "within_limit"} <= set(result)
    assert json.loads(json.dumps(result)) == result
    assert result["over_forward"] == pytest.approx(result["seconds"]["metrics"] / result["seconds"]["forward"])
    scoring = result["scoring"]
    assert result["over_loop"] == pytest.approx(scoring["loop_seconds"] / scoring["seconds"])
    assert scoring["images"] == 3
    assert scoring["identical"] is True
    assert set(result["scores"]) == set(result["metrics"]) >= {"consistency", "stability", "sensitivity"}


def test_scores_do_not_depend_on_the_batches(result):
    other = measure(**{**SMALL, "batch_size": 5})
    assert other["scores"] == pytest.approx(result["scores"], rel=1e-4)


def test_the_literal_loop_is_that_of_the_specification():
    maps = torch.rand(2, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    split = draw_samples(2, 1, 0)
    peaks, hits = literal(maps, split.keypoints, split.visible)
    for image in range(2):
        for prototype in range(2):
            at = plain_loops.peak(maps[image, prototype].tolist())
            assert tuple(peaks[image, prototype].tolist()) == at
            expected = plain_loops.hit_vector(at, split.keypoints[image].tolist(), split.visible[image].tolist())
            assert hits[image, prototype].tolist() == expected


def test_text_says_what_was_measured(result):
    text = as_markdown([table(result)])
    for word in ("6 prototypes of 3 classes", "over forward", "over loop", "peaks identical", "peak memory"):
        assert word in text
    assert "the machine is busy" in as_markdown([table({**result, "load": 1e6})])


def test_what_means_nothing_is_refused():
    for change in ({"images": 0}, {"prototypes": 7}):
        with pytest.raises(RequestError, match="multiple of --classes"):
            measure(**{**SMALL, **change})
    refused = CliRunner().invoke(main, ["speed", "metrics", "--backbone", "resnet35"])
    assert refused.exit_code == 2
    assert "did you mean 'resnet" in refused.output


def test_the_command_needs_no_limit_and_tells_one():
    small = ["--backbone", "tiny", "--prototypes", "6", "--images", "5", "--classes", "3", "--sample", "2"]
    free = CliRunner().invoke(main, ["speed", "metrics", *small, "--json"])
    assert free.exit_code == 0, free.output
    assert json.loads(free.stdout)["memory_limit"] is None
    tight = CliRunner().invoke(main, ["speed", "metrics", *small, "--memory-limit", "1GiB"])
    assert "(within the limit of 1024)" in tight.stdout
