"""Backbones by name on the command line: searched, described, planned with variants, refused in one line; and runs."""

import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.results.store import Store
from tests.support.small_birds import few_birds, planned

SMALL = ["--set", "cub.protocol.size=64", "--set", "cub.pretrained=false", "--recipe", "demo", "--device", "cpu"]
SHORT = [
    "--set", "classifier.schedule.phases.0.epochs=1", "--set", "protopnet.schedule.phases.0.epochs=1",
    "--set", "protopnet.schedule.phases.1.epochs=1", "--set", "ours.nmf_max_iter=20", "--set", "ours.refinement=naive",
]  # fmt: skip


def call(*words):
    return CliRunner().invoke(main, words)


def test_a_pattern_searches_the_catalogue_and_the_libraries():
    names = lambda *words: {row["name"] for row in json.loads(call("ls", *words, "--json").output)["backbones"]}  # noqa: E731
    assert names("backbones", "resnet*") == {"resnet18", "resnet34", "resnet50", "resnet152"}
    assert {"timm:convnext_tiny", "timm:convnextv2_atto"} <= names("backbones", "timm:convnext*")
    assert "torchvision:swin_t" in names("backbones", "torchvision:*")
    nothing = call("ls", "backbones", "timm:nothing*")
    assert nothing.exit_code == 2
    assert nothing.output.strip() == "error: no name of backbones matches 'timm:nothing*'; * stands for any letters"


def test_a_backbone_is_described():
    printed = call("backbone", "timm:test_convnext@stride=16", "--size", "64").output
    assert "64 channels, 3 x 3 cells of 64 x 64 pixels" in printed
    assert "of either sign" in printed
    assert "exact: average pooling, layer norm" in printed
    facts = json.loads(call("backbone", "timm:test_vit", "--json").output)
    assert facts["refusal"].startswith("its head reads one token")
    assert facts["input"]["size"] == 160
    wrong = call("backbone", "timm:convnext_ato")
    assert wrong.exit_code == 2
    assert "did you mean one of convnext_atto" in wrong.output


def test_a_variant_is_another_cell_and_the_default_is_not(tmp_path):
    data = few_birds(tmp_path)
    plan = lambda **more: [cell.spec for cell in planned(data, tmp_path, methods=("blackbox",), controls=False, **more)]  # noqa: E731
    (plain,), (same,) = plan(), plan(overrides={"backbone.frozen": False})
    quick = {"classifier.schedule.phases.0.epochs": 2}
    (by_name,) = plan(backbones=("tiny@frozen",), overrides=quick)
    (by_setting,) = plan(overrides={**quick, "backbone.frozen": True})
    assert (plain.backbone, same.backbone) == ("tiny", "tiny")
    assert by_name.backbone == by_setting.backbone == "tiny@frozen"
    assert by_name.id == by_setting.id != plain.id


def test_an_unknown_setting_of_backbones_is_refused(tmp_path):
    data = few_birds(tmp_path)
    result = call("run", "--methods", "blackbox", "--datasets", "cub", "--data-root", str(data), "--backbones", "tiny",
                  "--out", str(tmp_path), "--set", "backbone.color=3")  # fmt: skip
    assert result.exit_code == 2
    assert "backbone.color: unknown setting" in result.output


def run(tmp_path, backbones, methods, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    data = few_birds(tmp_path)
    short = [word for pair in zip(SHORT[::2], SHORT[1::2], strict=True) for word in pair
             if pair[1].partition(".")[0] in ("classifier", *methods)]  # fmt: skip
    result = call("run", "--methods", ",".join(methods), "--datasets", "cub", "--data-root", str(data), "--backbones",
                  ",".join(backbones), "--no-controls", "--no-tracking", "--metrics", "accuracy,consistency",
                  *SMALL, *short)  # fmt: skip
    assert result.exit_code == 0, result.output[-2000:]
    store = Store(tmp_path / "home")
    rows = {(row.method, row.backbone, row.metric): row.value for row in store.rows()}
    expected = {(method, name, "accuracy") for method in methods for name in backbones}
    assert expected <= {key for key, value in rows.items() if value is not None}
    return result.output


def test_a_frozen_network_of_timm_runs_and_says_what_becomes_of_negative_features(tmp_path, monkeypatch):
    printed = run(tmp_path, ["timm:test_convnext@frozen"], ["ours"], monkeypatch)
    assert "of the features are negative and count as zero in the factorisation" in printed


FAMILIES = [
    "timm:test_byobnet", "timm:test_convnext", "timm:test_efficientnet", "timm:test_nfnet", "timm:test_resnet",
    "timm:test_vit2", "timm:test_mambaout", "timm:regnetx_002", "timm:edgenext_xx_small", "timm:mobilenetv3_small_050",
]  # fmt: skip


@pytest.mark.slow
def test_ten_families_of_timm_run(tmp_path, monkeypatch):
    run(tmp_path, FAMILIES, ["ours", "protopnet", "blackbox"], monkeypatch)
