"""Channels followed through a network: which rows are one channel, who reads them, and what dead rows send on.

The model is traced without any input, in evaluation mode, and its graph walked once. Every output row of a
convolution or linear layer starts as a slot of its own; additions, products and grouped convolutions make slots one,
concatenations put them side by side, and norms, activations, pooling and flattening carry them on. Beside its
slots every value has the constant that it holds where nothing but zero weights made it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from dstbench.core.network.defaults import usual_defaults
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.layers import Layer, clean_names, maskable_layers
from dstbench.core.network.outputs import evaluating
from dstbench.core.network.trace import Untraceable, is_attention, is_response_norm, trace
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
    readable,
    sees_zeros,
)  # fmt: skip

_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.ELU,
    nn.Tanh, nn.Mish, nn.Identity, nn.Dropout, nn.Dropout2d,
)  # fmt: skip
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_ELEMENTWISE_CALLS = {
    "relu", "relu6", "leaky_relu", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "elu", "tanh",
    "mish", "dropout", "contiguous", "clone",
}  # fmt: skip
_POOL_CALLS = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
_SUMS = {"add": operator.add, "iadd": operator.add, "sub": operator.sub, "isub": operator.sub}
_PRODUCTS = {"mul", "imul"}
_SHAPES = {"getattr", "size", "dim"}  # they read no values


@dataclass(frozen=True)
class Flow:
    """What one walk found. Slots are numbered 0 … size - 1."""

    layers: Mapping[str, Layer]
    size: int
    rows: Mapping[str, Tensor]  # layer -> int64 [out]
    reads: Mapping[
        str, Read
    ]  # layers that mix channels; not grouped convolutions, whose groups are one channel
    norms: Mapping[str, Tensor]  # module path -> int64 [C]
    responses: Mapping[
        str, Read
    ]  # module path of a response norm: a channel that isn't zero counts in its mean
    behind: Mapping[str, tuple[str, ...]]  # layer -> norms that see its rows alone
    heads: Mapping[str, Tensor]  # attention's module path -> int64 [heads]: a slot of each
    joined: tuple[tuple[Tensor, Tensor], ...]  # pairs of slots that are one channel
    blocks: tuple[tuple[Tensor, str], ...]  # slots that must stay, and why
    unfollowed: Mapping[str, str]  # layers without slots, and why


@usual_defaults()
def follow(
    model: nn.Module, links: Mapping[str, Tensor] | None = None, example: Inputs | None = None
) -> Flow:
    """Trace a model and walk its graph.

    links: layer name -> bool [out, in / groups], where any tap is active; a layer without is full. None: nothing
    is asked of constants, and no value of the model is read, so that it may be on the meta device.
    example: an input, for models that can't be traced without one.
    """
    walk = _Walk(model, links)
    try:
        with evaluating(model):  # where stochastic depth and dropout are nothing
            graph = trace(model, example)
    except Untraceable as error:
        return walk.result(default=f"the model can't be traced: {error}")
    with torch.no_grad():
        walk.run(graph)
    return walk.result(default="it isn't called as a module")


@dataclass
class _Walk:
    """The walk's state: values by node, and what was found so far."""

    model: nn.Module
    links: Mapping[str, Tensor] | None
    values: dict[torch.fx.Node, Value | None] = field(default_factory=dict)
    size: int = 0
    rows: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Read] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    responses: dict[str, Read] = field(default_factory=dict)
    behind: dict[str, list[str]] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    joined: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    blocks: list[tuple[Tensor, str]] = field(default_factory=list)
    unfollowed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layers = maskable_layers(self.model)
        self.modules, self.names = dict(self.model.named_modules()), clean_names(self.model)
        self.parameters = dict(self.model.named_parameters(remove_duplicate=False))

    def result(self, default: str) -> Flow:
        """The result; layers that were never met get the default reason."""
        missing = {name: default for name in self.layers if name not in self.rows}
        behind = {name: tuple(norms) for name, norms in self.behind.items()}
        return Flow(
            self.layers, self.size, self.rows, self.reads, self.norms, self.responses, behind, self.heads,
            tuple(self.joined), tuple(self.blocks), missing | self.unfollowed,
        )  # fmt: skip

    def run(self, graph: torch.fx.Graph) -> None:
        """Walk the nodes in order."""
        targets = [node.target for node in graph.nodes if node.op == "call_module"]
        repeated = {target for target in targets if targets.count(target) > 1}
        for node in graph.nodes:
            inputs = [value for source in node.all_input_nodes if (value := self.values.get(source))]
            result: Value | str | None
            if node.op == "call_module":
                result = self.module(node, inputs, node.target in repeated)
            elif node.op in ("call_function", "call_method"):
                result = self.call(node, inputs) if inputs else None
            else:
                result = "its rows meet output" if node.op == "output" else None
            if isinstance(result, str):  # the reason why what came in stays
                for value in inputs:
                    self.blocks.append((value.slots, result))
                result = None
            self.values[node] = result

    def module(self, node: torch.fx.Node, inputs: Sequence[Value], repeated: bool) -> Value | str | None:
        """What a module makes of its input, or why its channels can't be followed."""
        path = str(node.target)
        module, name = self.modules[path], self.names[path]
        value = inputs[0] if inputs else None
        if name in self.layers:
            if reason := _unusual(module, repeated):
                self.unfollowed[name] = f"it {reason}"
                return f"{name} {reason}"
            return self.layer(name, value)
        if is_attention(module) and not repeated:
            return self.attention(path, module, value)
        if value is None:
            return None
        if isinstance(module, _BatchNorm) and not repeated and module.num_features == len(value.slots):
            return self.norm(path, module, value)
        if is_response_norm(module) and not repeated:
            return self.response(path, module, value)
        if isinstance(module, _ELEMENTWISE):
            return replace(value, constant=apply(module, value.constant))
        if isinstance(module, _POOLS) and value.axis == 1:
            padding = module.padding if isinstance(module, nn.AvgPool2d) else 0
            return replace(value, constant=pooled(value.constant, padding))
        if isinstance(module, nn.Flatten):
            return flattened(value, module.start_dim, module.end_dim)
        return f"{name} ({type(module).__name__}) may mix channels"

    def layer(self, name: str, value: Value | None) -> Value | str:
        """A convolution or linear layer: it reads its input's channels and starts rows of its own."""
        layer = self.layers[name]
        out, columns = layer.info.shape[:2]
        groups = int(getattr(layer.module, "groups", 1))
        axis: Literal[1, -1] = -1 if layer.info.kind == "linear" else 1
        if value and not readable(value, axis, columns * groups):
            self.unfollowed[name] = "its input's channels lie along another axis"
            return f"{name} reads another axis"
        padded = sees_zeros(layer.module)
        constant = self.constant_rows(name, value.constant if value else None, padded)
        rows = self.rows[name] = torch.arange(self.size, self.size + out)
        self.size += out
        if value and groups == 1:
            self.reads[name] = Read(value.slots, value.constant, padded)
        elif groups > 1:
            every = rows.view(groups, -1)
            self.joined.append((every[:, :1].expand_as(every), every))
            if value:
                inside = value.slots.view(groups, -1)
                self.joined.append((every[:, :1].expand_as(inside), inside))
            else:
                self.blocks.append((rows, f"{name} is grouped over channels that can't be followed"))
        return Value(rows, constant, axis, owner=name)

    def constant_rows(self, name: str, inputs: Tensor | None, padded: bool) -> Tensor:
        """What each output row holds where all that it reads is constant: float64 [out], NaN elsewhere."""
        layer = self.layers[name]
        out, columns = layer.info.shape[:2]
        links = None if self.links is None else self.links.get(name)
        if links is None:
            return torch.full((out,), torch.nan, dtype=torch.float64)
        constant = torch.zeros(out, dtype=torch.float64)
        if inputs is None or bool(inputs.isnan().all()):  # the usual case, and cheap
            varies = links
        else:
            groups = int(getattr(layer.module, "groups", 1))
            per_column = inputs.repeat_interleave(columns * groups // len(inputs))
            per_row = per_column.view(groups, 1, -1).expand(-1, out // groups, -1).reshape(out, -1)
            varies = links & (per_row.isnan() | (per_row != 0) if padded else per_row.isnan())
            adds = links & ~varies & (per_row != 0)
            if bool(adds.any()):
                taps = layer.weight.detach().cpu().double().reshape(out, columns, -1).sum(2)
                constant = (taps * per_row.nan_to_num()).masked_fill(~adds, 0).sum(1)
        constant = constant.masked_fill(torch.from_numpy(varies.numpy().any(1)), torch.nan)
        bias = getattr(layer.module, "bias", None)
        return constant + bias.detach().cpu().double() if isinstance(bias, Tensor) else constant

    def norm(self, path: str, norm: _BatchNorm, value: Value) -> Value:
        """A batch norm: a shift and a scale of each channel, in evaluation."""
        self.norms[path] = value.slots
        if value.owner:
            self.behind.setdefault(value.owner, []).append(path)
        constant = value.constant
        if bool(constant.isnan().all()):
            return value
        if norm.running_mean is None or norm.running_var is None:  # normalised by each batch: no constant
            return replace(value, constant=torch.full_like(constant, torch.nan))
        constant = (constant - norm.running_mean.cpu()) / (norm.running_var.cpu().double() + norm.eps).sqrt()
        if norm.affine:
            constant = constant * norm.weight.detach().cpu() + norm.bias.detach().cpu()
        act = getattr(norm, "act", None)  # of a BatchNormAct2d
        if isinstance(act, nn.Module):
            unknown = torch.full_like(constant, torch.nan)
            constant = apply(act, constant) if isinstance(act, _ELEMENTWISE) else unknown
        return replace(value, constant=constant)

    def response(self, path: str, norm: Any, value: Value) -> Value | str:
        """A response norm: what is zero everywhere adds nothing to the mean, and becomes the norm's bias."""
        if (value.axis, len(value.slots), value.flat) != (norm.channel_dim, len(norm.weight), False):
            return f"{path} normalises another axis"
        self.responses[path] = Read(value.slots, value.constant, padded=True)
        bias = torch.zeros_like(value.constant) if norm.bias.is_meta else norm.bias.detach().cpu().double()
        return replace(value, constant=bias.masked_fill(value.constant != 0, torch.nan))

    def attention(self, path: str, module: Any, value: Value | None) -> Value | str:
        """Heads: one channel each, of all their query, key and value rows. What a head sends on is an average
        of its value rows over the tokens, so what is constant there stays constant."""
        qkv = self.layer(f"{self.names[path]}.qkv", value)
        if isinstance(qkv, str):
            return qkv
        rows = qkv.slots.view(3, module.num_heads, module.head_dim)
        first = rows[:1, :, :1]
        self.joined.append((first.expand_as(rows), rows))
        self.heads[path] = first.flatten()
        width = module.attn_dim
        return self.layer(f"{self.names[path]}.proj", Value(qkv.slots[-width:], qkv.constant[-width:], -1))

    def call(self, node: torch.fx.Node, inputs: Sequence[Value]) -> Value | str | None:
        """What a function or method makes of its inputs, or why their channels can't be followed."""
        name = str(getattr(node.target, "__name__", node.target)).rstrip("_")
        blocked = f"its rows meet {name}"
        value, rest = inputs[0], node.args[1:]
        if name in _SHAPES:
            return None
        if name == "cat":
            return self.concatenated(node, blocked)
        if name in _SUMS or name in _PRODUCTS:
            parts = [
                self.operand(argument) if isinstance(argument, torch.fx.Node) else argument
                for argument in node.args
            ]
            return (None if node.kwargs else self.combined(name, parts)) or blocked
        if name in ("view", "reshape") and len(inputs) == 1 and len(rest) == 2 and rest[1] == -1:
            return flattened(value, 1, -1)
        if len(node.all_input_nodes) > 1 or not node.args or not isinstance(node.args[0], torch.fx.Node):
            return blocked
        if name in _ELEMENTWISE_CALLS:
            return replace(value, constant=apply(bound(node), value.constant))
        if name in _POOL_CALLS and value.axis == 1:
            return replace(value, constant=pooled(value.constant, padding=name == "avg_pool2d"))
        if name == "flatten":
            return flattened(value, *named_arguments(rest, node.kwargs, start_dim=0, end_dim=-1))
        if name == "mean":
            return averaged(value, *named_arguments(rest, node.kwargs, dim=None, keepdim=False)) or blocked
        if name == "permute":
            return permuted(value, rest[0] if rest and isinstance(rest[0], Sequence) else rest) or blocked
        return blocked

    def operand(self, node: torch.fx.Node) -> Value | float | None:
        """What a sum or product takes: channels, or the number that a parameter holds."""
        parameter = self.parameters.get(str(node.target)) if node.op == "get_attr" else None
        if parameter is None or parameter.numel() != 1:
            return self.values.get(node)
        known = self.links is not None and not parameter.is_meta
        return float(parameter) if known else torch.nan

    def combined(self, name: str, arguments: Sequence[object]) -> Value | None:
        """A sum or product of values that have the same channels, or of one and a number."""
        values = [argument for argument in arguments if isinstance(argument, Value)]
        if len(arguments) != 2 or any(
            not isinstance(argument, Value | int | float) for argument in arguments
        ):
            return None
        first, last = values[0], values[-1]
        if len(first.slots) != len(last.slots) or (first.axis, first.flat) != (last.axis, last.flat):
            return None
        a, b = (argument.constant if isinstance(argument, Value) else argument for argument in arguments)
        if name in _PRODUCTS:  # zero times anything finite; a gain that starts at zero makes nothing constant
            zero = (first.constant == 0) | (last.constant == 0)
            constant = torch.as_tensor(a * b).masked_fill(zero, 0.0)  # type: ignore[operator]
        else:
            constant = _SUMS[name](a, b)
        if len(values) == 1:
            return replace(first, constant=constant)
        self.joined.append((first.slots, last.slots))
        return replace(first, constant=constant, owner=None)

    def concatenated(self, node: torch.fx.Node, blocked: str) -> Value | str:
        """Channels side by side."""
        tensors, dim = named_arguments(node.args, node.kwargs, tensors=(), dim=0)
        values = [self.values.get(tensor) for tensor in tensors]
        known = [value for value in values if value and not value.flat and value.axis == dim]
        if len(known) < len(values):
            return blocked
        slots, constants = (torch.cat([getattr(v, f) for v in known]) for f in ("slots", "constant"))
        return Value(slots, constants, known[0].axis)


def _unusual(module: nn.Module, repeated: bool) -> str | None:
    """Why a layer's rows and columns aren't those of one plain convolution or linear layer."""
    if repeated:
        return "runs more than once"
    return "is a transposed convolution" if isinstance(module, _ConvTransposeNd) else None
