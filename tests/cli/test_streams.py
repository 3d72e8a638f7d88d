"""Output that the terminal can't show costs characters, never an exit code."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
@pytest.mark.parametrize("command", ["plugins list", "published --method rigl"])
def test_any_encoding_of_the_terminal_will_do(command, encoding, tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "dstbench", *command.split()],
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_an_ascii_locale_reads_and_writes_the_same(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "dstbench", "published", "--method", "rigl"],
        capture_output=True, cwd=tmp_path, env=environment, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
