"""What `speed data` compares and reports; how fast it is depends on the machine and is not tested."""

import json

import pytest
import torch
from click.testing import CliRunner

from bench.cli.main import main
from bench.data.cache import prepare
from bench.data.cars import Cars
from bench.data.preprocessing import Preprocessing
from bench.diagnostics.speed_data import Files, measure, table
from bench.models.tiny import TinyNet
from bench.report.renderers import as_markdown
from tests.support.cub_trees import Quiet, make_cars


@pytest.fixture
def cars(tmp_path):
    return Cars(make_cars(tmp_path / "stanford_cars"))


def test_both_read_the_same_images(cars, tmp_path):
    """Whole images squashed with PIL's filter: the files give the prepared images, or their mirrors."""
    samples = prepare(cars, Preprocessing(crop="full", size=32), tmp_path / "home", Quiet())["train"]
    files = Files(cars.split("train"), samples)
    (batch,) = samples.batches(10)
    for index, pixels in enumerate(batch.images):
        found, label = files[index]
        assert label == samples.labels[index]
        assert any(torch.allclose(found, seen, atol=1e-6) for seen in (pixels, pixels.flip(-1)))


def test_what_is_reported(cars, tmp_path):
    samples = prepare(cars, Preprocessing(crop="full", size=32), tmp_path / "home", Quiet())["train"]
    settings = {"images": 10, "batch_size": 4, "workers": 0, "rounds": 2, "steps": 2, "augment": "protopnet2019"}
    found = measure(cars.split("train"), samples, TinyNet, torch.device("cpu"), **settings)
    del settings["steps"]
    assert settings.items() <= found.items()
    assert found["over_loader"] == found["cache_images_per_second"] / found["loader_images_per_second"]
    assert found["step_seconds"] > 0
    assert 0 <= found["waiting_share"] < 1
    assert "times as fast" in as_markdown([table(found)])
    assert "waiting" in as_markdown([table(found)])
    without = measure(cars.split("train"), samples, None, torch.device("cpu"), images=4, workers=0, rounds=1)
    assert "step_seconds" not in without
    assert "waiting" not in as_markdown([table(without)])


def test_the_command(cars, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    arguments = ["speed", "data", "cars", "--data-root", str(tmp_path), "--set", "cars.protocol.size=32"]
    arguments += ["--images", "6", "--rounds", "1", "--backbone", "none", "--device", "cpu", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["over_loader"] > 0
    assert json.loads(result.stdout)["data"] == "cars"
    for name in ([], ["demo"]):
        drawn = CliRunner().invoke(main, ["speed", "data", *name, "--data-root", "/nope"])
        assert drawn.exit_code == 2
        (line,) = drawn.stderr.splitlines()
        assert line.startswith("error: --data-root /nope: demo is drawn by the project")
    assert not (tmp_path / "home/data").exists()
    wrong = CliRunner().invoke(main, [*arguments, "--augment", "protopnet"])
    assert wrong.exit_code == 2
    assert "did you mean 'protopnet2019'?" in wrong.stderr
