"""The benchmark's manners: rows as they come, nothing measured is lost, and each side beside the machine's peak."""

from __future__ import annotations

import argparse
import json

import pytest
from torch import nn

from dstbench import bench
from dstbench.bench.machine_peak import Peak, Work, compared
from dstbench.bench.single_layers import LAYERS, work
from dstbench.bench.subject import Part, Subject
from dstbench.errors import BadInput


def subject(*parts: Part) -> Subject:
    return Subject("fake", lambda options: parts, ("name", "dense_ms", "ratio"), rounds=9, warmup=2, quick={})


def options(**more) -> argparse.Namespace:
    return argparse.Namespace(**{"out": None, "only": None, **more})


def rows(name):
    yield {"name": name, "dense_ms": 4.0, "ratio": 2.0, "note": f"of {name}"}


def stop(name):
    yield from rows(name)
    raise KeyboardInterrupt


def fail():
    raise ValueError("no kernel")


def measured(*parts: Part, **more):
    return bench.measure(subject(*parts), list(parts), options(**more))


def test_rows_come_as_they_are_measured(capsys):
    parts = [Part("one", lambda: rows("one")), Part("two", lambda: rows("two"), "others")]
    code, content = measured(*parts)
    assert code == 0
    assert [row["name"] for row in content["rows"] + content["others"]] == ["one", "two"]
    heading, first, note, *_ = capsys.readouterr().err.splitlines()
    assert heading.split() == ["name", "dense", "ms", "ratio"]
    assert first.split() == ["one", "4.00", "2.00x"]
    assert note == "  of one"


def test_a_part_that_fails_is_a_row_and_the_rest_goes_on():
    code, content = measured(Part("bad", fail), Part("good", lambda: rows("good")))
    assert code == 1
    assert content["rows"][0] == {"part": "bad", "failed": "ValueError: no kernel"}
    assert content["rows"][1]["name"] == "good"


def test_what_was_measured_is_kept_when_stopped(tmp_path):
    path = tmp_path / "rows.json"
    parts = [Part("one", lambda: rows("one")), Part("two", lambda: stop("two")), Part("three", fail)]
    code, content = measured(*parts, out=path)
    assert (code, content["stopped"]) == (130, "two")
    assert [row["name"] for row in content["rows"]] == ["one", "two"]
    assert [row["name"] for row in json.loads(path.read_text())["rows"]] == ["one"]


def test_only_chooses_parts_by_name():
    parts = [Part("linear, forward", fail), Part("conv, forward", fail), Part("conv, backward", fail)]
    assert [part.name for part in bench._wanted(parts, ["backward", "linear"])] == [
        parts[0].name,
        parts[2].name,
    ]
    with pytest.raises(BadInput, match="no part's name contains 'cnov'; there are: linear, forward; conv"):
        bench._wanted(parts, ["cnov"])


def test_quick_sets_what_was_not_given():
    given = argparse.Namespace(quick=True, rounds=None, warmup=7, density=None)
    completed = LAYERS.completed(given)
    assert (completed.rounds, completed.warmup, completed.density) == (5, 7, [0.1])
    given.quick = False
    assert (LAYERS.completed(given).rounds, LAYERS.completed(given).density) == (15, None)


def test_a_row_says_what_share_of_the_peak_both_sides_reach():
    """80 GFLOP in 2 s at a peak of 100 GFLOP/s; the fast side: a tenth in 0.1 s, bound by 20 GB at 250 GB/s."""
    row = compared(Work(80e9), 2000.0, Work(8e9, 20e9), 100.0, Peak(100e9, 250e9))
    assert row["dense_share"] == pytest.approx(0.4)
    assert row["fast_share"] == pytest.approx(0.8)
    assert row["ratio"] == pytest.approx(20)
    assert row["arithmetic"] == pytest.approx(10)
    assert row["roofline"] == pytest.approx(2000 / 80)
    assert row["note"] == "above the 10.0x of the arithmetic: dense runs at 40% of the machine's peak"
    assert compared(Work(80e9), 900.0, Work(8e9), 100.0, Peak(100e9, 250e9))["note"] == ""


def test_the_work_of_a_layer():
    """A convolution of 3x3 on 2 images of 8x8: 128 positions, each 2 operations a weight; thrice with gradients."""
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert work(layer, (2, 3, 8, 8), 27, training=False).flops == 2 * 128 * 27
    assert work(layer, (2, 3, 8, 8), 27, training=True).flops == 3 * 2 * 128 * 27
    assert work(layer, (2, 3, 8, 8), 27, training=False).bytes == 4 * (2 * 3 * 64 + 2 * 5 * 64 + 27)
