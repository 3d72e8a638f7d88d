"""A layer that stores and trains its active weights only, and computes with an execution of its structure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import grad
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dstbench.api import Execution, LayerCall, LayerInfo, StrategyError
from dstbench.core.network.eager import eagerly

_FORWARDS = [kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)]


class CondensedLayer(nn.Module):
    """Stands in for a convolution or linear layer. Its parameter ``weight`` has the shape of the execution's
    positions; its ``state_dict`` is the layer's own, a dense weight with zeros, and either form loads it.
    """

    def __init__(self, layer: nn.Linear | _ConvNd, call: LayerCall, execution: Execution) -> None:
        super().__init__()
        self.call, self.shape = call, call.info.shape
        self.execution = execution
        self.collecting = False  # whether backward passes add to ``dense_gradient``
        self.dense_gradient: Tensor | None = None  # float [*w]
        self.loaded: Tensor | None = (
            None  # float [*w]: a checkpoint's weights, of another mask than this one's
        )
        stored = gather(layer.weight.detach(), execution.positions)
        self.weight = nn.Parameter(stored, requires_grad=layer.weight.requires_grad)
        self.bias = layer.bias
        have_called(self)
        self.train(layer.training)

    @eagerly
    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, for all that the layer itself takes: no batch, or an empty one, too.

        Raises StrategyError for another shape, and where weights of another mask were loaded without that mask.
        """
        if self.loaded is not None:
            name = self.call.info.name
            raise StrategyError(
                f"layer {name!r}: the weights loaded are of another mask; load the Sparsifier's state, too, or "
                "keep its present mask by enforce()"
            )
        x, values = input, cast(Tensor, self.weight)
        bias: Tensor | None = self.bias
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, values = x.to(dtype), values.to(dtype)
            bias = bias if bias is None else bias.to(dtype)
            with torch.autocast(x.device.type, enabled=False):
                out = execute(self.execution, self.call, x, self.execution.pack(values), bias)
        else:
            out = execute(self.execution, self.call, x, self.execution.pack(values), bias)
        if self.collecting and out.requires_grad:
            out.register_hook(partial(self._collect, x.detach()))  # type: ignore[no-untyped-call]
        return out

    def logical(self) -> Tensor:
        """The dense weight, with zeros: float [*w]."""
        return scatter(self.weight.detach(), self.execution.positions, self.shape)

    def extra_repr(self) -> str:
        """What it stands for."""
        return f"{'x'.join(map(str, self.shape))}, {self.execution.path}"

    @torch.no_grad()
    def _collect(self, x: Tensor, gradient: Tensor) -> None:
        """Add to the dense gradient, or start anew where the weight's own gradient was cleared."""
        dense = weight_gradient(self.call, x, gradient).to(self.weight.dtype)
        if self.dense_gradient is not None and self.weight.grad is not None and self.weight.grad.any():
            dense += self.dense_gradient
        self.dense_gradient = dense

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CondensedLayer:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight.device != self.execution.positions.device:
            raise StrategyError(
                f"layer {self.call.info.name!r} was condensed on {self.execution.positions.device} and can't move to "
                f"{self.weight.device}: move the model first, then condense it"
            )
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.logical()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key = f"{prefix}weight"
        dense = state_dict.get(key)
        if isinstance(dense, Tensor) and tuple(dense.shape) == self.shape:
            held = gather(dense.to(self.weight.device), self.execution.positions)
            outside = int(held.count_nonzero()) < int(dense.count_nonzero())
            state_dict[key], self.loaded = held, dense.to(self.weight, copy=True) if outside else None
        super()._load_from_state_dict(state_dict, prefix, *args)
        if dense is not None:
            state_dict[key] = dense


def have_called(module: nn.Module) -> None:
    """Have a layer that stores another weight than it stands for be called: torch's transformer encoder reads its
    layers' weights itself, unless one has a hook."""
    module.register_forward_pre_hook(_nothing)


def _nothing(*_: object) -> None:
    return None


