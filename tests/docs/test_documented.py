"""Every table of the study and of the front page is what its command prints from the published results."""

import json
import re
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core import registry
from bench.report.plots.scatter import interpretability
from bench.report.result_tables import results
from bench.results.export import nameless
from bench.results.result_set import ResultSet
from bench.results.store import Store
from tests.support.documented import FINDINGS, RESULTS, ROOT, TEXTS, documented, figures
from tests.support.metric_table import metric_table
from tests.support.published_beside import beside

pytestmark = pytest.mark.documents

BLOCKS = [
    pytest.param(block, id=f"{file.name}: {block.command}")
    for file in TEXTS
    for _, block in documented(file.read_text())
]


def test_every_page_has_tables():
    assert all(list(documented(file.read_text())) for file in TEXTS)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_text_has_what_the_command_prints(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert block.output == block.now()


def test_the_published_numbers_stand_beside_what_was_measured(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert beside() in (ROOT / "reports" / "beside_published.md").read_text()


def test_the_page_of_metrics_has_all_of_the_catalogue():
    page = (ROOT / "metrics" / "README.md").read_text()
    assert metric_table() in page
    prose = page.replace(metric_table(), "")
    stems = {name.removesuffix("_contribution").removesuffix("_shapley") for name in registry.CATALOGUE["metrics"]}
    assert not [name for name in stems if f"`{name}`" not in prose and f"\n## {name}\n" not in prose]


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words[:4])) for words in figures(FINDINGS)])
def test_a_finding_has_the_figure_that_its_command_draws(monkeypatch, tmp_path, words):
    same_matplotlib()
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, [str(tmp_path) if word == "reports/figures" else word for word in words])
    assert result.exit_code == 0, result.output
    drawn = sorted(tmp_path.glob("*.svg"))
    assert drawn
    for file in drawn:
        assert file.read_bytes() == (ROOT / "reports" / "figures" / file.name).read_bytes()
        assert f"(figures/{file.name})" in FINDINGS.read_text()


def same_matplotlib():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    if version("matplotlib") != pinned["matplotlib"]:
        pytest.skip("another matplotlib draws other bytes")


@pytest.mark.parametrize(
    ("page", "words", "name"),
    [
        ("reports/refinement.md", "5", "figure5-cub-mobilenet_v2.svg"),
        ("README.md", "interpretability --suite study_birds", "interpretability-cub.svg"),
    ],
)
def test_a_figure_is_what_its_command_draws(monkeypatch, tmp_path, page, words, name):
    same_matplotlib()
    monkeypatch.chdir(ROOT)
    command = f"figure {words} --out reports/results --to reports/figures --format svg"
    assert f"`python -m bench {command}`" in (ROOT / page).read_text().replace("\n", " ")
    result = CliRunner().invoke(main, command.replace("reports/figures", str(tmp_path)).split())
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_bytes() == (ROOT / "reports" / "figures" / name).read_bytes()


def test_nothing_in_the_results_names_a_machine():
    for file in (ROOT / "reports").rglob("*.json"):
        text = file.read_text()
        assert not any(f'"{root}' in text or f" {root}" in text for root in ("/home", "/work", "/tmp", "/root"))
        content = json.loads(text)
        assert nameless(content) == content


def test_figures_show_the_numbers_of_the_tables():
    store = Store(ROOT / RESULTS)
    tables = results(ResultSet.of(store))
    lines = [row for result in tables for row in result.table.rows]
    compared = 0
    for drawing in interpretability(store):
        for name, scores in re.findall(r"(?<=[.;] )([^;:.]+): (.+?)(?=; |\. |$)", drawing.alt):
            label, _, backbone = name.partition(" on ")
            controls = name == "Content-free controls"
            rows = [line for line in lines if (line.role == "control" if controls else
                                               (line.label, line.backbone) == (label, backbone))]  # fmt: skip
            for metric, printed in re.findall(r"(\w+)(?: \(%\))? (\d+(?:\.\d+)?)(?=[,;.]|$)", scores):
                values = [line.values[metric].value for line in rows if metric in line.values]
                texts = [format(value, form) for value in values if value is not None for form in (".1f", ".3g", ".0f")]
                assert printed in texts, (name, metric, printed, values)
                compared += 1
    assert compared > 50
