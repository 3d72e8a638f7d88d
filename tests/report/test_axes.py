"""Axes: where values lie, and the round numbers beside them."""

from __future__ import annotations

import pytest

from dstbench.report.axes import Axis, Frame, round_numbers

FRAME = Frame(100, 60, left=20, right=10, top=5, bottom=15)


def test_a_value_lies_in_proportion_between_the_ends():
    across, up = FRAME.x(0, 10), FRAME.y(0, 10)
    assert [across.at(value) for value in (0, 5, 10)] == [20, 55, 90]
    assert [up.at(value) for value in (0, 2.5, 10)] == [45, 35, 5]  # pixels count downwards


def test_equal_factors_are_equal_lengths_on_a_logarithmic_axis():
    axis = Axis(0.1, 1000, 0, 400, logarithmic=True)
    assert [axis.at(10.0**power) for power in range(-1, 4)] == [0, 100, 200, 300, 400]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_what_lies_off_the_axis_is_at_its_end(logarithmic):
    axis = Axis(1, 100, 30, 80, logarithmic)
    assert (axis.at(0.5), axis.at(1e6)) == (30, 80)


def test_ticks_that_lie_off_the_axis_are_left_out():
    assert Axis(1, 3, 0, 10).ticks((0.5, 1, 2, 3, 5), "×") == ((0, "1×"), (5, "2×"), (10, "3×"))


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 0.0105, 5, [0, 0.005, 0.01]),
        (0, 160, 8, [0, 20, 40, 60, 80, 100, 120, 140, 160]),
        (0, 1.05, 5, [0, 0.5, 1.0]),
    ],
)
def test_round_numbers_lie_inside(low, high, most, expected):
    assert round_numbers(low, high, most) == expected
