"""Imports run one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each module may import modules of its own rank or below; a name stands for the package as a whole.
RANKS = [
    [
        "bench",
        "bench.core.errors",
        "bench.core.faults",
        "bench.core.work_dir",
        "bench.core.paths",
        "bench.report.plots.style",
        "bench.report.plots.figure",
        "bench.report.plots.overlay",
        "bench.core.prototypes",
        "bench.core.builtins",
        "bench.core.score",
        "bench.contract",
        "bench.data.decoding",
        "bench.core.seeding",
        "bench.core.compat",
        "bench.diagnostics.machine",
        "bench.core.allocator",
        "bench.core.memory",
        "bench.training.distributed",
        "bench.core.energy",
        "bench.core.resource_usage",
    ],
    ["bench.core.registry", "bench.training.schedule"],
    ["bench.data", "bench.models", "bench.results.store", "bench.models.external", "bench.results.stats.bootstrap"],
    [
        "bench.training.feature_cache",
        "bench.training.trainer",
        "bench.training.sharding",
        "bench.core.environment",
        "bench.runner.heartbeat",
        "bench.runner.progress",
        "bench.runner.limits",
        "bench.runner.fit_cache",
        "bench.runner.eta",
        "bench.results.stats.tests",
        "bench.models.shapes",
        "bench.config.spec",
        "bench.runner.evaluator",
    ],
    [
        "bench.posthoc",
        "bench.training.black_box",
        "bench.report",
        "bench.report.mlflow",
        "bench.runner.status",
        "baselines",
        "metrics",
    ],
    ["bench.config.schema"],
    ["bench.config.plan", "bench.diagnostics.synthetic", "bench.runner.dry_run"],
    ["bench.runner.inputs"],
    ["bench.runner.cell"],
    [
        "bench.runner.launchers",
        "bench.results.export",
        "bench.results.merge",
        "bench.diagnostics.speed_grid",
        "bench.runner.queue",
        "bench.runner.reproduce",
        "bench.runner.intervene",
        "bench.diagnostics.speed_metrics",
        "bench.runner.tune",
        "bench.diagnostics.profiling",
        "bench.diagnostics.measurement",
        "bench.diagnostics.scale",
        "bench.diagnostics.speed_train",
        "bench.report.prototypes",
    ],
    ["bench.diagnostics.conformance"],
    [
        "bench.cli.main",
        "bench.cli.data",
        "bench.cli.figures",
        "bench.cli.models",
        "bench.cli.posthoc",
        "bench.cli.report",
        "bench.cli.diagnostics",
        "bench.cli.compare",
        "bench.cli.cells",
        "bench.cli.status",
        "bench.cli.tracking",
        "bench.cli.options",
    ],
    ["bench.__main__"],
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
ALLOWED = {
    "metrics": {"bench.contract", "metrics"},
    "baselines": {
        "bench.contract",
        "bench.training.trainer",
        "bench.training.schedule",
        "bench.core.seeding",
        "bench.models",
        "bench.models.external",
        "baselines",
    },
    "bench.posthoc": {
        "bench.contract",
        "bench.data.decoding",
        "bench.diagnostics.machine",
        "bench.core.memory",
        "bench.report.plots.overlay",
        "bench.report.plots.style",
        "bench.training.trainer",
        "bench.training.schedule",
        "bench.core.seeding",
        "bench.models",
        "bench.posthoc",
    },
    "bench.report": {
        "bench.contract",
        "bench.report.plots.figure",
        "bench.core.errors",
        "bench.core.registry",
        "bench.core.score",
        "bench.report.plots.style",
        "bench.results.store",
        "bench.results.stats.bootstrap",
        "bench.results.stats.tests",
        "bench.report",
    },
    "bench.report.mlflow": {
        "bench.contract",
        "bench.core.registry",
        "bench.results.store",
        "bench.report",
        "bench.core.resource_usage",
        "bench.report.mlflow",
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
    apart = ("bench.posthoc", "bench.cli.posthoc", "bench.runner.intervene")
    harness = [f for f in FILES if module_of(f).startswith("bench") and not module_of(f).startswith(apart)]
    for file in harness:
        for target in imported(file):
            assert not target.startswith(("baselines", "metrics", "bench.posthoc")), f"{file} imports {target}"


def test_files_stay_short():
    long = {str(f.relative_to(ROOT)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long
