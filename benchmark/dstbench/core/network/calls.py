"""What functions and methods make of channels: sums, products, concatenations, pooling, and what moves them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.fx
from torch import Tensor
from torch.fx.node import map_arg

from dstbench.core.network.fixed import fixed
from dstbench.core.network.ledger import Ledger
from dstbench.core.network.movement import MOVES, moved, without
from dstbench.core.network.trace import is_fixed
from dstbench.core.network.values import (
    Read,
    Value,
    apply,
    averaged,
    bound,
    flattened,
    named_arguments,
    permuted,
    pooled,
)  # fmt: skip

_ELEMENTWISE = {
    "relu", "relu6", "leaky_relu", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "elu", "tanh",
    "mish",
}  # fmt: skip
_SAME = {"dropout", "contiguous", "clone", "to", "float", "type", "type_as"}
_POOLS = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
_SUMS = {"add": operator.add, "iadd": operator.add, "sub": operator.sub, "isub": operator.sub}
_PRODUCTS = {"mul", "imul"}
_SHAPES = {"getattr", "size", "dim"}  # they read no values

Result = Value | tuple[Value, ...] | str | None


def call(ledger: Ledger, node: torch.fx.Node, inputs: Sequence[Value]) -> Result:
    """What a function or method makes of its inputs, or why their channels can't be followed."""
    name = str(getattr(node.target, "__name__", node.target)).rstrip("_")
    blocked = f"its rows meet {name}"
    if name in _SHAPES:
        return None
    if name == "cat":
        return _concatenated(ledger, node) or blocked
    if name in _SUMS or name in _PRODUCTS:
        return (None if node.kwargs else _combined(ledger, name, node.args)) or blocked
    source = node.args[0] if node.args else None
    if not isinstance(source, torch.fx.Node) or not all(
        other is source or is_fixed(other) for other in node.all_input_nodes
    ):
        return blocked
    value = ledger.values.get(source)
    if isinstance(value, tuple):
        return value[node.args[1]] if name == "getitem" and isinstance(node.args[1], int) else blocked
    if value is None:
        return blocked
    return _kept_apart(name, node, value) or _moved(ledger, name, node, source, value) or blocked


def _kept_apart(name: str, node: torch.fx.Node, value: Value) -> Value | None:
    """What operators make of a tensor whose channels they leave where they are, or move in well-known ways."""
    rest = node.args[1:]
    if name in _SAME:
        return value
    if value.axis == 0:
        return None
    if name in _ELEMENTWISE:
        return value.becoming(apply(bound(node), value.constant)) if len(node.all_input_nodes) == 1 else None
    if name in _POOLS and value.axis == 1:
        return value.becoming(pooled(value.constant, padding=name == "avg_pool2d"))
    if name == "interpolate" and value.axis == 1:
        return value.becoming(value.constant)
    flat = None
    if name in ("view", "reshape") and len(rest) == 2 and rest[1] == -1:
        flat = flattened(value, 1, -1)
    if name == "flatten":
        flat = flattened(value, *named_arguments(rest, node.kwargs, start_dim=0, end_dim=-1))
    if isinstance(flat, Value):
        return flat
    if name == "mean":
        return averaged(value, *named_arguments(rest, node.kwargs, dim=None, keepdim=False))
    if name == "permute":
        return permuted(value, rest[0] if rest and isinstance(rest[0], Sequence) else rest)
    return None


def _moved(
    ledger: Ledger, name: str, node: torch.fx.Node, source: torch.fx.Node, value: Value
) -> Value | tuple[Value, ...] | None:
    """What can be told with an example's sizes alone."""
    shape, result = source.meta.get("shape"), None
    if name in MOVES:
        result = moved(node, source, value)
    elif name == "mean" and shape is not None:
        result = without(value, shape, *named_arguments(node.args[1:], node.kwargs, dim=None, keepdim=False))
    elif name == "pad" and shape is not None:
        result = _padded(node, value, len(shape))
    if result is not None:
        ledger.late.append(value.slots)
    return result


def _padded(node: torch.fx.Node, value: Value, dims: int) -> Value | None:
    """Zeros around an image: what else was constant no longer is."""
    pads: Any = map_arg(node.args[1], lambda other: other.meta["value"])
    after = dims - 1 - value.axis % dims  # axes behind the channels'
    own = list(pads[2 * after : 2 * after + 2])
    mode, filling = named_arguments(node.args[2:], node.kwargs, mode="constant", value=None)
    if value.axis == 0 or value.flat or mode != "constant" or filling or any(own):
        return None
    return value.becoming(value.constant.masked_fill(value.constant != 0, torch.nan))


