"""Slurm: the script that sbatch is given, its options, and submitit's executor without Slurm."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.contract import RequestError
from bench.runner.launchers.slurm import read_options, script
from tests.support.small_birds import QUICK, called, few_birds, stored

pytest.importorskip("submitit")

SBATCH = """#!{python}
# Stands in for Slurm: runs each task of the array here, one after the other, and then tells the number.
import os, subprocess, sys
from pathlib import Path
text = Path(sys.argv[1]).read_text()
flags = dict(line[10:].partition("=")[::2] for line in text.splitlines() if line.startswith("#SBATCH --"))
with Path(os.environ["SEEN"]).open("a") as seen:
    seen.write(text)
number = str(4000 + Path(os.environ["SEEN"]).read_text().count("#!/bin/bash"))
last = int(flags["array"].partition("%")[0].partition("-")[2]) if "array" in flags else None
print("Submitted batch job", number, flush=True)
if os.fork() == 0:
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # else whoever called would wait for our end
        os.dup2(devnull, stream)
    for task in range(last + 1) if last is not None else [None]:
        own = {{"SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}}
        if task is not None:
            own |= {{"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}}
        subprocess.run(["bash", sys.argv[1]], env={{**os.environ, **own}})
"""
SRUN = """#!{python}
import os, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words = words[1:] if words[0] == "--unbuffered" else words[2:]
os.execvp(words[0], words)
"""
SACCT = """#!{python}
print("JobID|State|NodeList")
"""


def test_slurm_script_has_the_options_and_valid_bash(tmp_path):
    options = {"partition": "gpu", "time": "1-12:00:00", "mem": "32G", "account": "birds", "reservation": "cvpr"}
    text = script(tmp_path, options, 8, 4, 1.0, 24)
    for line in (
        "partition=gpu", "time=2160", "mem=32G", "account=birds", "reservation=cvpr", "gpus-per-node=1",
        "cpus-per-task=4", "array=0-23%8", "job-name=partbench",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text
    assert f"{sys.executable} -u -m submitit.core._submit {tmp_path}" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("8:00:00", 480), ("2-00:00:00", 2880), ("1-06", 1800), ("30:30", 31), ("0:00:20", 1)],
)
def test_times(text, minutes):
    assert read_options({"time": text})["time"] == minutes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time": "soon"}, "write minutes, 8:00:00 or 2-00:00:00"),
        ({"partitoin": "gpu"}, "did you mean 'partition'"),
        ({"cluster": "lsf"}, "write slurm or local"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(RequestError, match=said):
        read_options(options)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    data = few_birds(tmp_path_factory.mktemp("slurm"))
    return ["run", "--methods", "ours", "--no-tracking", *QUICK, "--data-root", str(data)]


def test_dry_run_prints_the_script(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    chosen = ["--launcher", "slurm", "--slurm", "partition=birds", "--gpus-per-cell", "1", "--dry-run"]
    result = CliRunner().invoke(main, [*arguments, *chosen, "--device", "auto"])
    assert result.exit_code == 0, result.output
    assert "#SBATCH --partition=birds" in result.output
    assert "#SBATCH --array=0-5%6" in result.output
    half = CliRunner().invoke(main, [*arguments, *chosen, "--gpus-per-cell", "0.5"])
    assert half.exit_code == 2
    assert "Slurm hands out whole GPUs" in half.output


@pytest.mark.skipif(shutil.which("srun") is not None, reason="Slurm is here")
def test_without_slurm_it_says_so(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    result = CliRunner().invoke(main, [*arguments, "--launcher", "slurm"])
    assert result.exit_code == 2
    assert "cluster=local" in result.output
    assert not (tmp_path / "cells").exists()
    assert not (tmp_path / "invocations").exists()


@pytest.mark.slow
def test_sbatch_gets_arrays_and_the_results_are_those_of_inline(arguments, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (tools / name).write_text(text.format(python=sys.executable))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{Path('/usr/bin')}:{Path('/bin')}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    few = ["ours,blackbox,center" if word == "ours" else word for word in arguments] + ["--no-controls"]
    assert called(tmp_path / "inline", *few).returncode == 0
    found = called(tmp_path / "slurm", *few, "--launcher", "slurm", "--slurm", "partition=birds")
    assert found.returncode == 0, found.stdout + found.stderr
    assert stored(tmp_path / "slurm") == stored(tmp_path / "inline")
    seen = (tmp_path / "seen").read_text()
    # The images, then the black box with the control, then the two that need it.
    assert [line for line in seen.splitlines() if "--array" in line] == ["#SBATCH --array=0-1%2"] * 2
    assert seen.count("#SBATCH --partition=birds") == 3
