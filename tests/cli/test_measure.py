"""scale, speed train and check through the command line, on the smallest sizes. No times are judged."""

import csv
import io
import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core import registry

TINY = ["--backbone", "tiny", "--size", "64", "--device", "cpu"]


def call(*arguments):
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scale", "--methods", "protopnett"], "did you mean 'protopnet'"),
        (["scale", "--methods", "center"], "has no network to measure"),
        (["scale", "--backbone", "resnet344"], "did you mean 'resnet34'"),
        (["scale", "--classes", "one"], "write whole numbers with commas"),
        (["scale", "--classes", "1"], "2 or more"),
        (["scale", "--memory-limit", "24"], "write a size such as 24GiB"),
        (["speed", "train", "--backbone", "vit_b_32", "--size", "64"], "vit_b_32 cannot take images of 64 pixels"),
        (["scale", "--methods", "protopnet", "--set", "tesnet.depth=8,16"], "takes settings of protopnet alone"),
        (["check", "accurracy"], "did you mean 'accuracy'"),
        (["check", "accuracy", "--set", "consistency.region=8"], "takes settings of accuracy alone"),
    ],
)
def test_wrong_requests(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_what_scale_measured_is_kept_for_table_3(tmp_path):
    measured = call("scale", "--methods", "ours", "--classes", "1000", "--backbone", "tiny", "--batch", "1", "--steps",
                    "1", "--size", "32", "--out", str(tmp_path), "--json")  # fmt: skip
    assert measured.exit_code == 0, measured.output
    (record,) = (tmp_path / "scale").iterdir()
    assert json.loads(record.read_text()) == json.loads(measured.stdout)
    table = call("report", "--table", "3", "--format", "csv", "--out", str(tmp_path))
    assert table.exit_code == 0, table.output
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(table.stdout)) if row["column"] == "ours"}
    (one,) = json.loads(measured.stdout)["rows"]
    assert float(rows["training step, peak (GiB)"]["value"]) * 2**30 == one["training"]["peak_bytes"]
    assert rows["training step, peak (GiB)"]["notes"] == "trains the black box"


def test_training_beside_the_black_box():
    result = call("speed", "train", *TINY, "--methods", "protopnet", "--classes", "3", "--batch", "2", "--rounds", "2",
                  "--images", "6", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["share_of_black_box"]) == set(found["push_over_forward"]) == {"protopnet"}
    assert set(found["methods"]) == {"protopnet", "blackbox"}
    times = [one["seconds_per_step"] for one in found["methods"].values()]
    shares = sorted(plain / own for own, plain in zip(*times, strict=True))
    assert found["share_of_black_box"]["protopnet"] == pytest.approx(sum(shares) / 2)
    assert found["push"]["protopnet"]["actions"] == ["project"]
    assert found["push"]["protopnet"]["images"] == 6
    for condition in ("hardware", "threads", "load", "precision"):
        assert found[condition] is not None
    assert found["methods"]["protopnet"]["phase"] == "joint"


def test_bf16_and_text():
    result = call("speed", "train", *TINY, "--methods", "ours", "--classes", "3", "--batch", "2", "--rounds", "1",
                  "--images", "0", "--precision", "bf16", "--set", "ours.k=3,5")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "bf16" in result.stdout
    assert "1 (the measure)" in result.stdout
    assert "ours (k=3), ours (k=5): trains the black box and nothing else" in result.stdout


def test_check_says_ok_line_by_line(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    result = call("check", "accuracy")
    assert result.exit_code == 0, result.output
    assert "metric accuracy: a finite score, tables in order: ok" in result.stdout
    assert "--controls draws the demo birds" in result.stdout


def test_check_takes_settings():
    result = call("check", "consistency", "--no-controls", "--set", "consistency.threshold=7")
    assert result.exit_code == 1
    assert "WRONG: RequestError: consistency.threshold: Input should be" in result.stdout


def test_check_of_a_plugin_that_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})
    file = tmp_path / "plugin.py"
    file.write_text(
        "from bench.core import registry\nfrom metrics.controls import Center\n\n\n"
        "class Odd(Center):\n    name = 'odd'\n    class_specific = True\n\n"
        "    def fit(self, task):\n        return self.build(task).train()\n\n\n"
        "registry.register('methods', 'odd', Odd)\n"
    )
    result = call("check", "odd", "--plugin", str(file))
    assert result.exit_code == 1, result.output
    assert "method odd: shapes: WRONG: fit returns a model in train mode: end with `.eval()`" in result.stdout
    assert "method odd: explaining changes nothing: ok" in result.stdout
