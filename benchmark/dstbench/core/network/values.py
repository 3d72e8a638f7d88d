"""A tensor inside a network, by its channels, and what operators that keep channels apart make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class Shared:
    """What a norm over the channels makes of those that are zero: gain · z + shift, with one z for all of them,
    minus the mean over the deviation, which follows the input."""

    norm: str  # module path
    gain: Tensor  # float64 [C]; NaN where the channel isn't zero
    shift: Tensor  # float64 [C]


@dataclass(frozen=True)
class Value:
    """A tensor inside the network, by its channels."""

    slots: Tensor  # int64 [C]
    constant: Tensor  # float64 [C]: what the channel holds everywhere, in evaluation; NaN if no constant
    axis: Literal[0, 1, -1]  # where the channels lie; 0: on no single axis
    flat: bool = False  # behind a flattening: each channel is several features in a row
    owner: str | None = None  # the one layer whose rows these are
    shared: Shared | None = None  # behind a norm over the channels
    labels: Tensor | None = None  # int64, of the tensor's shape: the channel of each entry, on no single axis

    def becoming(self, constant: Tensor) -> Value:
        """The same channels with other values."""
        return replace(self, constant=constant, shared=None)


@dataclass(frozen=True)
class Read:
    """One layer's view of its input channels."""

    slots: Tensor  # int64 [C]
    constant: Tensor  # float64 [C], as in Value
    padded: bool  # zeros around the input: there a constant isn't constant
    shared: Shared | None = None  # as in Value


def readable(value: Value, axis: int, columns: int) -> bool:
    """Whether a layer's columns are these channels; behind a flattening, several of each."""
    if value.axis != axis or (value.flat and axis == 1):
        return False
    return columns % len(value.slots) == 0 if value.flat else columns == len(value.slots)


def sees_zeros(module: nn.Module) -> bool:
    """Whether a layer may see zeros around its input."""
    if not isinstance(module, _ConvNd):
        return False
    if type(module).__name__ == "Conv2dSame":
        return True
    padding = module.padding
    some = padding == "same" if isinstance(padding, str) else any(padding)
    return some and module.padding_mode == "zeros"


def bound(node: torch.fx.Node) -> Callable[[Tensor], Tensor]:
    """A function or method of one tensor, with its other arguments."""
    target, rest, kwargs = node.target, node.args[1:], node.kwargs
    if callable(target):
        return lambda x: target(x, *rest, **kwargs)
    return lambda x: getattr(x, str(target))(*rest, **kwargs)


def apply(function: Callable[[Tensor], Tensor], constant: Tensor) -> Tensor:
    """An elementwise function of what is constant, NaN elsewhere."""
    unknown = constant.isnan()
    if bool(unknown.all()):
        return constant
    return function(constant.nan_to_num()).masked_fill(unknown, torch.nan)


def pooled(constant: Tensor, padding: Any) -> Tensor:
    """Zero stays zero; another constant only where no zeros pad it. (A maximum is padded with -inf.)"""
    some = padding if isinstance(padding, int) else any(padding)
    return constant.masked_fill(constant != 0, torch.nan) if some else constant


def flattened(value: Value, start: Any, end: Any) -> Value | str:
    if value.axis == 1 and (start, end) == (1, -1):
        return replace(value, axis=-1, flat=True)
    return "its rows meet flatten"


def averaged(value: Value, dims: Any, keepdim: Any) -> Value | None:
    """A mean over both image axes."""
    if value.axis == 0:
        return None
    spatial = {dim % 4 for dim in (dims if isinstance(dims, Iterable) else [dims]) if isinstance(dim, int)}
    if value.axis != 1 or value.flat or spatial != {2, 3}:
        return None
    return value if keepdim else replace(value, axis=-1)


def permuted(value: Value, order: Sequence[Any]) -> Value | None:
    """Channels first to last, and back."""
    moves: dict[tuple[Any, ...], tuple[int, Literal[1, -1]]] = {(0, 2, 3, 1): (1, -1), (0, 3, 1, 2): (-1, 1)}
    before, after = moves.get(tuple(order), (0, 1))
    return replace(value, axis=after) if before == value.axis and not value.flat else None


def named_arguments(args: Sequence[Any], kwargs: Mapping[str, Any], **defaults: Any) -> tuple[Any, ...]:
    """A call's arguments by position or name."""
    given = [*args, *[None] * len(defaults)]
    return tuple(
        given[place] if place < len(args) else kwargs.get(name, default)
        for place, (name, default) in enumerate(defaults.items())
    )
