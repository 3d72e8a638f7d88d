"""What each of two processes does in the tests of distributed training. ``rank`` None: alone, on both's data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dstbench
from dstbench.api import StrategyError
from dstbench.core.storage import fastest
from fakes.engine import batches, conv_net, mlp, recipe, sgd
from fakes.executions import Offering


def _train(
    rank: int | None,
    parts: dict[str, Any],
    *,
    net: Any = mlp,
    shape: tuple[int, ...] = (8, 12),
    density: float = 0.2,
    wrap: bool = True,
    own_weights: bool = True,
    seed: int = 0,
    steps: int = 10,
    **options: Any,
) -> dict[str, Any]:
    """Ten steps with an update at every second one; ranks see data, weights and global seeds of their own."""
    torch.manual_seed(1000 + (rank or 0))
    model = net(rank or 0) if own_weights else net()
    parts = recipe("constant", 2) | parts
    optimizer = sgd(model, lr=0.1)
    sparsifier = dstbench.Sparsifier(
        model, optimizer, recipe=parts, density=density, total_steps=steps + 1, seed=seed, **options
    )
    run = DistributedDataParallel(model) if wrap and rank is not None else model
    masks = [{name: mask.clone() for name, mask in sparsifier.masks.items()}]
    for pair in zip(batches(steps, shape, seed=1), batches(steps, shape, seed=2), strict=True):
        images, labels = (
            (torch.cat(parts) for parts in zip(*pair, strict=True)) if rank is None else pair[rank]
        )
        nn.functional.cross_entropy(run(images), labels).backward()
        sparsifier.step()
        optimizer.zero_grad()
        if sparsifier.history and sparsifier.history[-1].step == sparsifier.steps:
            masks.append({name: mask.clone() for name, mask in sparsifier.masks.items()})
    return {
        "masks": masks,
        "weights": [parameter.detach().clone() for parameter in model.parameters()],
        "budgets": sparsifier.budget,
        "grown": sum(report.grown for report in sparsifier.history),
    }


def random(rank: int) -> dict[str, Any]:
    return _train(rank, {})


def gradient(rank: int) -> dict[str, Any]:
    return _train(rank, {"grow": {"name": "gradient", "share": "global"}})


def momentum(rank: int) -> dict[str, Any]:
    return _train(rank, {"grow": {"name": "momentum", "share": "momentum"}, "prune": "mest"})


def shared_by_weights(rank: int) -> dict[str, Any]:
    """Budgets that initial weights decide, which differ between ranks until they are wrapped."""
    return _train(rank, {"init": {"name": "magnitude", "share": "global"}, "grow": "gradient"})


def saliency(rank: int) -> dict[str, Any]:
    """Dense until the first step, whose gradients decide."""
    return _train(rank, {"init": "snip", "grow": "gradient"})


def channel(rank: int) -> dict[str, Any]:
    parts = {"structure": "channel", "grow": "gradient"}
    return _train(rank, parts, net=conv_net, shape=(8, 3, 8, 8), density=0.4)


def condensed(rank: int) -> dict[str, Any]:
    """Rank 1 measures masked dense to be faster, and runs as rank 0 does."""
    fastest.speedup = lambda *_: 2.0 if rank == 0 else 0.5
    parts = {"structure": Offering(), "grow": "gradient"}
    return _train(rank, parts, storage="condensed", example_input=torch.zeros(8, 12))


def condensed_alone(rank: int | None) -> dict[str, Any]:
    """From equal weights, as ``joined``."""
    fastest.speedup = lambda *_: 2.0
    parts = {"structure": Offering(), "grow": "gradient"}
    return _train(rank, parts, own_weights=False, storage="condensed", example_input=torch.zeros(8, 12))


def joined(rank: int | None) -> dict[str, Any]:
    """From equal weights: two ranks, or one process on both ranks' batches."""
    return _train(rank, {"grow": "gradient"}, own_weights=False)


def without_ddp(rank: int) -> dict[str, Any]:
    """One layer with planted gradients: the ranks disagree about some positions and agree about others."""
    model = nn.Linear(10, 4, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    sparsifier = dstbench.Sparsifier(
        model,
        sgd(model, lr=0.0),
        recipe=recipe("constant", 1, grow="gradient"),
        density=0.25,
        total_steps=5,
    )
    free = (~sparsifier.masks["weight"]).nonzero()
    gradient = torch.zeros(4, 10)
    gradient[tuple(free[:15].T)] = 9.0 if rank == 0 else -9.0
    gradient[tuple(free[15:].T)] = 1.0
    before = sparsifier.masks["weight"].clone()
    model.weight.grad = gradient
    sparsifier.step()
    grown = sparsifier.masks["weight"] & ~before
    return {"masks": [{"weight": grown}], "agreed": free[15 : 15 + int(grown.sum())]}


def _refused(rank: int, **options: Any) -> dict[str, Any]:
    try:
        _train(rank, options.pop("parts", {}), **options)
    except StrategyError as error:
        return {"error": str(error), "named": ["0", "2", "4"]}
    return {"error": "nothing was refused", "named": []}


def unequal_seeds(rank: int) -> dict[str, Any]:
    return _refused(rank, seed=rank)


def unequal_weights(rank: int) -> dict[str, Any]:
    """Nothing averages the gradients: the weights drift apart, and pruning by them would, too."""
    return _refused(rank, wrap=False)
