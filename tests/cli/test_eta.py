"""What is left of a run, against sums by hand."""

from __future__ import annotations

import pytest

from dstbench.cli.eta import Remaining


def remaining(expected=10.0, workers=2):
    trials = {("train", f"{n}"): expected for n in range(6)} | {("throughput", f"{n}"): 1.0 for n in range(6)}
    return Remaining(trials, {"train": workers})


def test_before_anything_ran_it_is_what_was_expected():
    assert remaining().seconds(0.0) == pytest.approx(6 * 10 / 2 + 6 * 1)


def test_what_has_run_corrects_what_was_expected():
    left = remaining()
    for key in "01":
        left.start(("train", key), 0.0)
    for key in "01":
        left.end(("train", key), 30.0)  # three times as long as expected
    assert left.seconds(30.0) == pytest.approx(4 * 30 / 2 + 6)
    left.start(("train", "2"), 30.0)
    assert left.seconds(40.0) == pytest.approx((4 * 30 - 10) / 2 + 6)  # ten seconds of it are over
    assert left.seconds(500.0) == pytest.approx(3 * 30 / 2 + 6)  # late, but never less than nothing


def test_without_expectations_it_takes_a_finished_trial():
    left = remaining(None)
    assert left.seconds(0.0) is None
    left.end(("train", "0"), 8.0)
    assert left.seconds(8.0) == pytest.approx(5 * 8 / 2 + 6)


def test_one_long_trial_is_not_shared_between_workers():
    left = Remaining({("train", "0"): 60.0}, {"train": 8})
    assert left.seconds(0.0) == pytest.approx(60.0)
    left.end(("train", "0"), 60.0)
    assert left.seconds(60.0) == 0.0


def test_nothing_planned_says_nothing():
    assert Remaining().seconds(0.0) is None
