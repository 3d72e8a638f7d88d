"""What each layer of a network costs at one input."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.core.cost.conventions import Convention
from dstbench.core.cost.operators import Observed, Product, observe
from dstbench.core.network.inputs import Inputs, arguments, call, described, each_tensor, tensors, zero_input
from dstbench.core.network.layers import Layer, clean_names, maskable_layers, unwrap
from dstbench.core.network.outputs import evaluating
from dstbench.core.storage.condensed_layer import expanded, is_condensed
from dstbench.errors import BadInput


@dataclass(frozen=True)
class LayerCost:
    """One weight at one input, over all the products that read it."""

    macs: int  # dense multiply-accumulates for one sample
    outputs: int  # output elements for one sample
    weights: int
    rows: int  # output channels: each is charged one 32-bit bias
    # Of a stem, which is a first convolution with a stride and padding: its output elements if it were a "same"
    # convolution over the padded input, so ceil((size + 2 padding) / stride) a side: 115² for ResNet's 112².
    padded_outputs: int | None = None

    def counts(self, rule: Convention) -> tuple[int, int]:
        """Dense multiply-accumulates and output elements, as a convention sees them."""
        if not rule.padded_stem or self.padded_outputs is None:
            return self.macs, self.outputs
        return self.macs * self.padded_outputs // self.outputs, self.padded_outputs


@dataclass(frozen=True)
class Workload:
    """The products of one forward pass."""

    layers: Mapping[str, LayerCost]  # every maskable layer, in definition order
    others: Mapping[str, LayerCost]  # other weights that were multiplied with, by their parameter's name
    products: Mapping[
        str, int
    ]  # operator -> multiply-accumulates where neither side is a weight: attention's
    unused: tuple[str, ...]  # layers that this input didn't reach: they cost nothing

    @property
    def costs(self) -> dict[str, LayerCost]:
        """Of all weights."""
        return {**self.layers, **self.others}


def layer_costs(
    model: nn.Module, input_shape: Sequence[int] = (3, 32, 32), *, example_input: Inputs | None = None
) -> dict[str, LayerCost]:
    """The costs of all weights that a forward pass multiplies with: see ``workload``."""
    return workload(model, input_shape, example_input=example_input).costs


def workload(
    model: nn.Module, input_shape: Sequence[int] = (3, 32, 32), *, example_input: Inputs | None = None
) -> Workload:
    """Run one zero sample [1, *input_shape], or ``example_input``, and count each product by the weight it reads,
    whoever calls it: layers, functions, attention, recurrent layers, compiled code. Twice read is charged twice.

    A layer that isn't reached is named in a warning. Raises BadInput if the model can't take that input, and if a
    layer runs whose product isn't seen, as in a custom operator without a formula.
    """
    model = unwrap(model)
    model = expanded(model) if is_condensed(model) else model
    layers = maskable_layers(model)
    if example_input is None:
        inputs: Inputs = zero_input(model, input_shape)
        said = f"input_shape: {type(model).__name__} can't take {tuple(input_shape)} (see example_input)"
    else:
        arguments(example_input)
        inputs = _beside(model, example_input)
        said = f"example_input: {type(model).__name__} can't take {described(inputs)}"
    (parameters, buffers), called = _weights(model, layers), set[str]()
    handles = [
        layer.module.register_forward_hook(partial(_note, called, name)) for name, layer in layers.items()
    ]
    try:
        with torch.no_grad(), evaluating(model), observe(parameters, buffers, tensors(inputs)) as seen:
            call(model, inputs)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
        AssertionError,
    ) as error:  # models check as they like
        raise BadInput(f"{said}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return _workload(type(model).__name__, layers, parameters | buffers, seen, called)


def _workload(
    model: str, layers: Mapping[str, Layer], weights: Mapping[str, Tensor], seen: Observed, called: set[str]
) -> Workload:
    read: dict[str, list[Product]] = {name: [] for name in layers}
    between: Counter[str] = Counter()
    for product in seen.products:
        if product.weight is None:
            between[product.operator] += product.macs
        else:
            read.setdefault(product.weight, []).append(product)
    _check_seen(read, seen.opaque, called)
    unused = tuple(name for name in layers if not read[name])
    if unused:
        warnings.warn(
            f"{model}: this input doesn't reach {_listed(unused)}: counted as nothing", stacklevel=4
        )
    stem = next((product for product in seen.products if _is_convolution(layers, product)), None)
    counted = {}
    for name, products in read.items():
        macs, outputs = sum(p.macs for p in products), sum(p.outputs for p in products)
        if name not in layers:
            weight = weights.get(name)
            size, rows = (weight.numel(), len(weight)) if weight is not None and weight.dim() else (0, 0)
            counted[name] = LayerCost(macs, outputs, size, rows)
            continue
        layer = layers[name]
        rows = int(getattr(layer.module, "out_channels", layer.info.shape[0]))
        padded = _padded_outputs(layer.module, stem) if stem and products == [stem] else None
        counted[name] = LayerCost(macs, outputs, layer.info.numel, rows, padded)
    others = {name: cost for name, cost in counted.items() if name not in layers}
    return Workload({name: counted[name] for name in layers}, others, dict(between), unused)


def _check_seen(
    read: Mapping[str, Sequence[Product]], opaque: Mapping[str, str], called: Iterable[str]
) -> None:
    for name, operator in opaque.items():
        if not read.get(name):
            raise BadInput(
                f"{name!r} is read by the operator {operator}, whose cost isn't known: give its formula with "
                "torch.utils.flop_counter.register_flop_formula"
            )
    lost = [name for name in called if not read[name]]
    if lost:
        raise BadInput(
            f"{_listed(lost)}: the layer ran, but no product with its weight was seen; if that is in a kernel of its "
            "own, make it an operator (torch.library.custom_op) with a formula "
            "(torch.utils.flop_counter.register_flop_formula)"
        )


def _note(called: set[str], name: str, *_: object) -> None:
    called.add(name)


def _beside(model: nn.Module, example_input: Inputs) -> Inputs:
    """The example on the model's device: what is counted depends on shapes alone."""
    parameter = next(model.parameters(), None)
    return (
        example_input if parameter is None else each_tensor(example_input, lambda x: x.to(parameter.device))
    )


