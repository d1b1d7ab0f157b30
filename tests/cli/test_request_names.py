"""Wrong names and numbers are refused at once: in one line, before torch is imported, with nothing written."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.config import overrides, request_names, schema
from bench.contract import RequestError
from bench.core import registry
from bench.results.store import Store
from bench.runner.launchers.tasks import write_down
from tests.support.small_birds import QUICK, environment, few_birds, planned

OURS = ("run", "--methods", "ours", "--datasets", "demo")
WITHOUT_TORCH = [
    (("run", "--methods", "nope", "--datasets", "demo"), "unknown method 'nope'; `python -m bench ls methods` lists"),
    (("run", "--methods", "ours", "--datasets", "nope"), "unknown dataset 'nope'"),
    ((*OURS, "--backbones", "nope"), "unknown backbone 'nope'"),
    ((*OURS, "--metrics", "nope"), "unknown metric 'nope'; `python -m bench ls metrics` lists"),
    ((*OURS, "--weights", "nope=x"), "unknown backbone 'nope'"),
    ((*OURS, "--gpus-per-cell", "tesnet=1"), "--gpus-per-cell tesnet=...: the methods of this run are"),
    ((*OURS, "--set", "protopnet.per_class=5"), "protopnet is not in this run, whose methods are blackbox, center"),
    ((*OURS, "--set", "protopnet.per_class=5,6"), "protopnet is not in this run"),
    ((*OURS, "--set", "cub.folder=x"), "cub is not in this run, whose datasets are demo; leave the setting out, or"),
    ((*OURS, "--metrics", "accuracy", "--set", "purity.x=1"), "purity is not in this run, whose metrics are accuracy"),
    ((*OURS, "--no-controls", "--set", "random.seed=1"), "random is not in this run"),
    ((*OURS, "--set", "nope.k=1"), "unknown section"),
    ((*OURS, "--set", "ours.kk=1"), "ours.kk: unknown setting; did you mean 'k'?"),
    ((*OURS, "--set", "ours.kk=1,2"), "ours.kk: unknown setting; did you mean 'k'?"),
    ((*OURS, "--set", "stability.sigmas.x=1"), "stability.sigmas: unknown setting; did you mean 'sigma'?"),
    ((*OURS, "--set", "ours.k=.inf"), "'.inf' is no finite number"),
    ((*OURS, "--device", "gpu"), "write auto, cpu, cuda or cuda:1"),
    (("run", "--suite", "nope"), "unknown suite 'nope'; `python -m bench ls suites` lists"),
    (("run", "--suite", ""), "unknown suite ''"),
    (("compare", "nope", "x"), "nothing has been run yet"),
    (("report", "--table", "9"), "9 is not in the range"),
    (("check", "nope"), "no method or metric 'nope'"),
    (("scale", "--methods", "nope"), "unknown method 'nope'"),
    (("speed", "train", "--backbone", "nope"), "unknown backbone 'nope'"),
    (("speed", "data", "nope"), "unknown dataset 'nope'"),
    (("data", "verify", "nope"), "unknown dataset 'nope'"),
    (("data", "verify", "cub", "--set", "dogs.folder=x"), "this command takes settings of cub alone"),
    (("data", "fetch", "cub", "--set", "cub.folder=a,b"), "one value at a time"),
    (("decompose", "--model", "m", "--data", "d", "--out", "o", "--set", "k=1,2"), "one value at a time"),
]
WATCHED = """
import json, sys
from click.testing import CliRunner
from bench.cli.main import main
for words in json.load(sys.stdin):
    result = CliRunner().invoke(main, words)
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Usage", "Try"))]
    print(json.dumps([words, result.exit_code, [line for line in lines if line], "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    import json

    home = tmp_path_factory.mktemp("home")
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED], input=json.dumps([words for words, _ in WITHOUT_TORCH]), text=True,
        capture_output=True, check=True, env=environment(home),
    )  # fmt: skip
    assert not list(home.iterdir())
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("place", range(len(WITHOUT_TORCH)), ids=lambda place: " ".join(WITHOUT_TORCH[place][0]))
def test_bad_names_are_refused_before_torch(answers, place):
    words, code, lines, torch = answers[place]
    assert words == list(WITHOUT_TORCH[place][0])
    assert (code, torch) == (2, False), lines
    (line,) = lines
    assert WITHOUT_TORCH[place][1] in line
    assert len(line) < 250


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--memory-limit", ["1e999GiB", "nanGiB", "infGiB", "-1GiB", "٣GiB", "1_0GiB", "0.0001KiB", "2000TiB", "G"]),
        ("--jobs", ["٣", "1_000", "+1", " 1", "1.0", "1e3", "9" * 6000, "0", "-1", "nan"]),
        ("--retries", ["٣", "-1", "9" * 30]),
        ("--seeds", ["٣", "1_0", "+1", "0,0", "0,00", "0,,1", ",", "", "9" * 6000, "1.0", "-1", "one"]),
        ("--gpus-per-cell", ["nan", "inf", "1e300", "1_0", "٣", "-1", "ours=", "9" * 6000]),
        ("--backbones", ["", ",", "tiny,", "tiny,,resnet34", "tiny,tiny"]),
        ("--device", ["cuda:-1", "cuda:٣", "cuda:9999999999", "cuda:", " cpu", "CPU"]),
    ],
)  # fmt: skip
def test_odd_numbers_and_lists_are_refused(option, values, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    for value in values:
        result = CliRunner().invoke(main, [*OURS, option, value])
        assert result.exit_code == 2, (value[:50], result.output)
        (line,) = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage", "Try"))]
        assert len(line) < 250
    assert not (tmp_path / "home").exists()


def test_sizes_that_make_sense_are_read():
    from bench.cli.options import size

    for text, expected in {"24GiB": 24 * 2**30, "1.5 MiB": 3 * 2**19, "1e3KiB": 1024000, "1KiB": 1024}.items():
        assert size(None, None, text) == expected


def test_a_setting_of_one_part_of_a_suite_is_none_of_another():
    parts = [{"methods": ["ours"], "datasets": ["cub"]}, {"methods": ["tesnet"], "datasets": ["dogs"]}]
    for name in ("tesnet.per_class", "dogs.folder", "stability.sigma", "classifier.head", "cub.folder"):
        request_names.check_requests([{**part, "overrides": {name: 1}} for part in parts])
    with pytest.raises(RequestError, match="protopnet is not in this run"):
        request_names.check_requests([{**part, "overrides": {"protopnet.per_class": 1}} for part in parts])


def test_settings_of_an_absent_method_in_a_suite_file(tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "demo.yaml").write_text("backbones: [tiny]\n")
    (tmp_path / "suites" / "one.yaml").write_text(
        "methods: [ours]\ndatasets: [demo]\noverrides: {tesnet.per_class: 5}\n"
    )
    monkeypatch.setenv("BENCH_CONFIGS", str(tmp_path))
    result = CliRunner().invoke(main, ["run", "--suite", "one", "--dry-run"])
    assert result.exit_code == 2
    assert "tesnet is not in this run" in result.stderr


@pytest.mark.parametrize("suite", schema.suites())
def test_our_suites_set_nothing_that_they_do_not_run(suite):
    asked = [one for values in schema.read_suites(suite) for one in overrides.by_dataset(values)]
    request_names.check_requests(asked)


def test_methods_that_replace_those_of_a_suite_leave_their_settings_behind(tmp_path, monkeypatch):
    """Tables print such commands for what is missing. A setting that the suite itself has no use for stays an error."""
    (tmp_path / "suites").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "demo.yaml").write_text("backbones: [tiny]\n")
    content = "methods: [all]\ndatasets: [cub]\noverrides: {cub.folder: x, ours.k: 5}\ngrid: {tesnet.depth: [8, 16]}\n"
    (tmp_path / "suites" / "one.yaml").write_text(content)
    (tmp_path / "suites" / "two.yaml").write_text("extends: one\nmethods: [ours]\ndatasets: [demo]\n")
    monkeypatch.setenv("BENCH_CONFIGS", str(tmp_path))
    (two,) = schema.read_suites("two")
    assert (two["overrides"], two["grid"]) == ({"ours.k": 5}, {})
    request_names.check_requests([two])
    for more, code in (((), 0), (("--set", "tesnet.depth=8"), 2)):
        result = CliRunner().invoke(main, ["run", "--suite", "one", *OURS[1:], "--no-controls", "--dry-run", *more])
        assert result.exit_code == code, result.output


