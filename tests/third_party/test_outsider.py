"""An outside distribution shows up beside the built-ins and passes its own conformance tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

HERE = Path(__file__).parent

LIST = """
import sys
from dstbench.cli.app import app
app(["plugins", "list", "--json"], standalone_mode=False)
assert "torch" not in sys.modules, "listing plugins imported torch"
"""


def test_installed_wheel_is_listed(outsider_site, run_in):
    done = run_in(outsider_site, "-c", LIST)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    mine = {(row["kind"], row["name"]): row for row in rows if row["distribution"] == "dstbench-outsider"}
    assert set(mine) == {
        ("structure", "ragged_n_of_m"),
        ("grow", "snr"),
        ("grow", "peak"),
        ("accumulator", "peak"),
        ("grow", "dstbench-outsider/gradient"),  # a built-in owns the short name
        ("share", "square_root"),
        ("schedule", "linear"),
        ("recipe", "outsider"),
        ("recipe", "outsider-often"),
    }
    snr = mine["grow", "snr"]
    assert (snr["version"], snr["distribution_version"], snr["plugin"]) == ("2", "1.2.0", "outsider")
    assert snr["summary"] == "largest |gradient| against its momentum"
    assert [row for row in rows if row["status"] != "ok"] == []
    assert ("grow", "gradient", "dstbench") in {(r["kind"], r["name"], r["distribution"]) for r in rows}


def test_an_alias_from_outside_is_shown_as_one(outsider_site, run_in):
    done = run_in(outsider_site, "-m", "dstbench", "plugins", "show", "outsider-often", "--json")
    assert done.returncode == 0, done.stderr
    details = json.loads(done.stdout)
    assert details["alias_of"] == {"name": "outsider", "delta_t": 10}
    assert [(p["name"], p["default"]) for p in details["parameters"]] == [("delta_t", 10)]
    assert details["parts"]["schedule"]["delta_t"] == 10


def test_its_own_tests_pass(outsider_site, run_in, tmp_path):
    tests = tmp_path / "tests"
    shutil.copytree(HERE / "dstbench_outsider" / "tests", tests)
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(tmp_path)]
    done = run_in(outsider_site, *arguments, str(tests))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout


def test_switched_off(outsider_site, run_in):
    done = run_in(outsider_site, "-c", LIST, DSTBENCH_DISABLE_PLUGINS="dstbench_outsider")
    rows = json.loads(done.stdout)
    [off] = [row for row in rows if row["distribution"] == "dstbench-outsider"]
    assert (off["status"], off["name"]) == ("disabled", "outsider")
    assert "DSTBENCH_DISABLE_PLUGINS" in off["reason"]
