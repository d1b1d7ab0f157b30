"""Every table of the study and of the front page is what its command prints from the published results."""

import json
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.results.export import nameless
from tests.support.documented import RESULTS, ROOT, TEXTS, documented
from tests.support.published_beside import beside

BLOCKS = [
    pytest.param(block, id=f"{file.name}: {block.command}")
    for file in TEXTS
    for _, block in documented(file.read_text())
]


def test_there_are_tables_in_both():
    assert all(list(documented(file.read_text())) for file in TEXTS)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_text_has_what_the_command_prints(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert block.output == block.now()


def test_the_published_numbers_stand_beside_what_was_measured(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert beside() in (ROOT / "reports" / "STUDY.md").read_text()


def test_the_figure_is_what_its_command_draws(monkeypatch, tmp_path):
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    if version("matplotlib") != pinned["matplotlib"]:
        pytest.skip("another matplotlib draws other bytes")
    monkeypatch.chdir(ROOT)
    command = "figure 5 --out reports/results --to reports/figures --format svg"
    assert f"`python -m bench {command}`" in (ROOT / "reports" / "STUDY.md").read_text().replace("\n", " ")
    result = CliRunner().invoke(main, command.replace("reports/figures", str(tmp_path)).split())
    assert result.exit_code == 0, result.output
    name = "figure5-cub-mobilenet_v2.svg"
    assert (tmp_path / name).read_bytes() == (ROOT / "reports" / "figures" / name).read_bytes()


def test_nothing_in_the_results_names_a_machine():
    for file in (ROOT / RESULTS).rglob("*.json"):
        text = file.read_text()
        assert not any(f'"{root}' in text or f" {root}" in text for root in ("/home", "/work", "/tmp", "/root"))
        content = json.loads(text)
        assert nameless(content) == content
