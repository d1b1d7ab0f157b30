"""Real limits on real training: a cell that does not fit is tried with one image at a time, then recorded."""

import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from tests.support.small_birds import PROTOPNET, QUICK, bench, called, few_birds

MANY = [
    "--set", "protopnet.per_class=2000", "--set", "protopnet.schedule.phases.0.epochs=1",
    "--set", "protopnet.schedule.phases.1.epochs=0", "--metrics", "accuracy,stability",
]  # fmt: skip
"""6,000 prototypes: their maps of 15 images take some hundred MiB, those of one image a fifteenth."""


def listed(home):
    return json.loads(CliRunner().invoke(main, ["results"], env={"BENCH_HOME": str(home)}).stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run protopnet and the centre control, which takes next to nothing, in a home of its own."""
    data = few_birds(tmp_path_factory.mktemp("memory"))

    def call(*extra, by=bench):
        home = tmp_path_factory.mktemp("home")
        arguments = ["run", "--methods", "protopnet,center", "--no-controls", "--no-tracking", "--data-root", str(data)]
        finished = by(home, *arguments, *QUICK, *PROTOPNET, *extra)
        cells = [json.loads(file.read_text())["spec"]["method"] for file in sorted(home.glob("cells/*/cell.json"))]
        folders = dict(zip(cells, sorted(home.glob("cells/*")), strict=True))
        return (
            finished,
            folders,
            {row["method"]: row for row in listed(home) if row["metric"] == "stability"},
        )

    return call


@pytest.fixture
def between(run):
    """A limit half-way between what the process takes by itself and what the training takes: bytes."""
    _, folders, _ = run(*MANY)
    peaks = [
        json.loads((folders[name] / "result" / "result.json").read_text())["memory"]["peak_bytes"]
        for name in ("center", "protopnet")
    ]
    assert peaks[1] > peaks[0] + 2**27
    return sum(peaks) // 2


@pytest.mark.slow
def test_one_image_at_a_time_where_more_do_not_fit(run, between):
    finished, folders, rows = run(*MANY, "--memory-limit", f"{between / 2**20:.0f}MiB")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "trying again with one image at a time" in finished.stdout
    outcome = json.loads((folders["protopnet"] / "result" / "result.json").read_text())
    assert outcome["facts"]["batch_size_after_out_of_memory"] == 1
    assert outcome["memory"]["retry"]["stage"] == "fit"
    assert outcome["memory"]["retry"]["batch_size"] == 32
    assert outcome["memory"]["retry"]["peak_bytes"] > 0
    assert outcome["memory"]["peak_bytes"] <= outcome["memory"]["limit_bytes"]
    assert rows["protopnet"]["status"] == "ok"
    undisturbed = json.loads((folders["center"] / "result" / "result.json").read_text())
    assert undisturbed["memory"]["retry"] is None


def test_cell_too_large_at_any_batch_size_fails_alone(run):
    # The prototypes alone take 1.5 GiB.
    finished, folders, rows = run("--set", "protopnet.per_class=2000000", "--memory-limit", "1GiB")
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "1 of 2 cells done" in finished.stdout
    assert rows["protopnet"]["status"] == "oom"
    assert "tried to allocate" in rows["protopnet"]["reason"]
    assert rows["center"]["status"] == "ok"
    memory = json.loads((folders["protopnet"] / "failure.json").read_text())["memory"]
    assert [one["batch_size"] for one in memory] == [32, 1]
    assert all(one["tried_bytes"] > 2**27 for one in memory)
    assert "baselines/" in memory[0]["place"]


def test_a_limit_that_leaves_nothing_is_a_wrong_request(run):
    finished, folders, _ = run("--memory-limit", "1MiB", by=called)
    assert finished.returncode == 2
    assert "the process takes" in finished.stderr
    assert not folders


def test_single_image_attempt_of_another_limit_is_forgotten(run):
    """A fit that a killed second attempt has left beside its note is made anew, as planned."""
    _, folders, _ = run(by=called)
    folder = folders["protopnet"]
    planned = (folder / "result" / "model.safetensors").read_bytes()
    (folder / "result").rename(folder / "work")
    fit = json.loads((folder / "work" / "fit.json").read_text())
    fit["facts"]["batch_size_after_out_of_memory"] = 1
    (folder / "work" / "fit.json").write_text(json.dumps(fit))
    (folder / "work" / "model.safetensors").write_bytes(b"of single images")
    note = {"stage": "fit", "batch_size": 32, "tried_bytes": None, "peak_bytes": 1, "limit_bytes": 2**29, "place": ""}
    (folder / "work" / "retry.json").write_text(json.dumps(note))
    again = called(folder.parent.parent, "cell", folder.name, "--device", "cpu")
    assert again.returncode == 0, again.stdout + again.stderr
    outcome = json.loads((folder / "result" / "result.json").read_text())
    assert outcome["memory"]["retry"] is None
    assert "batch_size_after_out_of_memory" not in outcome["facts"]
    assert (folder / "result" / "model.safetensors").read_bytes() == planned
