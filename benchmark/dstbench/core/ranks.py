"""Several processes, one topology: averaging what scores read, and stopping together where ranks part.

What a rank raises between two collectives would leave the others waiting in the next one, or meeting another one of
its. So ranks compare once what they have to share, and tell each other what they raise where they decide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import torch
import torch.distributed as dist
from torch import Tensor

from dstbench.api import StrategyError
from dstbench.errors import BadInput, Infeasible, NotFinite

_MAKING = "a Sparsifier being made"
_PLACE = re.compile(r" at 0x[0-9a-f]+|:\d+(?=\")|, index=\d+")
"""Where an object lies in memory, and which of its devices a process uses: ``cuda:1``, ``device(..., index=1)``."""

_P = ParamSpec("_P")


def world() -> int:
    """The number of ranks that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's among them; 0 without a process group."""
    return dist.get_rank() if world() > 1 else 0


def gather(value: Any) -> list[Any]:
    """Every rank's plain value, in the order of ranks."""
    return [json.loads(text) for text in _gather(json.dumps(value))] if world() > 1 else [value]


def add_up(tensor: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def most(values: list[int]) -> list[int]:
    """The largest of each over ranks."""
    if world() == 1:
        return values
    largest = torch.tensor(values, dtype=torch.int64, device=_device())
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return [int(value) for value in largest.tolist()]


def hold_as_rank_0(tensors: Iterable[Tensor]) -> None:
    """Give every rank the values of rank 0, in place."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def average(tensors: Mapping[str, Tensor]) -> None:
    """Replace each tensor by its mean over ranks, in place, before anyone takes an absolute value.

    Where DistributedDataParallel averaged the gradients already this changes nothing. Raises StrategyError where
    the ranks don't have the same ones.
    """
    if world() > 1:
        _check_names(list(tensors))
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
    held: dict[str, str] = json.loads(_gather(json.dumps(value))[0])
    return held


def check_equal(masks: Mapping[str, Tensor], step: int) -> None:
    """Raise StrategyError, naming ranks, layers and the step, if any rank holds another mask than rank 0."""
    if world() == 1:
        return
    mine = torch.stack([_fingerprint(mask) for mask in masks.values()])
    everyone = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(everyone, mine)
    first, *others = (prints.tolist() for prints in everyone)
    parting = {
        rank: [name for name, a, b in zip(masks, first, prints, strict=True) if a != b]
        for rank, prints in enumerate(others, start=1)
    }
    layers = [name for name in masks if any(name in names for names in parting.values())]
    if layers:
        which = "; ".join(f"rank {rank} in {', '.join(names)}" for rank, names in parting.items() if names)
        raise StrategyError(
            f"the ranks hold different masks for {', '.join(layers)} at step {step} (other than rank 0: {which}): "
            "a score read something that differs between ranks"
        )


class _Agreements:
    """How often this process has gone to compare what ranks share."""

    made = 0


def agree(shared: Callable[[], Mapping[str, Any]]) -> None:
    """Raise BadInput, naming the rank and the field, where ranks don't have the same plain values.

    Where each is on another device, or has its objects elsewhere in memory, is no difference.
    """
    if world() == 1:
        return
    mine = _flat(shared())
    _Agreements.made += 1
    held = _meet(_MAKING, None, mine)
    for rank, other in enumerate(held):
        for name in held[0] | other:
            if other.get(name) != held[0].get(name):
                raise BadInput(
                    f"{name}: {_short(other.get(name))} on rank {rank}, {_short(held[0].get(name))} on rank 0: "
                    "ranks that train together have to share it"
                )


def made_together(init: Callable[_P, None]) -> Callable[_P, None]:
    """A constructor that calls ``agree``: what it raises before that on one rank, it raises on all."""

    @wraps(init)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        before = _Agreements.made
        try:
            init(*args, **kwargs)
        except Exception as error:
            if world() > 1 and _Agreements.made == before:
                _meet(_MAKING, error)
            raise

    return run


@contextmanager
def together(what: str) -> Iterator[None]:
    """Around work without a collective: what one rank raises in it, all raise, naming the rank and ``what``."""
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        if world() == 1:
            raise
        failed = error
    if world() > 1:
        _meet(what, failed)


def _meet(what: str, error: Exception | None, shared: Any = None) -> list[Any]:
    """What each rank shares. Raises, on all, what any of them met with, and where they are at different things."""
    said = error and f"{type(error).__name__}: {error}"
    held = [json.loads(text) for text in _gather(json.dumps([what, said, shared], default=repr))]
    failed = [f"rank {rank}: {words}" for rank, (_, words, _) in enumerate(held) if words]
    if failed:
        summary = f"{what}: {'; '.join(failed)}"
        if error is None or isinstance(error, StrategyError):
            raise (type(error) if isinstance(error, Infeasible | NotFinite) else StrategyError)(
                summary
            ) from error
        error.add_note(summary)
        raise error
    for rank, (other, _, _) in enumerate(held):
        if other != held[0][0]:
            raise StrategyError(f"the ranks have parted: rank {rank} is at {other}, rank 0 at {held[0][0]}")
    return [value for _, _, value in held]


def _check_names(names: list[str]) -> None:
    """Raise StrategyError where ranks are about to average different things."""
    held = _meet("the averages of what scores read", None, names)
    for rank, other in enumerate(held):
        if odd := sorted({*held[0]} ^ {*other}):
            raise StrategyError(
                f"the ranks have gradients of different layers: rank {rank} and rank 0 differ in {', '.join(odd)}"
            )


def _gather(text: str) -> list[str]:
    """Every rank's text."""
    mine = torch.tensor(list(text.encode()), dtype=torch.uint8, device=_device())
    try:
        lengths = [torch.empty(1, dtype=torch.int64, device=mine.device) for _ in range(world())]
        dist.all_gather(lengths, torch.tensor([len(mine)], device=mine.device))
        longest = max(int(length) for length in lengths)
        texts = [torch.empty(longest, dtype=torch.uint8, device=mine.device) for _ in lengths]
        dist.all_gather(texts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    except RuntimeError as error:  # the backend's, of which there are many
        raise StrategyError(f"another rank has ended, or never came here: {error}") from error
    return [
        bytes(padded[: int(length)].tolist()).decode() for padded, length in zip(texts, lengths, strict=True)
    ]


def _device() -> torch.device:
    """Where the process group takes tensors: the CPU, if it can."""
    backends = str(dist.get_backend())
    accelerator = torch.accelerator.current_accelerator()
    on_cpu = "gloo" in backends or "mpi" in backends or accelerator is None
    return torch.device("cpu") if on_cpu or accelerator is None else accelerator


def _flat(shared: Mapping[str, Any]) -> dict[str, str]:
    """Plain values by path, as comparable texts."""
    flat: dict[str, str] = {}
    for name, value in shared.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": text for key, text in _flat(value).items()}
        else:
            flat[name] = _PLACE.sub("", json.dumps(value, sort_keys=True, default=repr))
    return flat


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fingerprint(mask: Tensor) -> Tensor:
    """An order-sensitive hash of a mask, int64 []: the active indices, mixed, modulo 2^64."""
    indices = mask.flatten().nonzero().flatten()
    mixed = (indices + 1) * 0x1F3D5B79A2C4E687  # int64 arithmetic wraps, which is the modulus wanted
    return (mixed ^ (mixed >> 29)).sum()
