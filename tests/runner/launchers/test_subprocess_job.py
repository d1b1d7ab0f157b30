"""A cell's process and the one that waits for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.runner.launchers import subprocess_job
from bench.runner.launchers.subprocess_job import OUTPUT, Job, ProcessExit, ended, execute
from tests.support.small_birds import environment

WAITS = """
import time
from bench.runner.launchers.subprocess_job import tie_to_parent
tie_to_parent()
print("tied", flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={**os.environ, "BENCH_PARENT": str(os.getpid())})
print(child.pid, flush=True)
child.wait()
"""


def gone(pid):
    file = Path(f"/proc/{pid}/status")
    for _ in range(200):
        try:
            if "State:\tZ" in file.read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's service exists on Linux only")
def test_a_cell_dies_with_its_worker(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, WAITS], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    (child,) = lines - {"tied"}
    assert "tied" in lines
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(int(child))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's service exists on Linux only")
def test_one_whose_worker_is_gone_already_does_not_begin(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", WAITS], env={**environment(tmp_path), "BENCH_PARENT": "1"}, check=False, timeout=30
    )
    assert found.returncode == 128 + signal.SIGKILL or os.getpid() == 1


def test_a_machine_that_does_not_see_the_cell_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess_job, "_LATE", 0.0)
    found = execute(Job("a", str(tmp_path / "cells" / "a"), (), {}))
    assert found.code == 2
    assert "all machines need the same BENCH_HOME" in found.output


def test_output_is_kept_of_a_failed_process_only(tmp_path):
    job = Job("a", str(tmp_path), (), {})
    (tmp_path / OUTPUT).write_text("x" * 5000 + "last words")
    found = ended(job, 1)
    assert found.output.endswith("last words")
    assert len(found.output) == 2000
    assert (tmp_path / OUTPUT).is_file()
    ended(job, 0)
    assert not (tmp_path / OUTPUT).exists()


@pytest.mark.parametrize("code", [0, 1, 2, -9, 75, 137, 143])
def test_ended_from_outside_or_by_itself(code):
    assert ProcessExit(code).lost is (code not in (0, 1, 2))
