"""Operators that only move entries of a tensor, followed by moving the numbers of its channels instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.fx
from torch import Tensor
from torch.fx.node import map_arg

from dstbench.core.network.trace import is_fixed
from dstbench.core.network.values import Value

MOVES = {
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "swapaxes", "swapdims", "unsqueeze",
    "squeeze", "expand", "expand_as", "repeat", "roll", "flip", "getitem", "select", "narrow", "index_select",
    "chunk", "split", "tensor_split", "unbind", "contiguous",
}  # fmt: skip


def moved(node: torch.fx.Node, source: torch.fx.Node, value: Value) -> Value | tuple[Value, ...] | None:
    """What an operator of MOVES makes of channels, or None where that can't be told: without an example's sizes."""
    shape = source.meta.get("shape")
    others = [other for other in node.all_input_nodes if other is not source]
    if value.flat or shape is None or not all(is_fixed(other) and "value" in other.meta for other in others):
        return None
    labels = value.labels if value.labels is not None else _labels(value, shape)

    def given(argument: torch.fx.Node) -> Any:
        return labels if argument is source else argument.meta["value"]

    args: Any = map_arg(node.args, given)
    kwargs: Any = map_arg(node.kwargs, given)
    try:
        made = (
            node.target(*args, **kwargs)
            if callable(node.target)
            else getattr(args[0], node.target)(*args[1:], **kwargs)
        )
    except (RuntimeError, TypeError, IndexError, ValueError):  # of integers, where it takes none
        return None
    if isinstance(made, Tensor):
        return _resolved(value, made)
    return tuple(_resolved(value, part) for part in made) if isinstance(made, tuple | list) else None


def _labels(value: Value, shape: Sequence[int]) -> Tensor:
    """The number of each entry's channel: int64 [*shape]."""
    numbers = torch.arange(len(value.slots))
    along = [1] * len(shape)
    along[value.axis] = len(numbers)
    return numbers.view(along).expand(*shape)


def _resolved(value: Value, labels: Tensor) -> Value:
    """Channels along the last or the second axis if that is where they are, else what will tell later."""
    for axis in (-1, 1):
        if labels.dim() > max(axis, 0) and labels.numel():
            lines = labels.movedim(axis, 0).flatten(1) if labels.dim() > 1 else labels[:, None]
            if bool((lines == lines[:, :1]).all()):
                return _chosen(value, lines[:, 0], axis)
    return replace(value, axis=0, labels=labels, owner=None)


def _chosen(value: Value, order: Tensor, axis: Any) -> Value:
    whole = len(set(order.tolist())) == len(value.slots)
    shared = value.shared and replace(
        value.shared, gain=value.shared.gain[order], shift=value.shared.shift[order]
    )
    same = whole and len(order) == len(value.slots) and bool((order == torch.arange(len(order))).all())
    return Value(
        value.slots[order], value.constant[order], axis, owner=value.owner if same else None,
        shared=shared if whole else None,
    )  # fmt: skip


def position(value: Value, dims: int) -> int:
    """Which of so many axes holds the channels."""
    return value.axis % dims


def without(value: Value, shape: Sequence[int], dims: Any, keepdim: Any) -> Value | None:
    """A mean over axes that hold no channels."""
    listed = [dims] if isinstance(dims, int) else dims
    if value.axis == 0 or value.flat or not isinstance(listed, Sequence):
        return None
    count, channel = len(shape), position(value, len(shape))
    gone = {dim % count for dim in listed}
    if channel in gone:
        return None
    axis = channel if keepdim else channel - sum(dim < channel for dim in gone)
    left = count if keepdim else count - len(gone)
    if axis == left - 1:
        return replace(value, axis=-1)
    return replace(value, axis=1) if axis == 1 else None
