"""Storages: whatever the parameters hold, training is that of masked dense, and checkpoints are logical."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Recipe, StrategyError
from dstbench.core import dispatch
from dstbench.core.condensed import Condensed
from dstbench.core.structures import Unstructured
from dstbench.errors import BadInput
from fakes.engine import settle

IMAGES = (4, 3, 8, 8)


@dataclass(frozen=True)
class Scattered:
    """An execution that puts the stored values back into a dense weight: correct, and no faster."""

    call: object
    positions: torch.Tensor
    path: str = "scattered"

    def pack(self, values):
        flat = values.new_zeros(self.call.info.numel).index_put((self.positions.flatten(),), values.flatten())
        return flat.view(self.call.info.shape)

    def __call__(self, x, packed, bias):
        if not self.call.stride:
            return nn.functional.linear(x, packed, bias)
        return nn.functional.conv2d(x, packed, bias, self.call.stride, self.call.padding, self.call.dilation)


@dataclass(frozen=True)
class Offering(Unstructured):
    """Unstructured, with a way to run from active weights alone."""

    paths: tuple[str, ...] = ("scattered",)

    def accelerate(self, call, mask):
        return [Scattered(call, mask.flatten().nonzero().flatten(), path) for path in self.paths]


@pytest.fixture(autouse=True)
def always_faster(monkeypatch):
    """What a measurement would say is not the subject here."""
    monkeypatch.setattr(dispatch, "speedup", lambda *_: 2.0)
    monkeypatch.setattr(dispatch, "_measured", {})


def network(seed=0):
    layers = (nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5))
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    return settle(nn.Sequential(*layers, *head), seed)
