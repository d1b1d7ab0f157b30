"""Imports run one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each module may import modules of its own rank or below; a name stands for the package as a whole.
RANKS = [
    [
        "bench",
        "bench.errors",
        "bench.faults",
        "bench.folder",
        "bench.home",
        "bench.style",
        "bench.drawing",
        "bench.overlay",
        "bench.prototypes",
        "bench.catalogue",
        "bench.score",
        "bench.confusion",
        "bench.contract",
        "bench.decoding",
        "bench.seeding",
        "bench.torchvision_ops",
        "bench.machine",
        "bench.allocator",
        "bench.memory",
        "bench.ranks",
        "bench.energy",
        "bench.usage",
    ],
    ["bench.registry", "bench.schedule"],
    ["bench.data", "bench.backbones", "bench.store", "bench.given", "bench.bootstrap"],
    [
        "bench.at_rest",
        "bench.train",
        "bench.shares",
        "bench.environment",
        "bench.activity",
        "bench.progress",
        "bench.attempts",
        "bench.kept",
        "bench.timings",
        "bench.significance",
        "bench.shapes",
        "bench.specification",
        "bench.evaluation",
    ],
    ["bench.posthoc", "bench.blackbox", "bench.report", "bench.tracking", "bench.status", "baselines", "metrics"],
    ["bench.config"],
    ["bench.plan", "bench.drawn", "bench.dry_run"],
    ["bench.inputs"],
    ["bench.cell"],
    [
        "bench.launch",
        "bench.export",
        "bench.gather",
        "bench.grid_speed",
        "bench.turns",
        "bench.repeat",
        "bench.intervene",
        "bench.metric_speed",
        "bench.tune",
        "bench.subject",
        "bench.measurement",
        "bench.scale",
        "bench.training_speed",
        "bench.figures",
    ],
    ["bench.check"],
    [
        "bench.cli",
        "bench.cli_data",
        "bench.cli_figures",
        "bench.cli_models",
        "bench.cli_posthoc",
        "bench.cli_report",
        "bench.cli_measure",
        "bench.cli_compare",
        "bench.cli_grid",
        "bench.cli_status",
        "bench.cli_tracking",
        "bench.options",
    ],
    ["bench.__main__"],
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
ALLOWED = {
    "metrics": {"bench.contract", "metrics"},
    "baselines": {
        "bench.contract",
        "bench.train",
        "bench.schedule",
        "bench.seeding",
        "bench.backbones",
        "bench.given",
        "baselines",
    },
    "bench.posthoc": {
        "bench.confusion",
        "bench.contract",
        "bench.decoding",
        "bench.machine",
        "bench.memory",
        "bench.overlay",
        "bench.style",
        "bench.train",
        "bench.schedule",
        "bench.seeding",
        "bench.backbones",
        "bench.posthoc",
    },
    "bench.report": {
        "bench.contract",
        "bench.drawing",
        "bench.errors",
        "bench.registry",
        "bench.score",
        "bench.style",
        "bench.store",
        "bench.bootstrap",
        "bench.significance",
        "bench.report",
    },
    "bench.tracking": {
        "bench.contract",
        "bench.registry",
        "bench.store",
        "bench.report",
        "bench.usage",
        "bench.tracking",
    },
}
FILES = sorted(file for folder in ("bench", "baselines", "metrics") for file in (ROOT / folder).rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def owner(module: str) -> str:
    """The longest ranked name that the module is or lies in."""
    found = [name for name in RANK if module == name or (module.startswith(name + ".") and name != "bench")]
    return max(found, key=len, default="bench" if module == "bench" else "")


def imported(file: Path) -> set[str]:
    """Our own modules that a file imports anywhere outside ``if TYPE_CHECKING``."""
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            children = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {child for child in children if is_module(child)} or {node.module}
    return {name for name in found if name.split(".")[0] in ("bench", "baselines", "metrics")}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file):
    own = owner(module_of(file))
    assert own, f"{file} has no place in the order of modules: add it to RANKS"
    for target in imported(file):
        place = owner(target)
        if place == "bench":
            continue  # the version
        assert RANK[place] <= RANK[own], f"{own} (rank {RANK[own]}) imports {target} (rank {RANK[place]})"
        if own in ALLOWED:
            assert place in ALLOWED[own], f"{own} imports {target}"


def test_the_harness_names_no_method_and_no_metric():
    """Catalogues hold strings: nothing in the harness imports a method or metric."""
    # These commands are about the decomposition and nothing else.
    apart = ("bench.posthoc", "bench.cli_posthoc", "bench.intervene")
    harness = [f for f in FILES if module_of(f).startswith("bench") and not module_of(f).startswith(apart)]
    for file in harness:
        for target in imported(file):
            assert not target.startswith(("baselines", "metrics", "bench.posthoc")), f"{file} imports {target}"


def test_files_stay_short():
    long = {str(f.relative_to(ROOT)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long
