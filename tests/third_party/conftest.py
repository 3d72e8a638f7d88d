"""A real outside distribution: built into a wheel, installed into a folder of its own, used from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

collect_ignore_glob = ["dstbench_outsider/*"]  # an outside author's tests: they run where it is installed

OUTSIDER = Path(__file__).parent / "dstbench_outsider"


@pytest.fixture(scope="session")
def outsider_site(tmp_path_factory) -> Path:
    """The folder that the outsider's wheel is installed in; put it on PYTHONPATH. Needs no network."""
    source = tmp_path_factory.mktemp("source") / "dstbench_outsider"
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    shutil.copytree(OUTSIDER, source, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    [wheel] = wheels.glob("*.whl")
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    return site


@pytest.fixture
def run_in():
    """Run Python in a fresh interpreter that sees a site folder."""

    def run(site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
        variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            [sys.executable, *arguments], env=variables, capture_output=True, text=True, cwd=site
        )

    return run
