"""Misspelt optional abilities and such of a wrong type are found, and a sound strategy's names are left alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from dstbench.api import Policy, Signal
from dstbench.core.engine.structures import Unstructured, as_structure
from dstbench.errors import BadInput
from dstbench.testing import check_policy, check_score, check_share, check_structure
from dstbench.testing.abilities import misspelt


@dataclass(frozen=True)
class Magnitude:
    def __call__(self, layer, rng):
        return layer.weight.abs()


@dataclass(frozen=True)
class Even:
    def __call__(self, layers, candidates, n):
        return dict.fromkeys(layers, 1.0)


@dataclass(frozen=True)
class Rows:
    def units(self, layer):
        rows = torch.arange(layer.shape[0])
        return rows.view(-1, *[1] * (len(layer.shape) - 1)).expand(layer.shape)


KINDS = {Magnitude: "score", Even: "share", Rows: "structure"}
CHECKS = {Magnitude: check_score, Even: check_share, Rows: check_structure}


def having(base, **attributes):
    """A strategy with more attributes than ``base``, none of them a parameter."""
    return type(base.__name__, (base,), attributes)()


NEAR = [
    (Magnitude, "need", Signal.GRAD, "needs"),
    (Magnitude, "Needs", Signal.GRAD, "needs"),
    (Magnitude, "ful", True, "full"),
    (Even, "use_candidates", False, "uses_candidates"),
    (Even, "uses_candidate", False, "uses_candidates"),
    (Rows, "retile", True, "retiles"),
    (Rows, "whole_row", True, "whole_rows"),
    (Rows, "wholeRows", True, "whole_rows"),
    (Rows, "mis_fit", lambda self, layer: "never", "misfit"),
    (Rows, "acelerate", lambda self, call, mask: (), "accelerate"),
    (Rows, "merged", lambda self, kept, keep_scores, grow_scores, n: grow_scores, "merge"),
    (Rows, "allowed_", lambda self, layer, scores: 0, "allowed"),
    (Rows, "quotas", lambda self, layer: None, "quota"),
    (Rows, "event", lambda self, clock: False, "events"),
]


@pytest.mark.parametrize(("base", "name", "value", "meant"), NEAR, ids=[name for _, name, _, _ in NEAR])
def test_a_near_miss_is_named(base, name, value, meant):
    found = list(misspelt(having(base, **{name: value}), KINDS[base]))
    assert found == [("abilities", f"nothing reads {name!r}; did you mean {meant!r}?")]


def test_a_near_miss_is_a_structures_only_problem():
    [problem] = check_structure(having(Rows, retile=True), "planted")
    assert str(problem) == "planted: abilities: nothing reads 'retile'; did you mean 'retiles'?"


@dataclass(frozen=True)
class Need(Magnitude):
    need: float = 0.5
    fully: bool = False


@pytest.mark.parametrize(
    "strategy",
    [
        Need(),  # parameters may be called anything
        having(Magnitude, needs=Signal.GRAD, full=True, _needs=1, width=3, description="needed"),
        having(Magnitude, retile=True),  # near an ability that scores don't have
    ],
)
def test_other_names_are_left_alone(strategy):
    assert check_score(strategy) == []


def test_both_parts_of_a_policy_are_looked_at():
    policy = Policy(having(Magnitude, need=Signal.GRAD), having(Even, use_candidates=False))
    assert [problem.message for problem in check_policy(policy)] == [
        "nothing reads 'need'; did you mean 'needs'?",
        "nothing reads 'use_candidates'; did you mean 'uses_candidates'?",
    ]


WRONG = [
    (Magnitude, "needs", "grad", "Magnitude(): needs: expected a Signal, got 'grad'"),
    (Magnitude, "full", None, "Magnitude(): full: expected a bool, got None"),
    (Even, "needs", 1, "Even(): needs: expected a Signal, got 1"),
    (Even, "uses_candidates", 1, "Even(): uses_candidates: expected a bool, got 1"),
    (Rows, "whole_rows", "yes", "Rows(): whole_rows: expected a bool, got 'yes'"),
    (Rows, "quota", 2, "Rows(): quota: expected a method, got 2"),
    (Rows, "misfit", "never", "Rows(): misfit: expected a method, got 'never'"),
    (Rows, "accelerate", False, "Rows(): accelerate: expected a method, got False"),
]


def door(strategy):
    match strategy:
        case Magnitude():
            return Policy(score=strategy)
        case Even():
            return Policy(share=strategy)
    return as_structure(strategy)


@pytest.mark.parametrize(("base", "name", "value", "message"), WRONG)
def test_a_wrong_type_is_refused_at_the_door_and_by_the_kit(base, name, value, message):
    strategy = having(base, **{name: value})
    with pytest.raises(BadInput) as error:
        door(strategy)
    assert str(error.value) == message
    [problem] = CHECKS[base](strategy, "planted")
    assert str(problem) == f"planted: abilities: {message}"


@pytest.mark.parametrize(
    ("name", "expected"), [("retiles", "bool"), ("merge", "method"), ("allowed", "method")]
)
def test_a_full_structures_own_are_checked_too(name, expected):
    structure = having(Unstructured, **{name: "yes"})
    with pytest.raises(BadInput) as error:
        as_structure(structure)
    assert str(error.value) == f"Unstructured(): {name}: expected a {expected}, got 'yes'"


@pytest.mark.parametrize(
    ("strategy", "name", "owner"),
    [
        (having(Magnitude, retiles=True), "retiles", "a structure"),
        (having(Magnitude, uses_candidates=False), "uses_candidates", "a share"),
        (having(Even, full=True), "full", "a score"),
        (having(Rows, needs=Signal.GRAD), "needs", "a score, a share, an accumulator and values"),
        (having(Rows, retiles=True), "retiles", "a Structure"),
        (having(Rows, events=lambda self, clock: False), "events", "a Support, which has events and support"),
        (having(Unstructured, quota=lambda self, layer: None), "quota", "a Layout"),
    ],
)
def test_an_ability_of_another_sort_is_named(strategy, name, owner):
    kind = next((kind for base, kind in KINDS.items() if isinstance(strategy, base)), "structure")
    [problem] = {"score": check_score, "share": check_share, "structure": check_structure}[kind](
        strategy, "mine"
    )
    assert str(problem) == f"mine: abilities: nothing reads {name!r} here: it is an ability of {owner}"


def test_parameters_and_abilities_of_its_own_are_no_other_sorts():
    @dataclass(frozen=True)
    class Merging(Magnitude):
        merge: float = 0.5

    assert list(misspelt(Merging(), "score")) == []
    assert list(misspelt(having(Rows, quota=lambda self, layer: None, whole_rows=True), "structure")) == []
    assert list(misspelt(having(Unstructured, retiles=True), "structure")) == []
