"""The kit finds each planted mistake of a score or share, and nothing in sound ones."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import pytest
import torch

from dstbench.api import InPlace, Policy, Random, Signal
from dstbench.testing import check_policy, check_score, check_share
from dstbench.testing.layers import LAYERS, STATES, tensors, view
from dstbench_plugins.grow.momentum import Momentum

counter = itertools.count()


def magnitude(layer, rng):
    return layer.weight.abs()


def gradient(layer, rng):
    return layer.grad.abs()


gradient.needs = Signal.GRAD


def noisy(layer, rng):
    return torch.rand(layer.shape, generator=rng).to(layer.weight.device)


def by_value(layer, rng):
    """Fails on the meta device, which is no mistake."""
    return layer.weight.abs() / max(1.0, float(layer.weight.abs().max()))


@pytest.mark.parametrize(
    "score", [magnitude, gradient, noisy, by_value, Random(), Random(exclude_dropped=True)]
)
def test_sound_scores(score):
    assert check_score(score) == []


def wrong_shape(layer, rng):
    return layer.weight.abs().flatten()


def whole_numbers(layer, rng):
    return layer.mask.int()


def no_tensor(layer, rng):
    return [1.0]


def divides_by_zero(layer, rng):
    return layer.weight / layer.weight.abs()


def elsewhere(layer, rng):
    return torch.zeros(layer.shape, device="meta")


def left_on_the_cpu(layer, rng):
    return torch.rand(layer.shape, generator=rng)


def writes_weight(layer, rng):
    return layer.weight.abs_()


def writes_mask(layer, rng):
    layer.mask.view(-1)[0] = False
    return layer.weight.abs()


def counts_calls(layer, rng):
    return torch.full(layer.shape, float(next(counter)))


def global_torch(layer, rng):
    return torch.rand(layer.shape)


def global_numpy(layer, rng):
    return torch.from_numpy(np.random.rand(*layer.shape))


def global_python(layer, rng):
    return torch.full(layer.shape, random.random())


def undeclared_gradient(layer, rng):
    return layer.grad.abs()


def fails_when_empty(layer, rng):
    return layer.weight / layer.weight[layer.mask].abs().max()


def bad_needs(layer, rng):
    return layer.weight


bad_needs.needs = "grad"


@pytest.mark.parametrize(
    ("score", "check", "message"),
    [
        (wrong_shape, "shape", r"expected \[1, 1\], got \[1\]"),
        (whole_numbers, "dtype", "expected a floating dtype, got torch.int32"),
        (no_tensor, "type", "expected a tensor, got list"),
        (divides_by_zero, "NaN", "scores are NaN"),
        (elsewhere, "device", "expected cpu, got meta"),
        (left_on_the_cpu, "device", "expected meta, the weight's, got cpu"),
        (writes_weight, "purity", "changed its input weight"),
        (writes_mask, "purity", "changed its input mask"),
        (counts_calls, "determinism", "gave two results for the same input"),
        (global_torch, "global RNG", "use the rng that is passed in"),
        (global_numpy, "global RNG", "use the rng that is passed in"),
        (global_python, "global RNG", "use the rng that is passed in"),
        (undeclared_gradient, "runs", "AttributeError.*a signal that `needs` doesn't declare is None"),
        (fails_when_empty, "runs", "layer 'one' .*, empty: raised RuntimeError"),
        (bad_needs, "abilities", "needs: expected a Signal, got 'grad'"),
    ],
)
def test_broken_scores(score, check, message):
    found = check_score(score, "planted")
    assert check in {problem.check for problem in found}
    [problem] = [problem for problem in found if problem.check == check]
    assert problem.component == "planted"
    assert re.search(message, problem.message), problem.message


def test_many_layers_make_one_problem():
    [problem] = check_score(no_tensor)
    assert problem.message.endswith(f"(and {len(LAYERS) * len(STATES) - 1} more like it)")


def test_an_init_may_ask_for_gradients_but_not_for_momentum():
    assert check_score(gradient, signals=False) == []
    [problem] = check_score(Momentum(), signals=False)
    assert (problem.check, "before there is any momentum" in problem.message) == ("needs", True)


def test_the_checks_leave_the_global_generators_alone():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = (torch.rand(1).item(), random.random(), np.random.rand())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    check_score(global_torch)
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected


def test_views_are_awkward_and_repeatable():
    assert {1, 7, 13, 11} <= {size for info in LAYERS for size in info.shape}
    for info in LAYERS:
        one, two = view(info, "dropped", Signal.GRAD), view(info, "dropped", Signal.GRAD)
        assert all(
            torch.equal(a, b) for a, b in zip(tensors(one).values(), tensors(two).values(), strict=True)
        )
        assert not (one.mask & ~one.before).any()
        assert one.momentum is None
    assert not view(LAYERS[3], "empty").mask.any()
    assert view(LAYERS[3], "full").mask.all()


# Shares


def even(layers, candidates, n):
    return dict.fromkeys(layers, 1.0)


def negative(layers, candidates, n):
    return dict.fromkeys(layers, -1.0)


def undefined(layers, candidates, n):
    return {name: (layer.weight**2).sum() / (layer.weight**2).sum() for name, layer in layers.items()}


def forgets_one(layers, candidates, n):
    return {name: 1.0 for name in layers if name != "prime"}


def no_mapping(layers, candidates, n):
    return [1.0] * len(layers)


def no_number(layers, candidates, n):
    return dict.fromkeys(layers, "much")


def sorts_in_place(layers, candidates, n):
    for values in candidates.values():
        values.copy_(values.sort().values)
    return dict.fromkeys(layers, 1.0)


def fails_without_candidates(layers, candidates, n):
    return {name: float(candidates[name].max() >= 0) for name in layers}


def draws(layers, candidates, n):
    return {name: float(torch.rand(())) for name in layers}


@pytest.mark.parametrize("share", [even, InPlace()])
def test_sound_shares(share):
    assert check_share(share) == []


@pytest.mark.parametrize(
    ("share", "check", "message"),
    [
        (negative, "weights", "expected a finite number >= 0, got -1.0"),
        (undefined, "weights", "expected a finite number >= 0, got nan"),
        (no_number, "weights", "expected a number, got 'much'"),
        (forgets_one, "layers", "expected a weight for each of"),
        (no_mapping, "layers", "got list"),
        (sorts_in_place, "purity", "changed its input candidates of"),
        (fails_without_candidates, "runs", "raised"),
        (draws, "global RNG", "global random generator"),
    ],
)
def test_broken_shares(share, check, message):
    found = {problem.check: problem.message for problem in check_share(share)}
    assert message in found[check]


def test_a_policy_is_checked_in_both_parts():
    found = check_policy(Policy(no_tensor, negative), "both")
    assert {problem.check for problem in found} == {"type", "weights"}
