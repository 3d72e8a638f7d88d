"""Which channels could be removed: a network's producers, norms and consumers, found by tracing it.

A layer's output row is removable when it is dead (no active weight) or read by nobody, and everything between it
and the next maskable layers keeps channels apart: norms, activations, pooling, dropout, flattening. Rows that meet an
addition, a concatenation or anything unknown stay.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from dstbench.api import Coupling, Infeasible
from dstbench.core.layers import clean_name, maskable_layers

_CHANNELWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.Tanh, nn.Identity, nn.Dropout,
    nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten,
)  # fmt: skip
_FUNCTIONS = {
    torch.relu, torch.flatten, nn.functional.relu, nn.functional.gelu, nn.functional.silu,
    nn.functional.dropout, nn.functional.max_pool2d, nn.functional.avg_pool2d, nn.functional.adaptive_avg_pool2d,
}  # fmt: skip
_METHODS = {"relu", "relu_", "flatten", "contiguous"}


@dataclass
class Edge:
    """What follows one layer before the next: the norms on the way and the layers that consume its rows."""

    norms: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    blocked: str | None = None  # what keeps its rows from being removed


def edges(model: nn.Module) -> dict[str, Edge]:
    """For every maskable layer, what its output rows reach. A model that can't be traced gives blocked edges."""
    layers = maskable_layers(model)
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception as error:  # tracing runs the model's own code on proxies: anything can happen
        return {name: Edge(blocked=f"the model can't be traced: {error}") for name in layers}
    modules = dict(model.named_modules())
    found = {name: Edge(blocked="it isn't called as a module") for name in layers}
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module" and clean_name(node.target) in layers:
            name = clean_name(node.target)
            calls[name] = calls.get(name, 0) + 1
            found[name] = Edge() if calls[name] == 1 else Edge(blocked="it runs more than once")
            if reason := _unusual(modules[node.target]):
                found[name].blocked = f"it is a {reason}"
            if calls[name] == 1:
                for user in node.users:
                    _follow(user, modules, layers, found[name])
    for edge in found.values():
        shared = [consumer for consumer in edge.consumers if calls.get(consumer, 0) > 1]
        if shared and edge.blocked is None:
            edge.blocked = f"{shared[0]} runs more than once"
    return found


def couplings(model: nn.Module, names: Collection[str]) -> tuple[Coupling, ...]:
    """The channels of the named layers that can be removed exactly, with the named layers that consume them.

    Raises Infeasible where no layer can be followed, as in a model that can't be traced, with the reason.
    """
    found = {name: edge for name, edge in edges(model).items() if name in names}
    reasons = {edge.blocked for edge in found.values()}
    if None not in reasons and len(reasons) == 1:
        raise Infeasible(f"channels can't be followed through {type(model).__name__}: {reasons.pop()}")
    return tuple(
        Coupling(name, tuple(edge.norms), tuple(edge.consumers))
        for name, edge in found.items()
        if not edge.blocked and edge.consumers and set(edge.consumers) <= set(names)
    )


def _unusual(module: nn.Module) -> str | None:
    """Why a layer's rows and columns aren't those of a plain convolution or linear layer."""
    if isinstance(module, _ConvTransposeNd):
        return "transposed convolution"
    return "grouped convolution" if getattr(module, "groups", 1) > 1 else None


def _follow(
    node: torch.fx.Node, modules: Mapping[str, nn.Module], layers: Mapping[str, Any], edge: Edge
) -> None:
    """Walk on from one use of a layer's output, collecting norms and consumers."""
    if node.op == "call_module":
        target = str(node.target)
        module, name = modules[target], clean_name(target)
        if name in layers:
            if reason := _unusual(module):
                edge.blocked = f"{name} is a {reason}"
            edge.consumers.append(name)
            return
        if isinstance(module, _BatchNorm):
            edge.norms.append(target)
        elif not isinstance(module, _CHANNELWISE):
            edge.blocked = f"{name} ({type(module).__name__}) may mix channels"
            return
    elif not _keeps_channels(node):
        edge.blocked = f"its rows meet {getattr(node.target, '__name__', node.target)}"
        return
    for user in node.users:
        _follow(user, modules, layers, edge)


def _keeps_channels(node: torch.fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _METHODS or (node.target == "mean" and _spatial(node.args[1:], node.kwargs))
    if node.op != "call_function":
        return False
    return node.target in _FUNCTIONS and node.target is not operator.add


def _spatial(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    dims = args[0] if args else kwargs.get("dim")
    return set(dims if isinstance(dims, list | tuple) else [dims]) <= {2, 3, -1, -2}


def removable_rows(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of each layer that can be cut out exactly: bool [out], only layers that have any.

    A row is one if nobody reads it, all columns that it feeds being dead, or if it is dead and sends on zero:
    by its mask isn't enough, what the layer's bias and the norms behind it make of zero must be zero.
    """
    found, layers = edges(model), maskable_layers(model)
    modules = dict(model.named_modules())
    rows = {}
    for name, edge in found.items():
        if edge.blocked or not edge.consumers:
            continue
        out = layers[name].info.shape[0]
        gone = ~_read(masks, edge.consumers, out)
        if name in masks:
            dead = ~masks[name].flatten(1).any(1)
            silent = _constant(layers[name].module, [modules[norm] for norm in edge.norms], dead) == 0
            gone = gone.to(dead.device) | (dead & silent)
        if bool(gone.any()) and not bool(gone.all()):
            rows[name] = gone
    return rows


def _read(masks: Mapping[str, Tensor], consumers: Sequence[str], rows: int) -> Tensor:
    """Which output rows a consumer has an active weight for: bool [rows]. Without a mask it reads them all."""
    read = torch.zeros(rows, dtype=torch.bool)
    for consumer in consumers:
        if consumer not in masks:
            return torch.ones(rows, dtype=torch.bool)
        columns = masks[consumer].transpose(0, 1).flatten(1).any(1)  # behind a flatten, several of each row
        read = read.to(columns.device) | columns.view(rows, -1).any(1)
    return read


@torch.no_grad()
def _constant(layer: nn.Module, norms: list[nn.Module], dead: Tensor) -> Tensor:
    """What a row of zero weights sends on in evaluation, behind its bias and norms: float [out]."""
    constant = torch.zeros(len(dead), device=dead.device)
    if isinstance(layer.bias, Tensor):
        constant = constant + layer.bias
    for norm in norms:
        assert isinstance(norm, _BatchNorm)
        if norm.running_mean is None or norm.running_var is None:
            return constant + torch.nan  # normalised by each batch: no constant of its own
        constant = (constant - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        if norm.affine:
            constant = constant * norm.weight + norm.bias
    return constant
