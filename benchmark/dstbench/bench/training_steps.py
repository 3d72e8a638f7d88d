"""What the engine costs: a training step and a topology update, beside dense training.

Sparse and dense run in one process, interleaved, in an order that rotates each round; figures are medians.
``step`` pairs every sparse step with two dense ones, so a dense-against-dense control comes with the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dstbench.bench.subject import Part, Subject
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.registration.registry import registry


class Trainer:
    """A model, its optimizer and a fixed random batch: one call is one training step."""

    def __init__(self, options: argparse.Namespace, recipe: str | None, delta_t: int = 10**9) -> None:
        torch.manual_seed(0)
        shape = (3, options.size, options.size)
        self.model: nn.Module = registry().build("model", options.model)(num_classes=1000, input_shape=shape)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.inputs = torch.randn(options.batch, *shape)
        self.labels = torch.randint(0, 1000, (options.batch,))
        self.sparsifier = None
        if recipe:
            spec = {"name": recipe, "delta_t": delta_t}
            self.sparsifier = Sparsifier(
                self.model, self.optimizer, spec, options.density, total_steps=10**5, seed=0
            )

    def backward(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(self.model(self.inputs), self.labels))

    def step(self) -> None:
        """The optimizer's step, or the sparsifier's in its place."""
        (self.sparsifier or self.optimizer).step()

    def train(self) -> None:
        """One whole training step."""
        self.backward()
        self.step()


def clock(call: Callable[[], None]) -> float:
    """Wall milliseconds of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure_step(options: argparse.Namespace) -> dict[str, Any]:
    """Training step, sparse / dense, no topology update inside."""
    systems = {"dense": Trainer(options, None), "dense again": Trainer(options, None)}
    systems["sparse"] = Trainer(options, options.recipe)
    times: dict[str, list[float]] = {name: [] for name in systems}
    names = list(systems)
    for turn in range(options.warmup + options.rounds):
        for name in names[turn % 3 :] + names[: turn % 3]:
            elapsed = clock(systems[name].train)
            if turn >= options.warmup:
                times[name].append(elapsed)
    dense = [(a + b) / 2 for a, b in zip(times["dense"], times["dense again"], strict=True)]
    ratios = [s / d for s, d in zip(times["sparse"], dense, strict=True)]
    control = [a / b for a, b in zip(times["dense"], times["dense again"], strict=True)]
    return {
        "sparse_over_dense": statistics.median(ratios),
        "dense_over_dense": statistics.median(control),
        "sparse_ms": statistics.median(times["sparse"]),
        "dense_ms": statistics.median(dense),
        "quartiles": statistics.quantiles(ratios, n=4),
    }


def measure_update(options: argparse.Namespace) -> dict[str, Any]:
    """One topology update: a step with one minus a step without, and both as measured.

    The forward and backward that arm it are outside the clock; collecting the dense gradient is inside.
    """
    plain, updating = Trainer(options, options.recipe), Trainer(options, options.recipe, delta_t=1)
    without: list[float] = []
    with_update: list[float] = []
    for turn in range(options.warmup + options.rounds):
        for trainer, times in ((plain, without), (updating, with_update)):
            trainer.backward()
            elapsed = clock(trainer.step)
            if turn >= options.warmup:
                times.append(elapsed)
    return {
        "update_ms": statistics.median(w - p for w, p in zip(with_update, without, strict=True)),
        "update_ms_min": min(with_update) - statistics.median(without),
        "step_with_update_ms": statistics.median(with_update),
        "optimizer_step_ms": statistics.median(without),
    }


_OPTIONS: dict[str, dict[str, Any]] = {
    "--model": {"default": "timm:resnet50"},
    "--recipe": {"default": "rigl"},
    "--density": {"type": float, "default": 0.1},
    "--batch": {"type": int, "default": 2},
    "--size": {"type": int, "default": 64, "help": "pixels, square"},
}
STEP = Subject(
    "a training step, sparse beside dense",
    lambda options: [Part("step", lambda: [measure_step(options)])],
    columns=("sparse_over_dense", "dense_over_dense", "sparse_ms", "dense_ms"),
    rounds=30,
    warmup=5,
    quick={"rounds": 10, "warmup": 2},
    options=_OPTIONS,
)
UPDATE = Subject(
    "one topology update",
    lambda options: [Part("update", lambda: [measure_update(options)])],
    columns=("update_ms", "update_ms_min", "step_with_update_ms", "optimizer_step_ms"),
    rounds=30,
    warmup=5,
    quick={"rounds": 10, "warmup": 2},
    options=_OPTIONS,
)
