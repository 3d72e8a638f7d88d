"""Broken distributions beside a working one: each is named with its reason, the rest goes on."""

from __future__ import annotations

import json

from fake_distribution import install, registering

LIST = ("-m", "dstbench", "plugins", "list", "--json")

BROKEN = {
    "dstbench-broken-import": ("import not_installed_anywhere", "ModuleNotFoundError"),
    "dstbench-broken-hook": (
        "@hookimpl\ndef register_growth(register): pass",
        "did you mean 'register_grow'",
    ),
    "dstbench-broken-twice": (registering("grow", "same", "same"), "registers grow 'same' twice"),
}


def test_broken_ones_are_named_and_the_rest_works(tmp_path, run_in):
    for distribution, (source, _) in BROKEN.items():
        install(tmp_path, distribution, source)
    install(tmp_path, "dstbench-shadow", registering("grow", "gradient"))
    done = run_in(tmp_path, *LIST)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    reasons = {row["distribution"]: row["reason"] for row in rows if row["status"] == "disabled"}
    assert set(reasons) == set(BROKEN)
    for distribution, (_, expected) in BROKEN.items():
        assert expected in reasons[distribution]
    owners = {row["name"]: row["distribution"] for row in rows if row["kind"] == "grow"}
    assert owners["gradient"] == "dstbench"
    assert owners["dstbench-shadow/gradient"] == "dstbench-shadow"


def test_strict_stops_at_the_first(tmp_path, run_in):
    install(tmp_path, "dstbench-broken-import", BROKEN["dstbench-broken-import"][0])
    done = run_in(tmp_path, *LIST, DSTBENCH_STRICT_PLUGINS="1")
    assert done.returncode == 2
    assert "dstbench-broken-import 1.0" in done.stderr.replace("\n", " ")
