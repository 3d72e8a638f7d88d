"""Thousands of tests at once are the single ones; sets that can't be told apart are the maximal ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstbench.report import statistics
from dstbench.report.evidence.cliques import maximal_sets
from dstbench.report.evidence.pairs import all_pairs, holm, paired_t

VALUES = st.lists(
    st.lists(
        st.integers(0, 360).map(lambda hits: 100 * hits / 360) | st.just(float("nan")), min_size=4, max_size=4
    ),
    min_size=1,
    max_size=5,
)


@given(VALUES)
def test_rows_are_tested_as_one_by_one(rows):
    n, mean, _, p = paired_t(np.array(rows))
    for place, row in enumerate(rows):
        known = [value for value in row if value == value]
        assert n[place] == len(known)
        if known:
            assert mean[place] == pytest.approx(np.mean(known))
        expected = statistics.p_value(known)
        assert (
            np.isnan(p[place])
            if expected is None
            else p[place] == pytest.approx(expected, rel=1e-6, abs=1e-12)
        )


@given(st.lists(st.floats(0, 1) | st.none(), max_size=8))
def test_holm_is_that_of_the_boards(values):
    adjusted = holm(np.array([np.nan if value is None else value for value in values], dtype=float))
    assert [None if value != value else value for value in adjusted.tolist()] == pytest.approx(
        statistics.holm(values)
    )


def test_pairs_are_in_order_and_use_what_both_have():
    nan = float("nan")
    pairs = all_pairs(np.array([[1.0, 2.0, 3.0, nan], [0.0, 2.5, 1.0, 9.0], [nan, nan, nan, 5.0]]))
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert pairs.n.tolist() == [3, 0, 1]
    assert pairs.mean[0] == pytest.approx((1.0 - 0.5 + 2.0) / 3)
    assert np.isnan(pairs.p[1:]).all()


def test_one_method_has_no_pairs():
    assert len(all_pairs(np.array([[1.0, 2.0]])).p) == 0


@given(st.sets(st.sampled_from(list(combinations(range(6), 2)))))
def test_maximal_sets_are_all_and_only_the_maximal_ones(apart):
    whole = [set(s) for size in range(1, 7) for s in combinations(range(6), size)
             if not any(pair in apart for pair in combinations(sorted(s), 2))]  # fmt: skip
    expected = sorted(tuple(sorted(s)) for s in whole if not any(s < other for other in whole))
    assert maximal_sets(6, apart) == expected


def test_sets_by_hand():
    assert maximal_sets(3, {(0, 1)}) == [(0, 2), (1, 2)]
    assert maximal_sets(0, set()) == []
