"""Exact top-k against a stable sort, with every kind of tie."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dstbench.api.select import kth_largest, take_top


def oracle(scores, n, eligible=None):
    """The definition: the n highest, the lowest flat index on a tie."""
    flat = scores.flatten().double()
    if eligible is not None:
        flat = flat.masked_fill(~eligible.flatten(), -torch.inf)
    taken = torch.zeros(flat.shape, dtype=torch.bool)
    taken[flat.sort(descending=True, stable=True).indices[:n]] = True
    return taken.view(scores.shape)


def test_ties_go_to_the_lowest_index():
    assert take_top(torch.tensor([1.0, 3, 2, 3, 3]), 2).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("value", [0.0, 1.5, -2.0, torch.inf])
def test_all_equal_takes_the_first(value):
    assert take_top(torch.full((2, 3), value), 4).tolist() == [[True, True, True], [True, False, False]]


def test_minus_zero_equals_zero():
    assert take_top(torch.tensor([-0.0, 0.0, -0.0]), 2).tolist() == [True, True, False]


def test_nothing_and_everything():
    scores = torch.tensor([[1.0, 2.0]])
    assert take_top(scores, 0).tolist() == [[False, False]]
    assert take_top(scores, -1).tolist() == [[False, False]]
    assert take_top(scores, 2).tolist() == [[True, True]]
    assert take_top(torch.empty(0, 3), 0).shape == (0, 3)


def test_only_eligible_positions_are_taken():
    eligible = torch.tensor([False, True, False, True, True])
    assert take_top(torch.tensor([9.0, 1, 9, 1, 1]), 2, eligible).tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_at_most_takes_what_there_is():
    scores = torch.tensor([1.0, 2, 2, 2, -torch.inf])
    assert take_top(scores, 2, at_most=True).tolist() == [False, True, True, False, False]
    assert take_top(scores, 9, at_most=True).tolist() == [True, True, True, True, False]
    eligible = torch.tensor([False, False, False, True, True])
    assert take_top(scores, 3, eligible, at_most=True).tolist() == [False, False, False, True, False]
    assert not take_top(scores, 3, eligible & (scores < 0), at_most=True).any()


def test_minus_infinity_is_never_taken():
    scores = torch.tensor([-torch.inf, 1.0, -torch.inf])
    assert take_top(scores, 1).tolist() == [False, True, False]
    for n in (2, 3):
        with pytest.raises(ValueError, match=rf"top {n} of 1 eligible"):
            take_top(scores, n)


@pytest.mark.parametrize(
    "eligible", [None, torch.tensor([True, False, False]), torch.tensor([True, True, False])]
)
def test_more_than_there_are_is_an_error(eligible):
    with pytest.raises(ValueError, match="asked for the top 4 of"):
        take_top(torch.ones(3), 4, eligible)


def test_eligible_minus_infinity_counts_as_nothing():
    scores = torch.tensor([-torch.inf, 2.0, 1.0, -torch.inf])
    for eligible in ([True, True, False, False], [True, True, False, True]):
        with pytest.raises(ValueError, match="asked for the top 2"):
            take_top(scores, 2, torch.tensor(eligible))


@given(
    st.lists(st.sampled_from([-torch.inf, -1.0, -0.0, 0.0, 0.5, 1.0, torch.inf]), min_size=1, max_size=40),
    st.data(),
)
def test_matches_a_stable_sort(values, data):
    scores = torch.tensor(values)
    eligible = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    if data.draw(st.booleans()):
        eligible = torch.ones_like(eligible)
    most = int((eligible & (scores > -torch.inf)).sum())
    n = data.draw(st.integers(0, most))
    assert torch.equal(take_top(scores, n, eligible), oracle(scores, n, eligible))


BIG = 300_000


def pattern(kind):
    draw = torch.Generator().manual_seed(1)
    index = torch.arange(BIG, dtype=torch.float32)
    noise = torch.randn(BIG, generator=draw)
    return {
        "normal": noise,
        "ascending": index,
        "descending": -index,
        "constant": torch.full((BIG,), 0.25),
        "zeros": torch.zeros(BIG),
        "three values": torch.randint(3, (BIG,), generator=draw).float(),
        "mostly zero": noise.relu() * (torch.rand(BIG, generator=draw) < 0.02),
        "one peak": torch.zeros(BIG).index_fill(0, torch.tensor([BIG - 1]), 1.0),
        "strided": torch.where(index % 64 == 0, noise + 100, noise),  # a regular sample sees only peaks
        "off stride": torch.where(index % 64 == 1, noise + 100, noise),  # or none of them
        "heavy tail": noise.abs() ** 20,
        "tail of infinities": torch.where(index >= BIG - 7, torch.inf, noise),
        "head of minus infinities": torch.where(index < 1000, -torch.inf, noise),
    }[kind]


KINDS = (
    "normal", "ascending", "descending", "constant", "zeros", "three values", "mostly zero", "one peak",
    "strided", "off stride", "heavy tail", "tail of infinities", "head of minus infinities",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_large_tensors_match_a_stable_sort(kind):
    scores = pattern(kind)
    order = np.argsort(-scores.numpy(), kind="stable")
    for n in (1, 2, 777, BIG // 10, BIG // 2, BIG - 1001, BIG - 1000):
        taken = np.zeros(BIG, dtype=bool)
        taken[order[:n]] = True
        assert np.array_equal(take_top(scores, n).numpy(), taken), n
        assert kth_largest(scores, n) == scores[order[n - 1]], n


@pytest.mark.parametrize("kind", ["normal", "constant", "three values", "strided", "mostly zero"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_large_eligible_parts_match_a_stable_sort(kind, share):
    scores = pattern(kind).view(300, 1000)
    eligible = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < share
    for n in (1, 5000, int(eligible.sum())):
        assert torch.equal(take_top(scores, n, eligible), oracle(scores, n, eligible))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_float_dtype(dtype):
    scores = torch.randn(40, 50, generator=torch.Generator().manual_seed(3)).to(dtype)
    for n in (1, 100, 1999, 2000):
        assert torch.equal(take_top(scores, n), oracle(scores, n))
    assert kth_largest(scores.flatten(), 3) == float(scores.flatten().sort(descending=True).values[2])


def test_float64_is_not_rounded_to_float32():
    scores = 1 + torch.tensor([3, 1, 4, 2], dtype=torch.float64) * 1e-12
    assert take_top(scores, 2).tolist() == [True, False, True, False]


@pytest.mark.parametrize("build", [lambda t: t.t(), lambda t: t[::2], lambda t: t.expand(5, *t.shape)[2]])
def test_views_without_contiguous_memory(build):
    scores = build(torch.randn(30, 20, generator=torch.Generator().manual_seed(4)))
    assert torch.equal(take_top(scores, 100), oracle(scores, 100))
    eligible = scores > 0
    assert torch.equal(take_top(scores, 50, eligible), oracle(scores, 50, eligible))


def test_inputs_are_not_written():
    scores, eligible = torch.randn(100), torch.rand(100) < 0.8
    copies = scores.clone(), eligible.clone()
    take_top(scores, 10, eligible)
    assert torch.equal(scores, copies[0])
    assert torch.equal(eligible, copies[1])
