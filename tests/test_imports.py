"""The order of packages: imports run one way, and nothing is imported that a package does not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW_RUNNER = {"core", "contract", "data", "models", "training", "posthoc", "config", "results"}
# What the modules of a package may import besides their own package; imports for type checkers count too.
ALLOWED = {
    "core": set(),
    "contract": {"core"},
    "data": {"core", "contract"},
    "models": {"core", "contract"},
    "posthoc": {"core", "contract", "models"},
    "config": {"core", "contract", "data", "models"},
    "training": {"core", "contract", "data", "models", "config"},
    "results": {"core", "contract", "config"},
    "runner": BELOW_RUNNER,
    "report": {"core", "contract", "results"},
    "visualization": {"core", "contract", "posthoc", "results", "report", "runner"},
    "diagnostics": BELOW_RUNNER | {"runner", "report"},
    "api": BELOW_RUNNER | {"runner", "report"},
    "cli": BELOW_RUNNER | {"runner", "report", "visualization", "diagnostics", "api"},
    "__main__": {"core", "cli", "runner"},
    "baselines": {"core", "contract", "models", "config", "training", "posthoc"},
    "metrics": {"core", "contract"},
}
FILES = sorted(file for folder in ("bench", "baselines", "metrics") for file in (ROOT / folder).rglob("*.py"))
LONGEST = 400


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file) for file in FILES}


def package_of(module: str) -> str:
    """The package of bench, or baselines or metrics; empty for ``bench`` itself."""
    top, _, rest = module.partition(".")
    return rest.split(".")[0] if top == "bench" else top


def imported(file: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES or {node.module}
    return {name for name in found if name.split(".")[0] in ("bench", "baselines", "metrics")}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_what_they_may(package):
    for file in FILES:
        if package_of(module_of(file)) == package:
            others = {package_of(target) for target in imported(file)} - {package, ""}
            assert others <= ALLOWED[package], f"{file.relative_to(ROOT)} imports {others - ALLOWED[package]}"


def test_every_package_has_a_rule():
    assert {package_of(module) for module in MODULES} - {""} == set(ALLOWED)


def test_no_package_imports_in_a_circle():
    left = {name: targets & set(ALLOWED) for name, targets in ALLOWED.items()}
    while ready := [name for name, targets in left.items() if not targets & set(left)]:
        for name in ready:
            del left[name]
    assert not left


@pytest.mark.parametrize("package", ["bench.results", "bench.config.spec"])
def test_stored_results_are_read_without_torch(package):
    modules = sorted(name for name in MODULES if f"{name}.".startswith(f"{package}."))
    code = f"import sys, {', '.join(modules)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_harness_names_no_method_and_no_metric():
    """Methods and metrics are strings in the table of built-ins."""
    about_decomposition = (
        "bench.posthoc",
        "bench.cli",
        "bench.diagnostics",
        "bench.visualization",
        "bench.runner.intervene",
    )
    for file in FILES:
        module = module_of(file)
        if module.startswith("bench"):
            targets = imported(file)
            assert not any(target.startswith(("baselines", "metrics")) for target in targets), file
            if not module.startswith(about_decomposition):
                assert not any(target.startswith("bench.posthoc") for target in targets), file


def test_files_hold_one_concept():
    lines = {file: len(file.read_text().splitlines()) for file in FILES if file.name != "__init__.py"}
    assert not {str(file.relative_to(ROOT)): count for file, count in lines.items() if count > LONGEST}


def test_the_picture_of_the_packages_is_true():
    """Every arrow of the picture in CONTRIBUTING.md is allowed, and no package is missing from it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    lines = text.split("flowchart TD\n")[1].split("```")[0].splitlines()
    drawn = set()
    for line in filter(None, map(str.strip, lines)):
        upper, lower = ([name.split("[")[0].strip() for name in side.split("&")] for side in line.split("-->"))
        drawn |= {*upper, *lower}
        assert all(name in ALLOWED[above] for above in upper for name in lower), line
    assert drawn == set(ALLOWED) - {"__main__"}