def _weights(model: nn.Module, layers: Mapping[str, Layer]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, layers' weights first, and buffers: each tensor under one name."""
    parameters: dict[str, Tensor] = {name: layer.weight for name, layer in layers.items()}
    known, names = {id(weight) for weight in parameters.values()}, clean_names(model)
    for path, parameter in sorted(model.named_parameters(), key=lambda named: -named[1].numel()):
        if id(parameter) not in known:
            path = _clean(path, names)
            name = _weight_name(path)
            parameters[path if name in parameters else name] = parameter
    buffers = {_weight_name(_clean(path, names)): buffer for path, buffer in model.named_buffers()}
    return parameters, {name: buffer for name, buffer in buffers.items() if name not in parameters}


def _clean(path: str, names: Mapping[str, str]) -> str:
    """A tensor's path without what wrappers put into it. names: of the modules, as ``clean_names`` gives them."""
    module, dot, own = path.rpartition(".")
    return f"{names[module]}.{own}" if dot else own


def _weight_name(path: str) -> str:
    """``fc`` of ``fc.weight`` and ``fc.parametrizations.weight.original1``; other tensors by their own path."""
    path = re.sub(r"parametrizations\.(\w+)\.original\d*$", r"\1", path)
    return path.removesuffix(".weight")


def _is_convolution(layers: Mapping[str, Layer], product: Product) -> bool:
    layer = layers.get(product.weight or "")
    return layer is not None and isinstance(layer.module, _ConvNd)


def _padded_outputs(conv: nn.Module, product: Product) -> int | None:
    """Output elements of a stem as a "same" convolution over its padded input; None for any other layer."""
    if not isinstance(conv, _ConvNd) or conv.transposed or isinstance(conv.padding, str):
        return None
    if max(conv.stride) == 1 or max(conv.padding) == 0:
        return None
    padding = conv.padding if conv.padding_mode == "zeros" else [0] * len(conv.padding)  # the input has it
    sides = zip(product.input_shape[-len(conv.stride) :], padding, conv.stride, strict=True)
    positions = prod(ceil((size + 2 * around) / stride) for size, around, stride in sides)
    return product.outputs // prod(product.output_shape[-len(conv.stride) :]) * positions


def _listed(names: Iterable[str], most: int = 5) -> str:
    named = [repr(name) for name in names]
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return f"{', '.join(named[:most])}{more}"
