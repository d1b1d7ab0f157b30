"""Freed memory stays with a process that asked for it, and torchvision is imported beside any build of torch."""

import ctypes
import os
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only glibc gives memory back and keeps it",
)

SIZE = 2**27
FREED = f"""
import sys
from bench.core.compat import give_back_free_memory, keep_freed_memory
from bench.core.memory import resident
import numpy
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
numpy.ones({SIZE}, numpy.uint8).sum()
print(resident() - before)
give_back_free_memory()
print(resident() - before)
"""


def left(how):
    """Bytes that 128 MiB leave behind: after they were freed, and after all was given back."""
    found = subprocess.run([sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


@glibc
def test_what_is_freed_stays_until_it_is_given_back():
    freed, given_back = left("keep")
    assert freed > 0.9 * SIZE
    assert given_back < 0.1 * SIZE


@glibc
def test_without_it_freed_memory_goes_at_once():
    assert max(left("as it is")) < 0.1 * SIZE


SCOPED = f"""
import sys
from bench.core.compat import freed_memory_kept, keep_freed_memory
from bench.core.memory import resident
import numpy
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
@freed_memory_kept()
def work():
    with freed_memory_kept():
        numpy.ones({SIZE}, numpy.uint8).sum()
    return resident() - before
print(work())
print(resident() - before)
numpy.ones({SIZE}, numpy.uint8).sum()
print(resident() - before)
"""


@glibc
@pytest.mark.parametrize(("how", "kept"), [("as it is", [1, 0, 0]), ("keep", [1, 1, 1])])
def test_a_call_of_the_library_keeps_freed_memory_until_it_ends(how, kept):
    found = subprocess.run([sys.executable, "-c", SCOPED, how], capture_output=True, text=True, check=True)
    assert [round(int(line) / SIZE) for line in found.stdout.split()] == kept


@glibc
def test_thresholds_of_the_environment_stay():
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", SCOPED, "as it is"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert [round(int(line) / SIZE) for line in found.stdout.split()] == [0, 0, 0]


def test_the_allocator_is_set_without_torch():
    code = "import sys, bench.core.compat\nassert not {'torch', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_let_torchvision_be_imported():
    subprocess.run([sys.executable, "-c", "import bench.models, torchvision"], check=True)
