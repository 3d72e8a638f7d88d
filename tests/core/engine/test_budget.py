"""Integer budgets: by hand, by properties, and ERK's published densities on ResNet-50."""

import itertools
from fractions import Fraction

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import dstbench
from dstbench.api import Infeasible, StrategyError
from dstbench.core.engine.budget import apportion
from dstbench.core.network.layers import maskable_layers
from dstbench.core.network.ownership import budgeted_layers
from dstbench.errors import BadInput


def divide(weights, n, lower=0, upper=10**9):
    names = [chr(ord("a") + i) for i in range(len(weights))]
    pick = lambda bound: bound if isinstance(bound, list) else [bound] * len(names)  # noqa: E731
    counts = apportion(
        dict(zip(names, weights, strict=True)),
        n,
        dict(zip(names, pick(lower), strict=True)),
        dict(zip(names, pick(upper), strict=True)),
    )
    return [counts[name] for name in names]


# Worked out by hand


def test_exact_proportions_stay_exact():
    assert divide([1, 2, 3], 12) == [2, 4, 6]


def test_the_remainder_goes_to_the_largest_fractions():
    # quotas 10/6 = 1.67, 20/6 = 3.33, 30/6 = 5: one unit is left for .67
    assert divide([1, 2, 3], 10) == [2, 3, 5]


def test_equal_fractions_go_to_the_first():
    assert divide([1, 1, 1], 5) == [2, 2, 1]


def test_what_a_full_layer_can_not_take_goes_to_the_others_in_proportion():
    # 10 : 1 : 1 of 12 would be 10, 1, 1; a holds 4, so b and c share 8
    assert divide([10, 1, 1], 12, upper=[4, 100, 100]) == [4, 4, 4]


def test_filling_cascades():
    # a is capped at 2; then b would get 8 of its 5; c and d share the other 5
    assert divide([100, 4, 1, 1], 12, upper=[2, 5, 10, 10]) == [2, 5, 3, 2]


def test_a_lower_bound_is_paid_by_the_others():
    assert divide([0, 1, 3], 9, lower=1) == [1, 2, 6]


def test_bounds_on_both_sides_at_once():
    # λ = 2: clip(2·8, 0, 5) + clip(2·1, 3, 9) + 2·1 = 5 + 3 + 2
    assert divide([8, 1, 1], 10, lower=[0, 3, 0], upper=[5, 9, 9]) == [5, 3, 2]


def test_all_weights_zero_divides_by_free_room():
    assert divide([0, 0], 6, upper=[4, 8]) == [2, 4]


def test_zero_weights_get_only_what_the_others_can_not_take():
    assert divide([1, 0, 0], 10, upper=[4, 6, 12]) == [4, 2, 4]
    assert divide([1, 0, 0], 4, upper=[4, 6, 12]) == [4, 0, 0]


def test_everything_at_its_cap():
    assert divide([1, 5, 0], 9, upper=[2, 3, 4]) == [2, 3, 4]


def test_nothing_to_divide():
    assert divide([1, 2], 0) == [0, 0]
    assert apportion({}, 0, {}, {}) == {}


def test_huge_and_tiny_weights_lose_no_unit():
    assert divide([1e300, 1e-300, 1.0], 7, upper=[3, 3, 3]) == [3, 1, 3]


@pytest.mark.parametrize(("n", "figures"), [(2, ("2", "3", "30")), (31, ("31", "3", "30"))])
def test_infeasible_says_the_figures(n, figures):
    with pytest.raises(Infeasible) as error:
        divide([1, 1, 1], n, lower=1, upper=10)
    assert all(figure in str(error.value) for figure in figures)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_share_names_its_layer(weight):
    with pytest.raises(StrategyError, match=r"layer 'b'.*(-1|nan|inf)"):
        divide([1, weight], 3)


# Properties


@st.composite
def problems(draw):
    count = draw(st.integers(1, 8))
    sizes = st.lists(st.integers(0, 50), min_size=count, max_size=count)
    lower, extra = draw(sizes), draw(sizes)
    upper = [a + b for a, b in zip(lower, extra, strict=True)]
    weight = st.one_of(st.just(0.0), st.floats(1e-6, 1e6), st.integers(1, 5).map(float))
    weights = draw(st.lists(weight, min_size=count, max_size=count))
    return weights, draw(st.integers(sum(lower), sum(upper))), lower, upper


