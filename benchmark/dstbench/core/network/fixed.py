"""Parameters that meet channels in sums, products and concatenations: embeddings, tokens, scales of each channel.

Which axis of a parameter holds the channels is found by trying: without some of its entries, what is made of it has
to come out without the same channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.fx
from torch import Tensor
from torch.fx.node import map_aggregate

from dstbench.core.network.trace import is_fixed


@dataclass(frozen=True)
class Entries:
    """A parameter with one entry for each channel along an axis."""

    path: str
    axis: int


@dataclass(frozen=True)
class Fixed:
    """What meets the channels of a tensor, whatever the model's input holds."""

    constant: Tensor  # float64 [C]: what it holds for each channel, NaN where that isn't one number
    sources: tuple[Entries, ...]  # what has to be cut with the channels


def fixed(
    node: torch.fx.Node, tensors: Mapping[str, Tensor], channels: int, behind: int | None
) -> Fixed | None:
    """What a fixed node holds for the channels of a tensor that it meets; None where it can't be cut.

    tensors: all parameters and buffers. behind: axes of that tensor from the channels' own to the last; None: all
    but the first of the node's own.
    """
    if not is_fixed(node):
        return None
    try:
        value = _evaluate(node, tensors, {})
    except Exception:  # of sizes that aren't known
        return None
    if not isinstance(value, Tensor):
        return None
    if behind is None and value.dim() < 2 and value.numel() > 1:
        return None
    behind = max(1, value.dim() - 1) if behind is None else behind
    if value.dim() < behind or value.shape[-behind] == 1:
        return Fixed(_held(value.reshape(1, -1)).expand(channels), ())
    if value.shape[-behind] != channels:
        return None
    constant, axis = _held(value.movedim(-behind, 0).reshape(channels, -1)), value.dim() - behind
    leaves = sorted({str(leaf.target) for leaf in _leaves(node)})
    sizes = [
        [i for i, size in enumerate(tensors[leaf].shape) if size == channels]
        for leaf in leaves
        if leaf in tensors
    ]
    if len(sizes) < len(leaves) or not leaves:
        return None
    for axes in product(*sizes):
        sources = tuple(Entries(leaf, along) for leaf, along in zip(leaves, axes, strict=True))
        if _cuts(node, tensors, sources, axis):
            return Fixed(constant, sources)
    return None


def _held(lines: Tensor) -> Tensor:
    """The one number in each line of [n, entries], else NaN: float64 [n], on the CPU."""
    if lines.is_meta:
        return torch.full((len(lines),), torch.nan, dtype=torch.float64)
    same = (lines == lines[:, :1]).all(1)
    return lines[:, 0].detach().double().masked_fill(~same, torch.nan).cpu()


def _leaves(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    if node.op == "get_attr":
        yield node
    for source in node.all_input_nodes:
        if is_fixed(source):
            yield from _leaves(source)


def _cuts(
    node: torch.fx.Node, tensors: Mapping[str, Tensor], sources: tuple[Entries, ...], axis: int
) -> bool:
    """Whether cutting the sources along their axes cuts what is made of them along its axis, and nothing else."""
    rng = torch.Generator().manual_seed(0)
    drawn, cut = {}, {}
    for source in sources:
        like = tensors[source.path]
        place = "cpu" if like.is_meta else like.device
        drawn[source.path] = torch.randn(like.shape, generator=rng, dtype=torch.float32).to(place)
        chosen = torch.arange(0, like.shape[source.axis], 2, device=place)
        cut[source.path] = drawn[source.path].index_select(source.axis, chosen)
    try:
        whole = _evaluate(node, drawn, {})
        part = _evaluate(node, cut, {}, resized=(whole.shape[axis], len(range(0, whole.shape[axis], 2))))
        expected = whole.index_select(axis, torch.arange(0, whole.shape[axis], 2, device=whole.device))
        return part.shape == expected.shape and bool(torch.allclose(part, expected, rtol=1e-4, atol=1e-5))
    except Exception:  # it isn't made for that
        return False


def _evaluate(
    node: torch.fx.Node,
    tensors: Mapping[str, Tensor],
    memo: dict[torch.fx.Node, Any],
    resized: tuple[int, int] = (0, 0),
) -> Any:
    """What a fixed node is with these tensors in place of the model's. Raises KeyError where that isn't known.

    resized: a width and what it is now, for a graph made on an example: sizes are numbers there, and whether the
    model reads them anew is tried when it is carved.
    """
    if node in memo:
        return memo[node]
    if node.op == "get_attr":
        result: Any = tensors[str(node.target)]
    elif node.op in ("call_function", "call_method") and any(is_fixed(n) for n in node.all_input_nodes):

        def given(argument: Any) -> Any:
            if isinstance(argument, torch.fx.Node):
                return _evaluate(argument, tensors, memo, resized)
            return resized[1] if type(argument) is int and argument == resized[0] and resized[0] else argument

        args: Any = map_aggregate(node.args, given)
        kwargs: Any = map_aggregate(node.kwargs, given)
        result = (
            node.target(*args, **kwargs)
            if callable(node.target)
            else getattr(args[0], node.target)(*args[1:], **kwargs)
        )
    else:  # sizes of what follows the input, and what is made of nothing
        result = node.meta["value"]
    memo[node] = result
    return result