def _combined(ledger: Ledger, name: str, arguments: Sequence[Any]) -> Value | None:
    """A sum or product of values that have the same channels, or of one and numbers."""
    parts = [
        ledger.values.get(argument) or argument if isinstance(argument, torch.fx.Node) else argument
        for argument in arguments
    ]
    values = [part for part in parts if isinstance(part, Value)]
    if len(parts) != 2 or not values or any(value.axis == 0 for value in values):
        return None
    first, last = values[0], values[-1]
    if len(first.slots) != len(last.slots) or (first.axis, first.flat) != (last.axis, last.flat):
        return None
    constants: list[Any] = []
    for part, argument in zip(parts, arguments, strict=True):
        other = arguments[1] if argument is arguments[0] else arguments[0]
        constant = _constant(ledger, part, first, other, adds=name in _SUMS)
        if constant is None:
            return None
        constants.append(constant)
    a, b = constants
    if name in _PRODUCTS:  # zero times anything finite; a gain that starts at zero makes nothing constant
        zero = (first.constant == 0) | (last.constant == 0)
        constant = torch.as_tensor(a * b).masked_fill(zero, 0.0)
    else:
        constant = _SUMS[name](a, b)
    if len(values) == 1:
        return first.becoming(constant)
    ledger.joined.append((first.slots, last.slots))
    if name in _PRODUCTS and bool(((first.constant == 0) & (last.constant == 0)).all()):
        ledger.products.append((first.slots, last.slots))
    return replace(first.becoming(constant), owner=None)


def _constant(ledger: Ledger, part: Any, beside: Value, other: Any, adds: bool) -> Tensor | float | None:
    """What one side of a sum or product holds for each channel of the other; None where that can't be told."""
    if isinstance(part, Value):
        return part.constant
    if isinstance(part, int | float):
        return part
    if not isinstance(part, torch.fx.Node):
        return None
    parameter = ledger.parameters.get(str(part.target)) if part.op == "get_attr" else None
    if parameter is not None and parameter.numel() == 1:
        known = ledger.links is not None and not parameter.is_meta
        return float(parameter) if known else torch.nan
    shape = other.meta.get("shape") if isinstance(other, torch.fx.Node) else None
    return _entries(ledger, part, beside, None if shape is None else len(shape), adds)


def _entries(
    ledger: Ledger, node: torch.fx.Node, beside: Value, dims: int | None, adds: bool = True
) -> Tensor | None:
    """The numbers of each channel that don't follow the input: float64 [C], NaN where they aren't one number.
    The parameters that they come from have the same channels from then on."""
    if beside.flat:
        return None
    behind = 1 if beside.axis == -1 else None if dims is None else dims - 1
    numbers = fixed(node, ledger.tensors, len(beside.slots), behind)
    if numbers is None:
        return None
    constant = numbers.constant
    if ledger.links is None:
        constant = torch.full_like(constant, torch.nan)
    for source in numbers.sources:
        before = ledger.entries.get(source.path)
        if before is not None and before[0] != source.axis:
            return None
        if before is not None:
            ledger.joined.append((before[1].slots, beside.slots))
        ledger.entries[source.path] = (
            source.axis,
            Read(beside.slots, constant if adds else torch.zeros_like(constant), padded=True),
        )
        ledger.late.append(beside.slots)
    return constant


def _concatenated(ledger: Ledger, node: torch.fx.Node) -> Value | None:
    """Channels side by side, or the same channels at more places."""
    tensors, dim = named_arguments(node.args, node.kwargs, tensors=(), dim=0)
    if not isinstance(tensors, Sequence) or not isinstance(dim, int):
        return None
    values = [ledger.values.get(tensor) for tensor in tensors]
    known = [value for value in values if isinstance(value, Value) and not value.flat and value.axis != 0]
    if not known or len({value.axis for value in known}) > 1:
        return None
    first, shape = known[0], tensors[0].meta.get("shape")
    along = dim == first.axis or (shape is not None and dim % len(shape) == first.axis % len(shape))
    if along and len(known) == len(values):
        slots, constants = (torch.cat([getattr(v, f) for v in known]) for f in ("slots", "constant"))
        return Value(slots, constants, first.axis)
    return None if along or shape is None else _at_more_places(ledger, tensors, values, len(shape))


def _at_more_places(ledger: Ledger, tensors: Sequence[Any], values: Sequence[Any], dims: int) -> Value | None:
    """Tokens in a row, some of them parameters: a channel is constant where it is the same constant in all."""
    known = [value for value in values if isinstance(value, Value)]
    first = known[0]
    if len({len(value.slots) for value in known}) > 1:
        return None
    constant = first.constant
    for tensor, value in zip(tensors, values, strict=True):
        held = value.constant if isinstance(value, Value) else None
        if held is None and isinstance(tensor, torch.fx.Node):
            held = _entries(ledger, tensor, first, dims)
        if held is None:
            return None
        constant = constant.masked_fill(constant != held, torch.nan)
        if isinstance(value, Value):
            ledger.joined.append((first.slots, value.slots))
    ledger.late.append(first.slots)
    return replace(first.becoming(constant), owner=None)
