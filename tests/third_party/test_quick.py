"""An outside distribution's strategies run through the quick suite, in the same table as the built-ins."""

from __future__ import annotations

import json

import pytest

SETTINGS = [
    "init=erk",
    "structure=unstructured,ragged_n_of_m",
    "prune=magnitude",
    "grow=gradient,snr",
    "schedule=linear",
    "schedule.delta_t=4",
    "controls=static",
    "training.epochs=2",
    "measure.throughput=false",
]


@pytest.mark.slow
def test_outside_strategies_stand_beside_the_built_in_ones(outsider_site, run_in, tmp_path):
    out = tmp_path / "results"
    settings = [word for setting in SETTINGS for word in ("-S", setting)]
    done = run_in(outsider_site, "-m", "dstbench", "run", "quick", *settings, "--out", str(out), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    cells = {(row["structure"], row["grow"]) for row in rows if not row["control"]}
    assert cells == {
        (structure, grow)
        for structure in ("unstructured", "dstbench-outsider/ragged_n_of_m")
        for grow in ("gradient", "dstbench-outsider/snr")
    }
    for file in out.glob("??/*/result.json"):
        record = json.loads(file.read_text())
        assert record["status"] == "ok", record["reason"]
        if record["control"] is None:
            assert record["measures"]["updates"] >= 10
            assert record["measures"]["changed"] > 0
            assert record["provenance"]["plugins"]["dstbench-outsider"] == "1.2.0"
