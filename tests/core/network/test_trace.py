"""A model's graph: without an input, on an example where its code asks for sizes, or the reason why there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstbench.accel.compact import compact
from dstbench.core.network.channels import channels
from dstbench.core.network.trace import Untraceable, trace


class Sized(nn.Module):
    """Control flow on sizes, a constant made on the way, and a split."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None, scale: float = 2.0) -> torch.Tensor:
        batch, features = x.shape
        if features != 4 or len(x) != batch or x.ndim != 2 or x.size(0) > 100:
            raise ValueError("expected four features")
        hidden = torch.relu(self.one(x)) * scale
        if other is not None:
            first, second = other.chunk(2, 1)
            hidden = hidden + torch.relu(self.two(first + second + torch.ones(batch, 1)))
        return self.last(hidden)


class OnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.one(x)) if x.sum() > 0 else self.last(x)


class Holds(nn.Module):
    """Another model, one level down."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    "inputs", [(torch.randn(3, 4), torch.randn(3, 8)), {"other": torch.randn(3, 8), "x": torch.randn(3, 4)}]
)
def test_a_model_that_asks_for_sizes_is_traced_on_an_example(inputs):
    torch.manual_seed(0)
    model = Sized()
    attributes = set(vars(model))
    with pytest.raises(Untraceable, match=r"control flow \(in Sized.forward\)"):
        trace(model)
    graph = trace(model, inputs)
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["one", "two", "last"]
    masks = {name: torch.ones(6, 4, dtype=torch.bool) for name in ("one", "two")}
    for mask in masks.values():
        mask[[1, 4]] = False
    small = compact(model, masks, inputs)
    assert small.compaction.removed == {"one": (1, 4), "two": (1, 4)}
    assert set(vars(model)) == attributes


def test_an_example_is_gone_through_without_a_progress_bar(monkeypatch):
    """Its lock would be a semaphore that a trial's process leaves behind, which Python warns of after the run."""
    bars = []
    monkeypatch.setattr(
        torch.fx.interpreter, "tqdm", lambda *args, **kwargs: bars.append(args) or pytest.fail("a bar")
    )

    class Moves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x.transpose(1, 2).flatten(1))

    graph = trace(Moves(), torch.zeros(3, 2, 2))
    assert not bars
    assert [tuple(n.meta["shape"]) for n in graph.nodes if n.op == "call_module"] == [(3, 2)]


def test_an_example_is_not_written_to():
    class InPlace(Sized):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x += 1
            return super().forward(x) if len(x) else x

    x = torch.zeros(3, 4)
    trace(InPlace(), x)
    assert not x.any()


@pytest.mark.parametrize(
    ("model", "where"),
    [(OnData(), "OnData.forward"), (Holds(OnData()), "OnData.forward")],
    ids=["root", "inside"],
)
def test_a_model_that_can_not_be_traced_says_why_and_where(model, where):
    """What an example's values decide is no part of a graph."""
    for example in (None, torch.ones(2, 4)):
        reason = channels(model, None, example).flow.unfollowed
        assert len(reason) == 2
        assert set(reason.values()) == {
            "the model can't be traced: symbolically traced variables cannot be used as inputs to control flow "
            f"(in {where})"
        }


def test_an_error_of_the_models_own_is_the_reason():
    reason = channels(Sized(), None, torch.ones(2, 5)).flow.unfollowed["one"]
    assert reason == "the model can't be traced: expected four features (in Sized.forward)"


def test_tracing_leaves_nothing_in_the_model():
    """Models keep what they compute once, as timm's LeViT and TinyViT do their biases."""

    class Keeps(nn.Module):
        def __init__(self, asks: bool) -> None:
            super().__init__()
            self.layer, self.bias, self.kept, self.asks = (
                nn.Linear(4, 4),
                nn.Parameter(torch.ones(4)),
                {},
                asks,
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = len(x) if self.asks else 1
            if "bias" not in self.kept:
                self.kept["bias"] = self.bias * 2
            return self.layer(x) + self.kept["bias"] + torch.zeros(rows, 1)

    for asks in (False, True):
        model, x = Keeps(asks), torch.ones(2, 4)
        attributes = set(vars(model))
        assert next(node.target for node in trace(model, x).nodes if node.op == "get_attr") == "bias"
        assert model.kept == {}
        assert set(vars(model)) == attributes
        assert compact(model, {}, x).compaction.check.difference == 0
