"""Names and numbers that renaming and moving code must not change.

``python -m tests.support.regenerate pins`` writes ``tests/pins/*.json`` as they are now, after a change that is meant.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from bench.cli.main import main as bench
from bench.config.black_box import BlackBoxConfig
from bench.config.schedule import Phase, Schedule
from bench.config.spec import CellSpec, fingerprint
from bench.core import registry
from bench.data.preprocessing import Preprocessing
from bench.diagnostics.profiling import ProfiledMethod, ProfileSizes
from bench.results.store import Store
from tests.support.documented import RESULTS, ROOT, TEXTS, documented

PINS = Path(__file__).parent / "pins"
_NUMBER = re.compile(r"(?<![A-Za-z_\d.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
_COMMANDS = (
    "results --json",
    *(f"report --table {table} --format csv" for table in range(1, 7)),
    *(
        f"report --suite {suite} --format md"
        for suite in ("study_birds", "study_squeezenet", "study_sizes", "study_cars")
    ),
    "report --suite study_birds --intervals --metrics consistency,stability --format md",
    "compare ours protopnet --suite study_birds",
)


def ids() -> dict[str, list[str]]:
    """Ids of each published cell, of its fit and of its black box, computed from its specification."""
    store = Store(ROOT / RESULTS)
    specs = {name: CellSpec.of(store.specification(name), store.root) for name in store.cells()}
    return {name: [spec.id, spec.fit_id, spec.black_box_id] for name, spec in specs.items()}


def printed() -> dict[str, dict[str, Any]]:
    """How many numbers each command prints from the published results, and their digest in the order of printing."""
    commands = [f"{command} --out {RESULTS}" for command in _COMMANDS]
    commands += [
        " ".join(block.command.replace("\\\n", " ").split()[3:])
        for file in TEXTS
        for _, block in documented(file.read_text())
    ]
    return {command: _numbers(command) for command in dict.fromkeys(commands)}


def fields() -> dict[str, dict[str, Any]]:
    """Names and defaults of the settings of everything that is hashed into ids."""
    models: dict[str, type[BaseModel]] = {
        "cell": CellSpec, "protocol": Preprocessing, "schedule": Schedule, "phase": Phase, "classifier": BlackBoxConfig,
    }  # fmt: skip
    for kind in ("methods", "metrics"):
        for name in registry.names(kind):
            models[f"{kind}.{name}"] = registry.load(kind, name).Config
    return {name: _defaults(model) for name, model in sorted(models.items())}


def purposes() -> list[str]:
    """The literal purposes for which random numbers are derived from a seed."""
    literals = set()
    for package in ("bench", "baselines", "metrics"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "derive":
                    literals |= {one.value for one in node.args if isinstance(one, ast.Constant) and one.value != 0}
    return sorted(literals)


def tensors() -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the tensors of each network and of the tiny backbone."""
    networks = [name for name, entry in registry.names("methods").items() if entry.role == "method"]
    models = {name: ProfiledMethod(name, ProfileSizes("tiny", 3, 64)) for name in networks}
    shapes = {
        name: {key: list(value.shape) for key, value in subject.model().state_dict().items()}
        for name, subject in models.items()
        if subject.trains
    }
    return shapes


def stored() -> dict[str, list[str]]:
    """Keys of the files of the published cells, and the columns of their item tables."""
    keys: dict[str, set[str]] = {}
    store = Store(ROOT / RESULTS)
    for record in map(store.record, store.cells()):
        for file, content in (("cell.json", record.written), ("result/result.json", record.result)):
            keys.setdefault(file, set()).update(content)
            for part in ("spec", "where"):
                keys.setdefault(f"{file}: {part}", set()).update(content.get(part, ()))
        files = store.files(record.name)
        for table in files.names("items/*.csv"):
            # Not as numbers: a table may have a column of texts, such as the channels of the noise.
            keys.setdefault(table, set()).update(files.read(table).decode().partition("\n")[0].strip().split(","))
    return {name: sorted(found) for name, found in sorted(keys.items()) if found}


PINNED: dict[str, Callable[[], Any]] = {pin.__name__: pin for pin in (ids, printed, fields, purposes, tensors, stored)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.documents] * (name == "printed")) for name in PINNED]
)
def test_pinned(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert PINNED[name]() == json.loads((PINS / f"{name}.json").read_text())


def test_folders_of_cells_are_their_ids():
    assert all(folder == computed[0] for folder, computed in ids().items())


def _numbers(command: str) -> dict[str, Any]:
    result = CliRunner().invoke(bench, shlex.split(command), env={"COLUMNS": None})
    assert result.exit_code == 0, f"{command}: {result.output}"
    # Eight digits: the last bits of an interval follow the processor's sums.
    numbers = [f"{float(number.replace(',', '')):.8g}" for number in _NUMBER.findall(result.stdout)]
    return {"numbers": len(numbers), "digest": fingerprint(numbers)}


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {
        name: "required"
        if field.is_required()
        else json.loads(json.dumps(field.get_default(call_default_factory=True), default=_plain))
        for name, field in model.model_fields.items()
    }


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else repr(value)
