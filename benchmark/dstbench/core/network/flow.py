"""Channels followed through a network: which rows are one channel, who reads them, and what dead rows send on.

The model is traced without any input, in evaluation mode, and its graph walked once. Every output row of a
convolution or linear layer starts as a slot of its own; additions, products and grouped convolutions make slots one,
concatenations put them side by side, and norms, activations, pooling and flattening carry them on. Beside its
slots every value has the constant that it holds where nothing but zero weights made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from dstbench.core.network.calls import Result, call
from dstbench.core.network.defaults import usual_defaults
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.ledger import Flow, Ledger
from dstbench.core.network.norms import across, by_batch, grouped, over_channels
from dstbench.core.network.outputs import evaluating
from dstbench.core.network.trace import Untraceable, is_attention, is_response_norm, trace
from dstbench.core.network.values import Read, Value, apply, flattened, pooled, readable, sees_zeros

__all__ = ["Flow", "follow"]

_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.ELU,
    nn.Tanh, nn.Mish,
)  # fmt: skip
_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@usual_defaults()
def follow(
    model: nn.Module, links: Mapping[str, Tensor] | None = None, example: Inputs | None = None
) -> Flow:
    """Trace a model and walk its graph.

    links: layer name -> bool [out, in / groups], where any tap is active; a layer without is full. None: nothing
    is asked of constants, and no value of the model is read, so that it may be on the meta device.
    example: an input, for models that can't be traced without one.
    """
    walk = _Walk(Ledger(model, links))
    try:
        with evaluating(model):  # where stochastic depth and dropout are nothing
            graph = trace(model, example)
    except Untraceable as error:
        return walk.ledger.result(default=f"the model can't be traced: {error}")
    with torch.no_grad():
        walk.run(graph)
    return walk.ledger.result(default="it isn't called as a module")


@dataclass(frozen=True)
class _Walk:
    """Goes through a graph, node by node."""

    ledger: Ledger

    def run(self, graph: torch.fx.Graph) -> None:
        """Walk the nodes in order."""
        targets = [node.target for node in graph.nodes if node.op == "call_module"]
        repeated = {target for target in targets if targets.count(target) > 1}
        for node in graph.nodes:
            inputs = [value for source in node.all_input_nodes for value in self.ledger.of(source)]
            result: Result
            try:
                result = self.node(node, inputs, node.target in repeated)
            except Exception as error:  # of operators in ways that nobody thought of
                result = f"its rows meet {node.name}, which can't be followed: {error}"
            if isinstance(result, str):  # the reason why what came in stays
                for value in inputs:
                    self.ledger.blocks.append((value.slots, result))
                result = None
            self.ledger.values[node] = result

    def node(self, node: torch.fx.Node, inputs: Sequence[Value], repeated: bool) -> Result:
        """What a node makes of its inputs."""
        if node.op == "call_module":
            return self.module(node, inputs, repeated)
        if node.op in ("call_function", "call_method"):
            return call(self.ledger, node, inputs) if inputs else None
        return "its rows meet output" if node.op == "output" else None

    def module(self, node: torch.fx.Node, inputs: Sequence[Value], repeated: bool) -> Value | str | None:
        """What a module makes of its input, or why its channels can't be followed."""
        path = str(node.target)
        module, name = self.ledger.modules[path], self.ledger.names[path]
        value = inputs[0] if inputs else None
        if name in self.ledger.layers:
            if reason := _unusual(module, repeated):
                self.ledger.unfollowed[name] = f"it {reason}"
                return f"{name} {reason}"
            return self.layer(name, value)
        if is_attention(module) and not repeated:
            return self.attention(path, module, value)
        if value is None:
            return None
        if value.axis == 0 and not isinstance(module, _SAME):
            return f"{name} ({type(module).__name__}) may mix channels"
        if isinstance(module, _BatchNorm) and not repeated and module.num_features == len(value.slots):
            return self.norm(path, module, value)
        if is_response_norm(module) and not repeated:
            return self.response(path, module, value)
        if (over_channels(module) or isinstance(module, nn.GroupNorm)) and not repeated:
            return (
                self.norm_across(path, module, value) or f"{name} ({type(module).__name__}) may mix channels"
            )
        if isinstance(module, _SAME):
            return value
        if isinstance(module, _ELEMENTWISE):
            return value.becoming(apply(module, value.constant))
        if isinstance(module, _POOLS) and value.axis == 1:
            padding = module.padding if isinstance(module, nn.AvgPool2d) else 0
            return value.becoming(pooled(value.constant, padding))
        if isinstance(module, nn.Flatten):
            return flattened(value, module.start_dim, module.end_dim)
        return f"{name} ({type(module).__name__}) may mix channels"

    def layer(self, name: str, value: Value | None) -> Value | str:
        """A convolution or linear layer: it reads its input's channels and starts rows of its own."""
        layer = self.ledger.layers[name]
        out, columns = layer.info.shape[:2]
        groups = int(getattr(layer.module, "groups", 1))
        axis: Literal[1, -1] = -1 if layer.info.kind == "linear" else 1
        if value and not readable(value, axis, columns * groups):
            self.ledger.unfollowed[name] = "its input's channels lie along another axis"
            return f"{name} reads another axis"
        padded = sees_zeros(layer.module)
        constant = self.constant_rows(name, value.constant if value else None, padded)
        rows = self.ledger.rows[name] = torch.arange(self.ledger.size, self.ledger.size + out)
        self.ledger.size += out
        if value and groups == 1:
            self.ledger.reads[name] = Read(value.slots, value.constant, padded, value.shared)
        elif groups > 1:
            every = rows.view(groups, -1)
            self.ledger.joined.append((every[:, :1].expand_as(every), every))
            if value:
                inside = value.slots.view(groups, -1)
                self.ledger.joined.append((every[:, :1].expand_as(inside), inside))
            else:
                self.ledger.blocks.append((rows, f"{name} is grouped over channels that can't be followed"))
        return Value(rows, constant, axis, owner=name)

    def constant_rows(self, name: str, inputs: Tensor | None, padded: bool) -> Tensor:
        """What each output row holds where all that it reads is constant: float64 [out], NaN elsewhere."""
        layer = self.ledger.layers[name]
        out, columns = layer.info.shape[:2]
        links = None if self.ledger.links is None else self.ledger.links.get(name)
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
        self.ledger.norms[path] = value.slots
        if value.owner:
            self.ledger.behind.setdefault(value.owner, []).append(path)
        return self.activated(norm, value.becoming(by_batch(norm, value.constant)))

    def activated(self, norm: nn.Module, value: Value) -> Value:
        """What the activation makes of it that some of timm's norms hold."""
        act = getattr(norm, "act", None)
        if not isinstance(act, nn.Module) or isinstance(act, _SAME):
            return value
        unknown = torch.full_like(value.constant, torch.nan)
        return value.becoming(apply(act, value.constant) if isinstance(act, _ELEMENTWISE) else unknown)

    def norm_across(self, path: str, norm: Any, value: Value) -> Value | None:
        """A norm over all channels, or over groups of them, which go whole."""
        kind = over_channels(norm)
        if value.flat:
            return None
        if kind is not None:
            if (value.axis, len(value.slots)) != (kind.axis, kind.width):
                return None
            self.ledger.late.append(value.slots)
            self.ledger.across[path] = Read(value.slots, value.constant, padded=True)
            return self.activated(norm, across(path, norm, kind, value))
        if not isinstance(norm, nn.GroupNorm) or not norm.affine or value.axis != 1:
            return None
        if norm.num_channels != len(value.slots):
            return None
        self.ledger.late.append(value.slots)
        self.ledger.norms[path] = value.slots
        every = value.slots.view(norm.num_groups, -1)
        self.ledger.joined.append((every[:, :1].expand_as(every), every))
        constant = value.constant if bool(value.constant.isnan().all()) else grouped(norm, value)
        return self.activated(norm, replace(value.becoming(constant), owner=None))

    def response(self, path: str, norm: Any, value: Value) -> Value | str:
        """A response norm: what is zero everywhere adds nothing to the mean, and becomes the norm's bias."""
        if (value.axis, len(value.slots), value.flat) != (norm.channel_dim, len(norm.weight), False):
            return f"{path} normalises another axis"
        self.ledger.responses[path] = Read(value.slots, value.constant, padded=True)
        bias = torch.zeros_like(value.constant) if norm.bias.is_meta else norm.bias.detach().cpu().double()
        return replace(value, constant=bias.masked_fill(value.constant != 0, torch.nan))

    def attention(self, path: str, module: Any, value: Value | None) -> Value | str:
        """Heads: one channel each, of all their query, key and value rows. What a head sends on is an average
        of its value rows over the tokens, so what is constant there stays constant."""
        qkv = self.layer(f"{self.ledger.names[path]}.qkv", value)
        if isinstance(qkv, str):
            return qkv
        rows = qkv.slots.view(3, module.num_heads, module.head_dim)
        first = rows[:1, :, :1]
        self.ledger.joined.append((first.expand_as(rows), rows))
        self.ledger.heads[path] = first.flatten()
        width = module.attn_dim
        return self.layer(
            f"{self.ledger.names[path]}.proj", Value(qkv.slots[-width:], qkv.constant[-width:], -1)
        )


def _unusual(module: nn.Module, repeated: bool) -> str | None:
    """Why a layer's rows and columns aren't those of one plain convolution or linear layer."""
    if repeated:
        return "runs more than once"
    return "is a transposed convolution" if isinstance(module, _ConvTransposeNd) else None
