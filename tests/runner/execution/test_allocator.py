"""Memory that is freed is kept for the next step."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a fault is one page, whatever the machine's setting
from dstbench.runner.execution.allocator import keep_freed
kept = keep_freed() if sys.argv[1] == "keep" else False
block = b"x" * (48 << 20)
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = b"x" * (48 << 20)
    del block
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = (48 << 20) // os.sysconf("SC_PAGE_SIZE")


def faults(what, **variables):
    """(whether memory is kept, page faults of ten blocks that are freed at once), in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS, what]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    kept, number = done.stdout.split()
    return kept == "True", int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_blocks_that_were_freed_are_used_again():
    kept, number = faults("keep")
    assert kept
    assert number < PAGES
    assert faults("give back")[1] >= 5 * PAGES


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_what_the_environment_says_of_memory_stands():
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] is False
