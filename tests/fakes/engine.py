"""Small networks, hand-made layer views and a training loop for tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from dstbench.api import LayerInfo, LayerView
from dstbench.core.engine.random import draws


def mlp(seed: int = 0, sizes: tuple[int, ...] = (12, 24, 16, 4)) -> nn.Sequential:
    """Linear and Tanh, so that every weight has a gradient; its weights come from ``seed`` alone."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation draws from the global generator
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return settle(nn.Sequential(*layers[:-1]), seed)


def conv_net(seed: int = 0) -> nn.Sequential:
    """Convolutions (one depthwise), batch norms and a classifier; 3 x 8 x 8 in, 5 logits out."""
    return settle(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 5),
        ),
        seed,
    )


def chain_net(seed: int = 0) -> nn.Sequential:
    """Three convolutions, of which two feed just the next one; 3 x 8 x 8 in, 5 logits out."""
    return settle(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 5),
        ),
        seed,
    )


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw the weights of a model from a generator of their own, whatever the global one holds."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
            elif name.endswith("bias"):
                parameter.zero_()
    return model


def batches(steps: int, shape: tuple[int, ...] = (8, 12), seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Noise with labels of four classes, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randn(shape, generator=draw), torch.randint(4, shape[:1], generator=draw)


def train(
    model: nn.Module,
    sparsifier: object,
    steps: int,
    *,
    shape: tuple[int, ...] = (8, 12),
    seed: int = 0,
    skip: int = 0,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Steps ``skip`` to ``steps`` of a training; ``after`` runs behind each."""
    for step, (images, labels) in enumerate(batches(steps, shape, seed)):
        if step < skip:
            continue
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.step()
        for parameter in model.parameters():
            parameter.grad = None
        after()


def view(
    weight: Tensor,
    mask: Tensor | None = None,
    *,
    name: str = "layer",
    before: Tensor | None = None,
    active: int | None = None,
    allocation: int | None = None,
    kind: str | None = None,
    **signals: Tensor,
) -> LayerView:
    """A layer by its weight and mask; without a mask nothing is active yet."""
    mask = torch.zeros(weight.shape, dtype=torch.bool) if mask is None else mask
    info = LayerInfo(name, tuple(weight.shape), kind or ("linear" if weight.ndim == 2 else "conv"))
    count = int(mask.sum()) if active is None else active
    return LayerView(
        info, weight, mask, mask if before is None else before, count,
        count if allocation is None else allocation, **signals,
    )  # fmt: skip


def draw(seed: int = 0, step: int = 1) -> Callable[[str, str], torch.Generator]:
    """What the engine asks for a generator."""
    return draws(seed, step)


def bits(*rows: str) -> Tensor:
    """A mask, bool [rows, columns], drawn with ones and zeros."""
    return torch.tensor([[mark == "1" for mark in row.replace(" ", "")] for row in rows])


def recipe(
    schedule: str | dict[str, object] = "cosine", delta_t: int = 3, **parts: object
) -> dict[str, object]:
    """Kinds to names with random growth and a short period; ``never`` and ``alternating`` have none."""
    if isinstance(schedule, str):
        schedule = {"name": schedule} | ({} if schedule in ("never", "alternating") else {"delta_t": delta_t})
    return {"grow": "random", "schedule": schedule} | parts


def sgd(model: nn.Module, **options: object) -> torch.optim.SGD:
    """Plain SGD with momentum and weight decay, unless told otherwise."""
    return torch.optim.SGD(
        model.parameters(), **{"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, **options}
    )


def assert_masked(sparsifier: object) -> None:
    """Inactive weights are exactly zero, and so is every optimizer state of their shape, but where they train."""
    superset = sparsifier.masking.superset
    for name, layer in sparsifier.layers.items():
        off = ~sparsifier.masks[name]
        assert not layer.weight.detach()[off].any(), name
        for key, value in sparsifier.optimizer.state.get(layer.weight, {}).items():
            if isinstance(value, Tensor) and value.shape == layer.weight.shape:
                still = off if superset is None else ~superset.masks[name]
                assert not value[still].any(), (name, key)
