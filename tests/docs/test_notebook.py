"""The notebook of examples runs, and its outputs are those of its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.notebook import executed

FILE = Path(__file__).resolve().parents[2] / "reports" / "examples" / "birds.ipynb"


def shown(notebook: dict[str, Any]) -> list[list[str]]:
    """Kinds of what each code cell shows."""
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[kind for one in cell["outputs"] for kind in one.get("data", {one.get("name"): ""})] for cell in codes]


def html(notebook: dict[str, Any]) -> list[str]:
    found = [one["data"]["text/html"] for cell in notebook["cells"] for one in cell.get("outputs", ())
             if "text/html" in one.get("data", {})]  # fmt: skip
    return list(map("".join, found))


@pytest.mark.documents
@pytest.mark.slow
def test_the_notebook_runs_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))  # which the notebook replaces: it is put back afterwards
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    made = executed(stored)
    assert [cell["cell_type"] for cell in made["cells"]] == [cell["cell_type"] for cell in stored["cells"]]
    assert shown(made) == shown(stored)
    table, differences = html(made)
    for row in ("ours", "cosine-head", "blackbox (reference)", "constant (control)", "center (control)"):
        assert f'<th scope="row">{row}</th>' in table
    assert "ours against cosine-head" in differences


def test_its_outputs_are_small_and_name_no_machine():
    text = FILE.read_text(encoding="utf-8")
    assert len(text) < 150_000
    assert "/tmp" not in text
    assert "/home" not in text.replace('folder / "home"', "")
    assert all(cell["outputs"] or place == 1 for place, cell in enumerate(json.loads(text)["cells"])
               if cell["cell_type"] == "code")  # fmt: skip