@given(problems())
def test_sums_are_exact_and_bounds_hold(problem):
    weights, n, lower, upper = problem
    counts = divide(weights, n, lower, upper)
    assert sum(counts) == n
    assert all(a <= c <= b for a, c, b in zip(lower, counts, upper, strict=True))


@given(problems())
def test_counts_follow_one_water_level(problem):
    """Each count is within one of clip(λ·weight) for one λ: solved here by bisection, not by the code's way."""
    weights, n, lower, upper = problem
    if n > sum(b if w else a for w, a, b in zip(weights, lower, upper, strict=True)):
        return  # zero weights must take some: another rule
    counts = divide(weights, n, lower, upper)

    def quotas(level):
        return [min(max(level * Fraction(w), a), b) for w, a, b in zip(weights, lower, upper, strict=True)]

    low, high = Fraction(0), Fraction(10**12)
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(quotas(middle)) < n else (low, middle)
    assert all(abs(count - quota) < 1.001 for count, quota in zip(counts, quotas(high), strict=True))


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6), st.integers(0, 120), st.integers(0, 3))
def test_a_larger_weight_never_gets_less(weights, n, lower):
    n = max(n, lower * len(weights))
    counts = divide(weights, n, lower, 10**6)
    ranked = sorted(zip(weights, counts, strict=True))
    for (weight, count), (heavier, more) in itertools.pairwise(ranked):
        assert weight == heavier or count <= more


# ERK on ResNet-50, figures of RigL's solver


@pytest.fixture(scope="module")
def resnet50():
    return timm.create_model("resnet50")


@pytest.fixture(scope="module")
def names(resnet50):
    return {name: layer.info for name, layer in maskable_layers(resnet50).items()}


def test_resnet50_has_54_tensors_and_25502912_weights(names):
    assert (len(names), sum(info.numel for info in names.values())) == (54, 25_502_912)


DENSE_80 = {f"layer1.{block}.conv{conv}" for block in (0, 1, 2) for conv in (1, 3)}
DENSE_80 |= {"layer1.0.downsample.0", "layer2.0.conv1"}

ERK = {
    0.2: {
        "conv1": 0.8572, "fc": 0.1482, "layer1.1.conv2": 0.3619, "layer2.1.conv2": 0.1769,
        "layer3.1.conv2": 0.0874, "layer4.1.conv2": 0.0435, "layer2.1.conv1": 0.9753,
        "layer3.2.conv3": 0.4869, "layer4.2.conv1": 0.2433,
    },
    0.1: {
        "conv1": 0.4200, "fc": 0.0726, "layer1.1.conv2": 0.1773, "layer2.1.conv2": 0.0867,
        "layer3.1.conv2": 0.0428, "layer4.1.conv2": 0.0213, "layer2.1.conv1": 0.4779,
        "layer3.2.conv3": 0.2386, "layer4.2.conv1": 0.1192,
    },
}  # fmt: skip


@pytest.mark.parametrize(("density", "dense"), [(0.2, DENSE_80), (0.1, {"layer1.0.conv1"})])
def test_erk_on_resnet50_has_rigls_densities(resnet50, names, density, dense):
    found = dstbench.densities(resnet50, density, init="erk")
    assert {name for name, value in found.items() if value == 1} == dense
    for name, expected in ERK[density].items():
        rounding = 5e-5 + 1 / names[name].numel  # of the figure, and to whole weights
        assert found[name] == pytest.approx(expected, abs=rounding), name
    assert sum(round(found[n] * names[n].numel) for n in names) == round(density * 25_502_912)


@pytest.mark.parametrize("density", [0.2, 0.1])
def test_erk_on_resnet50_is_right_to_the_weight(resnet50, names, density):
    """RigL's solver in exact fractions, one pass a maximum, then floors and largest remainders."""
    size = {n: info.numel for n, info in names.items()}
    weight = {n: sum(info.shape) for n, info in names.items()}
    total, dense = round(density * sum(size.values())), set()
    while True:
        free = [n for n in names if n not in dense]
        level = Fraction(total - sum(size[n] for n in dense), sum(weight[n] for n in free))
        full = {n for n in free if level * weight[n] > size[n]}
        if not full:
            break
        highest = max(Fraction(weight[n], size[n]) for n in full)
        dense |= {n for n in full if Fraction(weight[n], size[n]) == highest}
    quota = {n: Fraction(size[n]) if n in dense else level * weight[n] for n in names}
    counts = {n: int(q) for n, q in quota.items()}
    by_fraction = sorted(names, key=lambda n: counts[n] - quota[n])
    for n in by_fraction[: total - sum(counts.values())]:
        counts[n] += 1
    found = dstbench.densities(resnet50, density, init="erk")
    assert {n: round(found[n] * size[n]) for n in names} == counts


