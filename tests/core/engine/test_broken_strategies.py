"""A strategy that breaks its contract is named, with the layer."""

from dataclasses import dataclass

import pytest
import torch

from dstbench.api import Policy, StrategyError
from dstbench.core.engine.structures import Unstructured
from dstbench.core.engine.update import score_layer
from dstbench_plugins.prune.magnitude import Magnitude
from fakes.updates import A, B, update


@dataclass(frozen=True)
class Broken:
    how: str

    def __call__(self, layer, rng):
        scores = layer.weight.abs()
        if self.how == "NaN":
            scores[0, 0] = torch.nan
        return {
            "NaN": scores,
            "shape": scores.flatten(),
            "dtype": layer.mask,
            "device": scores.to("meta"),
            "tensor": scores.tolist(),
        }[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("NaN", r"1 of 8 scores are NaN"),
        ("shape", r"expected shape \(2, 4\), got \(8,\)"),
        ("dtype", r"expected a floating dtype, got torch.bool"),
        ("device", r"expected device cpu, got meta"),
        ("tensor", r"a score must be a tensor, got list"),
    ],
)
def test_a_broken_score_is_named(how, message):
    with pytest.raises(StrategyError, match=rf"Broken\(how='{how}'\), layer 'a': {message}"):
        score_layer(Broken(how), A, torch.Generator())
    with pytest.raises(StrategyError, match=message):
        update([A, B], [2, 2], [4, 3], prune=Policy(Broken(how)))
    with pytest.raises(StrategyError, match=message):
        update([A, B], [2, 2], [4, 3], grow=Policy(Broken(how)))


@dataclass(frozen=True)
class BadShare:
    answer: object

    def __call__(self, layers, candidates, n):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"a": 1.0}, r"\['a', 'b'\].*\['a'\]"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, r"\['a', 'b', 'c'\]"),
        ([1.0, 1.0], r"list"),
        ({"a": 1.0, "b": -1.0}, r"'b'.*-1"),
        ({"a": 1.0, "b": float("nan")}, r"'b'.*nan"),
        ({"a": 1.0, "b": float("inf")}, r"'b'.*inf"),
        ({"a": 1.0, "b": None}, r"'b'.*None"),
        ({"a": 1.0, "b": "much"}, r"'b'.*much"),
    ],
)
def test_a_broken_share_is_named(answer, message):
    policy = Policy(Magnitude(), BadShare(answer))
    with pytest.raises(StrategyError, match=message) as error:
        update([A, B], [2, 2], [4, 3], prune=policy)
    assert "BadShare" in str(error.value)
    with pytest.raises(StrategyError, match="BadShare"):
        update([A, B], [2, 2], [4, 3], grow=policy)


@dataclass(frozen=True)
class BadStructure:
    """Unstructured, but for its ``fill``."""

    returned: str
    retiles = False

    def unit(self, layer):
        return 1

    def capacity(self, layer):
        return layer.numel

    def shrink(self, layer, scores, n):
        return Unstructured().shrink(layer, scores, n)

    def fill(self, layer, scores, n):
        mask = Unstructured().fill(layer, scores, n)
        return {
            "dtype": mask.float(),
            "shape": mask.flatten(),
            "empty": torch.zeros_like(mask),
            "off": torch.ones_like(mask),
        }[self.returned]

    def is_legal(self, layer, mask):
        return True


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("dtype", r"expected bool \(2, 4\), got torch.float32"),
        ("shape", r"expected bool \(2, 4\), got torch.bool \(8,\)"),
        ("empty", "no weight is active"),
        ("off", r"8 weights are active where 4 were asked for.*unit of 1"),
    ],
)
def test_a_broken_structure_is_named(returned, message):
    with pytest.raises(StrategyError, match=rf"BadStructure\(returned='{returned}'\), layer 'a': {message}"):
        update([A, B], [2, 2], [4, 3], structure=BadStructure(returned))