def test_metrics_that_are_not_measured_take_no_settings(tmp_path):
    """Whether prototypes are shared, and so which metrics every run has, only the classes know."""
    birds = few_birds(tmp_path)
    with pytest.raises(RequestError, match="purity is not in this run"):
        planned(birds, tmp_path, methods=("ours",), overrides={"purity.regions": 2})


def test_settings_of_a_black_box_that_nothing_needs_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    words = [
        "run",
        "--methods",
        "center",
        "--no-controls",
        "--dry-run",
        *QUICK,
        "--data-root",
        str(few_birds(tmp_path)),
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "--set classifier.schedule.phases.0.epochs has no effect" in " ".join(result.output.split())


def test_nearest_names_are_few_and_lists_short():
    assert registry.nearest("protopnett", ["protopnet", "ours"]) == "; did you mean 'protopnet'?"
    listed = "; did you mean 'ours'? `python -m bench ls methods` lists all 1"
    assert registry.nearest("our", ["ours"], "methods") == listed
    assert registry.nearest("consistency_pool", ["consistency_pooled", "consistency_pools", "x"]).count("'") == 4
    many = [f"class {number}" for number in range(200)]
    assert len(registry.nearest("zzz", many)) < 120
    assert registry.nearest("zzz", many, "methods") == "; `python -m bench ls methods` lists all 200"
    assert len(registry.nearest("x" * 10**6, many)) < 200
    assert len(registry.quoted("x" * 10**6)) < 80


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--data-root", "nowhere"), "nowhere (--data-root) is not a folder"),
        (("--memory-limit", "1MiB"), "the process takes"),
        (("--device", "cuda:99"), "CUDA devices here"),
        (("--weights", "tiny=x"), "this cell has the backbone None"),
    ],
)
def test_a_refused_call_is_no_failure_of_its_cell(words, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (cell,) = planned(few_birds(tmp_path), tmp_path, methods=("center",), controls=False, overrides={})
    store = Store(tmp_path)
    write_down([cell], store, lambda _: "")
    before = sorted(store.cell(cell.spec.id).path.iterdir())
    result = CliRunner().invoke(main, ["cell", cell.spec.id, "--device", "cpu", *words])
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert sorted(path for path in store.cell(cell.spec.id).path.iterdir() if path.is_file()) == before
    assert store.cell(cell.spec.id).failure is None
