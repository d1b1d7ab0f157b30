"""The states that a fit passes are rows of one training."""

import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from tests.support.small_birds import PROTOPNET, QUICK, few_birds

STAGES = ("unprojected", "projected", "final")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    home = tmp_path_factory.mktemp("stages")
    run = ["run", "--methods", "protopnet", "--no-controls", "--no-tracking", *QUICK[:-2], *PROTOPNET]
    run += ["--data-root", str(few_birds(home)), "--metrics", "accuracy,consistency"]
    run += ["--set", f"protopnet.stage={','.join(STAGES)}", "--set", "protopnet.start.prototypes=kmeans"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_HOME", str(home))
        ran = CliRunner().invoke(main, run)
        assert ran.exit_code == 0, ran.output
        cells = {}
        for folder in (home / "cells").iterdir():
            stage = json.loads((folder / "cell.json").read_text())["spec"]["settings"].get("stage", "final")
            cells[stage] = folder
        yield cells


def outcome(folder):
    return json.loads((folder / "result" / "result.json").read_text())


def test_stages_share_one_training(results):
    assert set(results) == set(STAGES)
    trained = [stage for stage, folder in results.items() if "fit_of" not in outcome(folder)]
    assert len(trained) == 1
    assert {outcome(folder)["fit_of"] for stage, folder in results.items() if stage not in trained} == {
        results[trained[0]].name
    }


def test_facts_are_those_of_the_stage(results):
    facts = {stage: outcome(folder)["facts"] for stage, folder in results.items()}
    assert {stage: facts[stage]["projected"] for stage in STAGES} == {"unprojected": 0, "projected": 1, "final": 1}
    accuracies = {stage: [facts[stage][f"accuracy_{other}"] for other in STAGES] for stage in STAGES}
    assert accuracies["unprojected"] == accuracies["projected"] == accuracies["final"]
    assert {"border_peaks", "border_cells", "saturated", "z_deviation"} <= set(facts["final"])


def test_stages_have_their_own_weights(results):
    weights = {stage: (folder / "result" / "model.safetensors").read_bytes() for stage, folder in results.items()}
    assert len(set(weights.values())) == len(STAGES)


def test_unknown_stage_and_stage_without_projection_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    run = ["run", "--methods", "protopnet", "--no-controls", *QUICK[:-2], "--data-root", str(few_birds(tmp_path))]
    for setting, message in (
        ("protopnet.stage=middle", "stage"),
        ("protopnet.schedule.phases.0.action=null", "needs a training with"),
    ):
        extra = ["--set", setting, *(["--set", "protopnet.stage=projected"] if "action" in setting else [])]
        ran = CliRunner().invoke(main, [*run, *extra])
        assert ran.exit_code == 2, ran.output
        assert message in ran.output