def execute(execution: Execution, call: LayerCall, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """A layer's output from an execution, which only ever sees a batch that isn't empty.

    x: [..., in] or [batch, in, *space], or [in, *space] of one sample, as PyTorch's own layers take it; or nested,
    as torch's transformer encoder drops padded tokens. Raises StrategyError for another shape or dtype.
    """
    if x.is_nested:
        samples = x.unbind()
        out = execute(execution, call, torch.cat(samples), packed, bias)
        return torch.nested.as_nested_tensor(list(torch.split(out, [len(sample) for sample in samples])))
    known = x.dim() > 1 and x.shape[-1] == call.info.shape[1] and x.dtype == packed.dtype and x.numel() > 0
    if known and not call.stride:  # the most common by far, and what follows costs as much as a small product
        return execution(x, packed, bias)
    batch = _batched(call, x)
    shape = _output_shape(call, x, batch)
    if x.dtype != packed.dtype:
        raise StrategyError(f"layer {call.info.name!r}: expected an input of {packed.dtype}, got {x.dtype}")
    if not batch.numel():
        # of the same graph, so that all gradients are zeros, as the layer's own are
        reached = [tensor for tensor in (batch, packed, bias) if tensor is not None and tensor.requires_grad]
        out = sum((tensor.sum() * 0 for tensor in reached), x.new_zeros(shape))
    else:
        out = execution(batch, packed, bias)
    return out if batch is x else out[0]


def _batched(call: LayerCall, x: Tensor) -> Tensor:
    """x, as a batch of one where it is a single sample."""
    dimensions = len(call.stride)
    return x[None] if x.dim() == (dimensions + 1 if dimensions else 1) else x


def _output_shape(call: LayerCall, x: Tensor, batch: Tensor) -> tuple[int, ...]:
    """Of a batch's output. Raises StrategyError where the layer itself couldn't make one."""
    out, inputs, *kernel = call.info.shape
    inputs *= call.groups
    if not call.stride:
        if not x.dim() or x.shape[-1] != inputs:
            raise _misshapen(call, f"[..., {inputs}]", x)
        return (*batch.shape[:-1], out)
    dimensions = len(call.stride)
    if batch.dim() != dimensions + 2 or batch.shape[1] != inputs:
        raise _misshapen(call, f"[batch, {', '.join([str(inputs), *['*'] * dimensions])}]", x)
    sizes = zip(batch.shape[2:], call.padding, call.dilation, kernel, call.stride, strict=True)
    space = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes]
    if min(space) < 1 or 0 in batch.shape[2:]:
        raise _misshapen(call, f"no smaller than the kernel, {'x'.join(map(str, kernel))}", x)
    return (len(batch), out, *space)


def _misshapen(call: LayerCall, expected: str, x: Tensor) -> StrategyError:
    return StrategyError(f"layer {call.info.name!r}: expected an input {expected}, got {list(x.shape)}")


def is_condensed(model: nn.Module) -> bool:
    """Whether any layer of a model is."""
    return any(isinstance(module, CondensedLayer) for module in model.modules())


def expanded(model: nn.Module) -> nn.Module:
    """A copy in which every condensed layer is the dense layer that it stands for."""
    copied = copy.deepcopy(model)
    if isinstance(copied, CondensedLayer):
        return _dense(copied)
    for path, module in list(copied.named_modules()):
        if isinstance(module, CondensedLayer):
            copied.set_submodule(path, _dense(module))
    return copied


def _dense(module: CondensedLayer) -> nn.Linear | _ConvNd:
    """The layer that a condensed one stands for."""
    call, weight = module.call, module.logical()
    out, inputs, *kernel = call.info.shape
    bias, inputs = module.bias is not None, inputs * call.groups
    if call.stride:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1]
        geometry = (call.stride, call.padding, call.dilation, call.groups)
        layer: nn.Linear | _ConvNd = kind(inputs, out, tuple(kernel), *geometry, bias, device="meta")  # type: ignore[arg-type]
    else:
        layer = nn.Linear(inputs, out, bias, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
    layer.bias = module.bias
    return layer.train(module.training)


def gather(dense: Tensor, positions: Tensor) -> Tensor:
    """The entries of a tensor [*w] at ``positions``, 0 where that is -1: [*positions]."""
    taken = dense.flatten()[positions.clamp(min=0)]
    return taken.masked_fill_(positions < 0, 0)


def scatter(values: Tensor, positions: Tensor, shape: tuple[int, ...], absent: float = 0.0) -> Tensor:
    """A tensor [*w] with ``values`` at ``positions`` and ``absent`` elsewhere."""
    flat = values.new_full((torch.Size(shape).numel() + 1,), absent)  # the last takes what stands at -1
    flat[positions.flatten()] = values.flatten()
    return flat[:-1].view(shape)


def layer_call(
    layer: nn.Module, info: LayerInfo, *, device: torch.device, dtype: torch.dtype, training: bool
) -> LayerCall | None:
    """What a layer computes, or None where no execution could: a forward of its own, such as timm's standardised
    convolutions have, transposed, padded with anything but a number of zeros."""
    if type(layer).forward not in _FORWARDS:
        return None
    if isinstance(layer, nn.Linear):
        return LayerCall(info, device=device, dtype=dtype, training=training)
    if not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd):
        return None
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    return LayerCall(
        info,
        tuple(layer.stride),
        tuple(layer.padding),
        tuple(layer.dilation),
        layer.groups,
        device,
        dtype,
        training,
    )


def weight_gradient(call: LayerCall, x: Tensor, gradient: Tensor) -> Tensor:
    """The dense gradient of the weight, float [*w], from a layer's input and its output's gradient."""
    x, gradient = _batched(call, x), _batched(call, gradient)
    if not call.stride:
        return gradient.flatten(0, -2).T @ x.flatten(0, -2)
    compute = (grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight)[len(call.stride) - 1]
    dense: Tensor = compute(  # type: ignore[no-untyped-call]
        x, call.info.shape, gradient, call.stride, call.padding, call.dilation, call.groups
    )
    return dense
