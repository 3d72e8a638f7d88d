"""Figures worked out by hand, or taken from printed tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstbench.report.statistics import (
    critical_t,
    differences,
    holm,
    mean_interval,
    mean_ranks,
    p_value,
    paired,
    pareto,
    power,
    repetitions_needed,
)

T_2 = 4.302652729911275  # 97.5 % quantile of Student's t, 2 degrees of freedom


def test_the_interval_of_three_seeds():
    # mean 92, s = sqrt((1 + 1 + 0) / 2) = 1, half-width t·1/√3
    result = mean_interval([91.0, 93.0, 92.0])
    half = T_2 / math.sqrt(3)
    assert (result.n, result.mean) == (3, 92.0)
    assert result.low == pytest.approx(92 - half, abs=1e-9)
    assert result.high == pytest.approx(92 + half, abs=1e-9)


def test_one_seed_has_no_interval_and_none_has_no_mean():
    one, none = mean_interval([91.0]), mean_interval([math.nan])
    assert (one.n, one.mean, one.low, one.high) == (1, 91.0, None, None)
    assert (none.n, none.mean, none.low) == (0, None, None)


def test_equal_seeds_have_no_interval():
    """One of no width would claim certainty."""
    result = mean_interval([5.0, 5.0])
    assert (result.mean, result.low, result.high) == (5.0, None, None)


def test_what_varies_by_more_than_rounding_has_one():
    result = mean_interval([1e3 - 1e-8, 1e3, 1e3 + 1e-8])
    assert result.high - result.low == pytest.approx(2 * T_2 * 1e-8 / math.sqrt(3), rel=1e-3)


@given(st.integers(2, 20), st.integers(1, 12), st.sampled_from([360, 9_999, 10_000, 50_000]), st.randoms())
def test_seeds_that_differ_by_equally_many_images_are_no_evidence(n, images, total, random):
    """The differences are equal; only rounding tells their floats apart."""
    theirs = {seed: random.randint(0, total - images) for seed in range(n)}
    for whole in (100.0, 1.0):
        pair = [{s: whole * (c + more) / total for s, c in theirs.items()} for more in (images, 0)]
        assert p_value(differences(*pair)) is None
        assert paired(*pair).low is None


def test_differences_pair_by_seed_and_drop_what_only_one_has():
    ours, theirs = {0: 90.0, 1: 92.0, 2: 94.0, 7: 10.0}, {2: 95.0, 1: 94.0, 0: 91.0, 9: 99.0}
    assert differences(ours, theirs) == [-1.0, -2.0, -1.0]
    # mean −4/3, s² = (1/9 + 4/9 + 1/9) / 2 = 1/3, half-width t·√(1/3)/√3 = t/3
    result = paired(ours, theirs)
    assert result.mean == pytest.approx(-4 / 3)
    assert result.high == pytest.approx(-4 / 3 + T_2 / 3, abs=1e-9)


def test_p_value_of_a_paired_t_test():
    # t = (4/3) / (1/3) = 4 with 2 degrees of freedom: p = 2·(1/2 − t/(2·√(t² + 2))) = 1 − 4/√18
    assert p_value([-1.0, -2.0, -1.0]) == pytest.approx(1 - 4 / math.sqrt(18), abs=1e-12)
    assert p_value([1.0, 2.0]) is None
    for n in (3, 4, 5, 6, 10):
        assert p_value([0.1] * n) is None


def test_holm_by_hand():
    # sorted .01 ·4 = .04, .02 ·3 = .06, .03 ·2 = .06, .9 ·1 = .9; never below the one before
    assert holm([0.02, None, 0.9, 0.01, 0.03]) == pytest.approx([0.06, None, 0.9, 0.04, 0.06])
    assert holm([0.02, 0.01]) == pytest.approx([0.02, 0.02])
    assert holm([]) == []
    assert holm([0.8, 0.7]) == [1.0, 1.0]


def test_pareto_front():
    points = [(0.1, 90.0), (0.2, 90.0), (0.2, 93.0), (0.15, 89.0), (1.0, 93.5), (math.nan, 99.0), (0.1, 90.0)]
    assert pareto(points) == [True, False, True, False, True, False, True]
    assert pareto([]) == []


def test_ranks_use_only_methods_that_are_in_every_block():
    blocks = {
        "cifar 0.1": {"rigl": 93.0, "set": 92.0, "mest": 92.0, "late": 99.0},
        "cifar 0.2": {"rigl": 92.0, "set": 94.0, "mest": 91.0},
    }
    # without "late": block 1 ranks 1, 2.5, 2.5; block 2 ranks 2, 1, 3
    assert mean_ranks(blocks) == {"mest": 2.75, "rigl": 1.5, "set": 1.75}
    assert mean_ranks({}) == {}


def test_three_seeds_and_eleven_comparisons():
    assert critical_t(3, 11) == pytest.approx(14.7818, abs=1e-4)
    assert critical_t(3) == pytest.approx(T_2)


@pytest.mark.parametrize(
    ("n", "effect", "comparisons"), [(3, 1, 1), (5, 2, 10), (10, 0.5, 55), (100, 0.3, 2556)]
)
def test_power_is_that_of_statsmodels(n, effect, comparisons):
    from statsmodels.stats.power import TTestPower

    theirs = TTestPower().power(effect, n, 0.05 / comparisons / 2, alternative="larger")
    assert power(n, effect, comparisons) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    ("difference", "deviation", "comparisons"), [(0.5, 0.5, 1), (0.5, 0.3, 11), (0.5, 6.4, 2556)]
)
def test_the_fewest_seeds_that_suffice(difference, deviation, comparisons):
    from scipy.stats import nct, t

    def theirs(n):
        return nct.sf(t.isf(0.025 / comparisons, n - 1), n - 1, difference / deviation * n**0.5)

    needed = repetitions_needed(difference, deviation, comparisons)
    assert theirs(needed) >= 0.8 > theirs(needed - 1)


def test_seeds_needed_at_the_ends():
    assert repetitions_needed(0.5, 1e-6) == 3  # below which nothing is called a difference
    assert repetitions_needed(0.5, 1000.0) is None
    with pytest.raises(ValueError, match="> 0"):
        repetitions_needed(0.5, 0.0)
