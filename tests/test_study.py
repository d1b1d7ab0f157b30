"""Every table of the study and of the front page is what its command prints from the published results."""

import json

import pytest
from documented import RESULTS, ROOT, TEXTS, documented

from bench.export import nameless

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


def test_nothing_in_the_results_names_a_machine():
    for file in (ROOT / RESULTS).rglob("*.json"):
        text = file.read_text()
        assert not any(f'"{root}' in text or f" {root}" in text for root in ("/home", "/work", "/tmp", "/root"))
        content = json.loads(text)
        assert nameless(content) == content
