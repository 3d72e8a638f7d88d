"""A network's outputs: the mode that they are computed in, and how far apart two networks' are."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dstbench.core.network.outputs import comparison, difference, evaluating, tolerance


def test_evaluating_gives_every_module_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout()))
    model.train()[1].eval()  # a frozen norm
    before = [module.training for module in model.modules()]
    with evaluating(model) as same:
        assert same is model
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("outputs", "found"),
    [([1.0, 4.0], 0.0), ([1.0, 3.0], 0.25), ([1.0, float("nan")], float("inf")), ([1.0], float("inf"))],
)
def test_difference_is_relative_to_the_largest_output(outputs, found):
    assert difference(torch.tensor(outputs), torch.tensor([1.0, 4.0])) == found


@dataclass
class Heads:
    logits: torch.Tensor
    boxes: list[torch.Tensor]


INF, ONE = float("inf"), torch.tensor([1.0, 100.0])


@pytest.mark.parametrize(
    ("outputs", "expected", "found"),
    [
        ((ONE, ONE / 100), (ONE, ONE / 100), 0.0),
        ((ONE, ONE / 100 + 0.5), (ONE, ONE / 100), 0.5),  # of its own tensor's size, not of the largest
        ({"a": [ONE], "b": None}, {"a": [ONE], "b": None}, 0.0),
        ({"a": [ONE]}, {"b": [ONE]}, INF),
        ({"a": [ONE, ONE]}, {"a": [ONE]}, INF),
        (Heads(ONE, [ONE + 1]), Heads(ONE, [ONE]), 0.01),
        (SimpleNamespace(logits=ONE + 1), SimpleNamespace(logits=ONE), 0.01),
        ((ONE, 3), (ONE, 4), INF),
        ((ONE, torch.tensor([1, 2])), (ONE, torch.tensor([1, 3])), INF),  # classes are equal or aren't
        (torch.tensor([-INF, 2.0]), torch.tensor([-INF, 4.0]), 0.5),  # masked positions
        (torch.tensor([2.0, 2.0]), torch.tensor([-INF, 2.0]), INF),
        (torch.zeros(0, 3), torch.zeros(0, 3), 0.0),
        (torch.zeros(0, 3), torch.zeros(0, 4), INF),
        (ONE.to(torch.complex64) * 1j, ONE.to(torch.complex64) * 1j, 0.0),
    ],
)
def test_nested_outputs_are_compared_tensor_by_tensor(outputs, expected, found):
    assert difference(outputs, expected) == pytest.approx(found)


def test_a_comparison_says_what_it_compared_and_where_it_differs():
    said = comparison({"logits": [ONE, ONE + 50]}, {"logits": [ONE, ONE]}, 1e-5)
    assert not said.ok
    assert str(said) == (
        "output['logits'][1]: 5.0e-01 of its size apart (limit 1e-05), of "
        "output['logits'][0] float32 [2] on cpu, output['logits'][1] float32 [2] on cpu"
    )
    with pytest.raises(TypeError, match="with a tensor in it, got NoneType"):
        comparison(None, None, 1e-5)


def test_a_tolerance_follows_the_coarsest_dtype():
    x, out = torch.zeros(1), torch.zeros(1)
    assert tolerance(1e-5, nn.Linear(1, 1), x, out) == 1e-5
    assert tolerance(1e-5, nn.Linear(1, 1).double(), x.double(), out.double()) == pytest.approx(1e-7)
    assert tolerance(1e-5, nn.Linear(1, 1).bfloat16(), x.bfloat16(), out) == 1e-1  # handed on as float32
    assert tolerance(1e-5, nn.Linear(1, 1).half(), (x,), {"a": out}) == 2e-2
    with torch.autocast("cpu", torch.bfloat16):
        assert tolerance(1e-5, nn.Linear(1, 1), x, out) == 1e-1