def test_itop_bug_8_no_erk_density_exceeds_one(resnet50):
    assert max(dstbench.densities(resnet50, 0.2, init="erk").values()) == 1


def test_uniform_is_uniform_and_exact(resnet50, names):
    found = dstbench.densities(resnet50, 0.1, init="uniform")
    assert sum(round(found[n] * names[n].numel) for n in names) == round(0.1 * 25_502_912)
    assert all(abs(found[n] * names[n].numel - 0.1 * names[n].numel) < 1 for n in names)


def test_dense_layers_are_left_out_of_the_sum(resnet50, names):
    found = dstbench.densities(resnet50, 0.1, init="uniform", dense_layers=["conv1"])
    assert "conv1" not in found
    rest = 25_502_912 - names["conv1"].numel
    assert sum(round(found[n] * names[n].numel) for n in found) == round(0.1 * rest)


@pytest.mark.parametrize(("density", "whole"), [(0.2, 0.2003), (0.1, 0.1003)])
def test_rigls_uniform_keeps_the_first_convolution_dense_and_compensates_nothing(
    resnet50, names, density, whole
):
    """Over all 54 tensors that is 0.2003 and 0.1003."""
    found = dstbench.densities(resnet50, density, init="uniform", dense_layers=["@first_conv"])
    assert set(names) - set(found) == {"conv1"}
    active = names["conv1"].numel + sum(found[n] * names[n].numel for n in found)
    assert active / 25_502_912 == pytest.approx(whole, abs=5e-5)


def test_special_patterns_name_a_layer_in_every_model(resnet50):
    assert set(budgeted_layers(resnet50, ["@first_conv", "@classifier"])[1]) == {"conv1", "fc"}
    mlp = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    assert set(budgeted_layers(mlp, ["@first_conv", "@classifier"])[1]) == {"1"}  # it has no convolution
    with pytest.raises(BadInput, match=r"'@first'.*did you mean '@first_conv'"):
        budgeted_layers(mlp, ["@first"])


def test_er_ignores_the_kernel(resnet50, names):
    """Weights of unclipped layers are in proportion to (in + out) times the kernel's size."""
    found = dstbench.densities(resnet50, 0.1, init="er")
    assert sum(round(found[n] * names[n].numel) for n in names) == round(0.1 * 25_502_912)
    level = found["fc"] * 2048 * 1000 / (2048 + 1000)
    for name in ("layer3.1.conv2", "layer4.2.conv1", "layer2.1.conv3"):
        out, fan_in = names[name].shape[:2]
        expected = level * (out + fan_in) / (out * fan_in)
        assert found[name] == pytest.approx(expected, abs=2 / names[name].numel)


@pytest.mark.parametrize(("density", "fc"), [(0.1, 0.2), (0.4, 0.4)])
def test_uniform_plus_is_dense_first_and_never_thin_last(resnet50, names, density, fc):
    found = dstbench.densities(resnet50, density, init="uniform_plus")
    assert (found["conv1"], found["fc"]) == (1, pytest.approx(fc, abs=1e-6))
    rest = (density * 25_502_912 - 9408 - fc * 2_048_000) / (25_502_912 - 9408 - 2_048_000)
    others = [n for n in names if n not in ("conv1", "fc")]
    assert all(found[n] == pytest.approx(rest, abs=1.01 / names[n].numel) for n in others)
    assert sum(round(found[n] * names[n].numel) for n in names) == round(density * 25_502_912)


def test_uniform_plus_says_what_is_infeasible(resnet50):
    with pytest.raises(Infeasible, match=r"255029 weights.*9408 for 'conv1', 409600 for 'fc'"):
        dstbench.densities(resnet50, 0.01, init="uniform_plus")


@pytest.mark.parametrize("density", [0, -0.1, 1.5, float("nan"), "0.1", True])
def test_a_density_that_is_none_is_refused(resnet50, density):
    with pytest.raises(BadInput, match="density"):
        dstbench.densities(resnet50, density)
