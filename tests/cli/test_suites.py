"""``dstbench suites``: what ships, without torch."""

from __future__ import annotations

import json
import subprocess
import sys

from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.runner.matrix.config import suites


def test_every_suite_is_listed_with_its_trials():
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["suites", "--json"]).stdout)}
    assert list(rows) == list(suites())
    trials = {name: row["trials"] for name, row in rows.items()}
    assert {**trials, "cifar10": 333, "mnist-lenet300-bn": 27, "quick": 80, "speed": 7} == trials
    assert rows["quick"]["entries_trained_on"] == 80 * 12 * 1258
    assert rows["quick-text"]["entries_trained_on"] == 7 * 5 * 1600  # windows, as it sets them
    assert rows["mnist-mlp-99"]["entries_trained_on"] % (100 * 60_000) == 0  # with validation: 0
    assert all(row["summary"] for row in rows.values())
    text = CliRunner().invoke(app, ["suites"]).stdout
    assert all(f"{name}: " in text for name in rows)


def test_help_names_every_suite():
    text = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(name in text for name in suites())


def test_listing_imports_no_torch():
    code = (
        "import sys\nfrom dstbench.cli.app import app\n"
        "try: app(['suites'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
