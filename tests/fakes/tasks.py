"""An outside plugin whose data set asks for something of its own: a number, judged by its squared error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from dstbench import hookimpl
from dstbench.api import Examples, Metric, Task, TaskData


def noise(size, input_shape, num_classes, rng):
    return torch.randn(size, *input_shape, generator=rng), torch.randn(size, num_classes, generator=rng)


REGRESSION = Task(
    "regression",
    (Metric("squared_error", "squared error", "lower", lambda sums, samples: sums[0] / samples),),
    loss=functional.mse_loss,
    sums=lambda outputs, targets: (outputs - targets).square().sum().reshape(1),
    example=noise,
)


@dataclass(frozen=True)
class Plane:
    """Points and the two heights over them of a fixed pair of planes."""

    task = REGRESSION

    def __call__(self, root, download):
        rng = torch.Generator().manual_seed(0)
        slopes = torch.randn(16, 2, generator=rng)
        points = torch.randn(450, 16, generator=rng)
        parts = points.split([300, 50, 100])
        return TaskData(*(Examples(x, x @ slopes) for x in parts), input_shape=(16,), num_classes=2)


def mlp(num_classes, input_shape):
    return nn.Sequential(nn.Linear(input_shape[0], 32), nn.ReLU(), nn.Linear(32, num_classes))


class Words(nn.Module):
    """Each character's successor from itself and the two before it."""

    def __init__(self, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.hidden, self.head = nn.Linear(48, 64), nn.Linear(64, vocabulary)

    def forward(self, ids):
        seen = self.embedding(functional.pad(ids, (2, 0))).unfold(1, 3, 1).flatten(2)
        return self.head(self.hidden(seen).relu())


def words(num_classes, input_shape):
    return Words(num_classes)


@hookimpl
def register_dataset(register):
    sizes = {"train_images": 300, "validation_images": 50, "test_images": 100}
    register("plane", Plane, revision="1", input_shape=(16,), num_classes=2, **sizes)


@hookimpl
def register_model(register):
    register("mlp", mlp, input_shape=(16,))
    register("words", words, input_shape=(32,))
