"""SIGKILL at any moment, the same command again: the numbers of an undisturbed run."""

import re
import signal
import subprocess
import sys

import pytest
from birds import QUICK, bench, environment, few_birds, scores

MOMENTS = [
    r"\[1/2\]",
    r"training the black box",
    r"all 1/2",
    r"epochs: 2 in",
    r"classes decomposed",
    r"\[2/2\]",
    r"joint 1/2",
    r"joint: project",
    r"last 1/1",
]
"""Lines of the output after which a run is killed."""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    data = few_birds(tmp_path_factory.mktemp("killed"))
    return ["run", "--methods", "ours,protopnet", "--no-controls", "--no-tracking", *QUICK, "--data-root", str(data)]


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    assert bench(home, *arguments).returncode == 0
    return scores(home)


def kill_after(home, arguments, moment):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "bench", *arguments], env=environment(home), stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if re.search(moment, line):
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed(tmp_path, arguments, undisturbed, moment):
    kill_after(tmp_path, arguments, moment)
    again = bench(tmp_path, *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert scores(tmp_path) == undisturbed


def test_killed_again_and_again(tmp_path, arguments, undisturbed):
    for moment in (r"all 1/2", r"joint 1/2", r"joint 2/2"):
        kill_after(tmp_path, arguments, moment)
    assert bench(tmp_path, *arguments).returncode == 0
    assert scores(tmp_path) == undisturbed


def test_two_runs_at_once_share_the_work(tmp_path, arguments, undisturbed):
    command = [sys.executable, "-m", "bench", *arguments]
    both = [
        subprocess.Popen(
            command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert scores(tmp_path) == undisturbed
