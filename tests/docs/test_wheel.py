"""The wheel, installed where there is no checkout: it has the configuration files, templates and published numbers."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from bench.data import synthetic
from bench.data.synthetic import draw

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = ("bench", "baselines", "metrics", "configs", "reports/published", "pyproject.toml", "README.md", "LICENSE")

pytestmark = [pytest.mark.slow, pytest.mark.documents]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves folders in its source that would end up in the next wheel."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        place = source / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, place)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(source), *options, "-w", str(out)], check=True, timeout=300
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def call(wheel, tmp_path_factory):
    """Run the installed command in an empty folder; only dependencies come from this environment."""
    folder, here = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    target = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    install = ["install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True, timeout=300)
    # A .pth file adds a folder without reading the .pth files in it: an editable checkout there stays invisible.
    (target / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Fewer birds than the demo's, found in its place: drawing all of them takes half a minute.
    draw(here / "home" / "data" / f"demo-{synthetic.VERSION}", classes=3, train=5, test=3)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BENCH_CONFIGS")}
    settings = {**kept, "BENCH_HOME": str(here / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}

    def run(*words, program=("-m", "bench")):
        command = [str(python), *program, *words]
        return subprocess.run(command, cwd=here, env=settings, capture_output=True, text=True, timeout=300, check=False)

    return run


def test_wheel_has_every_data_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [file.relative_to(ROOT / "configs") for file in (ROOT / "configs").rglob("*.yaml")]
    configs = {f"bench/core/_configs/{file}" for file in files}
    templates = {str(file.relative_to(ROOT)) for file in (ROOT / "bench").rglob("templates/*")}
    assert len(configs) > 30
    assert len(templates) > 10
    assert not (configs | templates | {"bench/report/paper_tables/tan2024.csv"}) - names
    assert not [name for name in names if name.startswith("tests/")]


def test_modules_come_from_the_wheel(call):
    place = call(program=("-c", "import bench, baselines, metrics; print(bench.__file__, metrics.__file__)")).stdout
    assert str(ROOT) not in place
    assert place.count("site-packages") == 2


def test_installed_command_lists_the_suites(call):
    result = call("ls", "suites")
    assert result.returncode == 0, result.stderr
    assert all(file.stem in result.stdout for file in (ROOT / "configs" / "suites").glob("*.yaml"))


def test_installed_command_plans_the_demo(call):
    result = call("run", "--suite", "demo", "--dry-run", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "7 cells: 7 to run" in result.stdout


def test_installed_report_says_what_is_missing(call):
    result = call("report", "--table", "2")
    assert result.returncode == 0, result.stderr
    assert "python -m bench run" in result.stdout


def test_installed_pages_have_their_templates(call):
    done = call("run", "--methods", "center", "--datasets", "demo", "--no-controls", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    result = call("report", "--format", "html", "-o", "pages")
    assert result.returncode == 0, result.stderr
    assert "written: pages/index.html" in result.stdout
