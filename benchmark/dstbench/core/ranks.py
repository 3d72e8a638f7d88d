"""Several processes, one topology: averaging what scores read, and checking that masks are the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from dstbench.api import StrategyError


def world() -> int:
    """The number of ranks that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average(tensors: Mapping[str, Tensor]) -> None:
    """Replace each tensor by its mean over ranks, in place, before anyone takes an absolute value.

    Where DistributedDataParallel averaged the gradients already this changes nothing.
    """
    if world() > 1:
        for tensor in tensors.values():
            dist.all_reduce(tensor)
            tensor.div_(world())


def broadcast(masks: Mapping[str, Tensor]) -> None:
    """Give every rank the masks of rank 0, in place: initial weights may differ before they are wrapped."""
    if world() > 1:
        for mask in masks.values():
            as_bytes = mask.to(torch.uint8)
            dist.broadcast(as_bytes, src=0)
            mask.copy_(as_bytes.bool())


def broadcast_counts(counts: Mapping[str, int], device: torch.device) -> dict[str, int]:
    """Rank 0's counts: where shares read initial weights, budgets may differ as masks may."""
    if world() == 1:
        return dict(counts)
    values = torch.tensor(list(counts.values()), dtype=torch.int64, device=device)
    dist.broadcast(values, src=0)
    return dict(zip(counts, values.tolist(), strict=True))


def everywhere(flags: list[bool], device: torch.device) -> list[bool]:
    """Which of the flags, as many on every rank, hold on all of them."""
    if world() == 1:
        return flags
    least = torch.tensor(flags, dtype=torch.uint8, device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return [bool(flag) for flag in least.tolist()]


def of_rank_0(value: dict[str, str]) -> dict[str, str]:
    """Rank 0's value, for what each rank measures for itself."""
    if world() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def check_equal(masks: Mapping[str, Tensor]) -> None:
    """Raise StrategyError, naming the layers, if any rank holds another mask."""
    if world() == 1:
        return
    mine = torch.stack([_fingerprint(mask) for mask in masks.values()])
    all_ranks = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(all_ranks, mine)
    different = [n for i, n in enumerate(masks) if any(int(other[i]) != int(mine[i]) for other in all_ranks)]
    if different:
        raise StrategyError(
            f"the ranks hold different masks for {', '.join(different)}: a score read something that "
            "differs between ranks, or they were given different seeds"
        )


def _fingerprint(mask: Tensor) -> Tensor:
    """An order-sensitive hash of a mask, int64 []: the active indices, mixed, modulo 2^64."""
    indices = mask.flatten().nonzero().flatten()
    mixed = (indices + 1) * 0x1F3D5B79A2C4E687  # int64 arithmetic wraps, which is the modulus wanted
    return (mixed ^ (mixed >> 29)).sum()
