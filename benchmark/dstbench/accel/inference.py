"""Which way a sparse network runs: on the fastest path that there is for its structure, layer by layer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dstbench.accel.chains import fuse
from dstbench.accel.compact import compact, masked_copy
from dstbench.accel.fold import fold_norms, relus_in_place
from dstbench.accel.packed import Packed
from dstbench.api import Layout, Spec, StrategyError, Structure
from dstbench.core.engine.structures import EngineStructure, as_structure
from dstbench.core.network.inputs import Inputs, each_tensor, tensors
from dstbench.core.network.layers import maskable_layers
from dstbench.core.network.outputs import Comparison, compare
from dstbench.core.storage import fastest
from dstbench.core.storage.condensed_layer import layer_call
from dstbench.core.storage.fastest import (
    GAIN,
    GAIN_IN_CHAINS,
    MASKED_DENSE,
    NETWORK_GAIN,
    Choice,
    Measurements,
    choose,
    inputs_of,
)

_TOLERANCE = 1e-3  # in float32: kernels add in another order


def accelerate(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    structure: Spec | Layout | Structure,
    example_input: Inputs | None = None,
    *,
    measured: Measurements | None = None,
) -> nn.Module:
    """An inference copy of a masked model, with the path it runs on as its attribute ``execution_path``, and in
    ``check`` what was compared with the masked model, and how near it came.

    ``compacted`` where the structure kills whole rows; else batch norms are folded and layers condensed where
    that was measured to be faster, of the layer and of the whole network, and the path names what runs, with the
    number of layers; ``in chains`` are layers that run together with norms, activations and sums. All need
    ``example_input``, a tensor [batch, ...], a tuple of arguments or a dict of keyword arguments; without it a model
    runs ``masked-dense``, no faster than dense, and ``check`` is None. measured: speeds of layers that are known
    already, for several networks of one kind; what is timed is added. Raises StrategyError where any tensor of the
    outputs on it differs from the masked model's by more than its dtype explains.
    """
    if example_input is not None:
        return Groundwork.of(model, masks, structure, example_input).finish(example_input, measured)
    fast = masked_copy(model, masks).eval()
    fast.execution_path, fast.check = MASKED_DENSE, None  # type: ignore[assignment]
    return fast


@dataclass(frozen=True)
class Groundwork:
    """What inference copies of a masked model have in common, whatever batches they are made for."""

    masked: nn.Module  # what they are held against
    masks: Mapping[str, Tensor]
    structure: EngineStructure
    fast: nn.Module  # without dead channels, if the structure makes them; norms folded, ReLUs in place

    @classmethod
    def of(
        cls,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        structure: Spec | Layout | Structure,
        example_input: Inputs,
    ) -> Groundwork:
        """Lay it. The arguments are those of ``accelerate``, as are the errors."""
        built, masked = _built(structure), masked_copy(model, masks).eval()
        if built.whole_rows:
            return cls(masked, masks, built, fold_norms(compact(model, masks, example_input)))
        return cls(masked, masks, built, relus_in_place(fold_norms(copy.deepcopy(masked))))

    def finish(self, example_input: Inputs, measured: Measurements | None = None) -> nn.Module:
        """A copy for batches like this one, as ``accelerate`` returns it."""
        if self.structure.whole_rows:
            fast, path = copy.deepcopy(self.fast), "compacted"
        else:
            measured = Measurements() if measured is None else measured
            ways = _ways(copy.deepcopy(self.fast), self.masks, self.structure, example_input, measured)
            fast, path = _fastest(ways, example_input)
        check = _checked(fast, self.masked, example_input)
        fast.execution_path, fast.check = path, check  # type: ignore[assignment]
        return fast


def _checked(fast: nn.Module, masked: nn.Module, example_input: Inputs) -> Comparison:
    """Refuse a copy that computes something else."""
    check = compare(fast, masked, example_input, _TOLERANCE)
    if not check.ok:
        raise StrategyError(
            f"accelerate: outputs differ from the masked model's by {check.difference:.1e} of their size: {check}"
        )
    return check


def _ways(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    structure: EngineStructure,
    example_input: Inputs,
    measured: Measurements,
) -> list[tuple[nn.Module, str]]:
    """A masked model in eval mode, and what it can be instead: networks with their paths, masked dense the first.

    One computes every layer from its active weights that is faster so, measured on the input that ``example_input``
    brings it; one runs these in chains besides, and one all that may pay in a chain. On a CPU
    images are taken to be channels_last, and so is the model: the fastest layout for what stays dense, and one
    that layers hand on to each other.
    """
    if any(_is_image(tensor) for tensor in tensors(example_input)):
        model = model.to(memory_format=torch.channels_last)
        example_input = each_tensor(example_input, _channels_last)
    elif any(_lies_by_pixels(tensor) for tensor in tensors(example_input)):
        model = model.to(memory_format=torch.channels_last)  # as its input lies
    ways, before = [(model, MASKED_DENSE)], dict[str, str]()
    for gain in (GAIN, GAIN_IN_CHAINS):
        choices = _choices(model, masks, structure, example_input, measured, gain)
        paths = {name: choice.path for name, choice in choices.items()}
        if paths == before or not any(choice.execution for choice in choices.values()):
            continue
        packed, before = _packed(model, choices), paths
        chained = _in_chains(packed, paths, example_input)
        ways += [(packed, describe(paths))] if gain == GAIN else []
        ways += [] if chained is None else [chained]
    return ways


def _choices(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    structure: EngineStructure,
    example_input: Inputs,
    measured: Measurements,
    gain: float,
) -> dict[str, Choice]:
    """How each masked layer runs, by itself."""
    choices, layers = dict.fromkeys(masks, Choice(MASKED_DENSE)), maskable_layers(model)
    inputs = inputs_of(
        model, {name: layers[name].module for name in masks if not layers[name].packed}, example_input
    )
    for name, x in inputs.items():
        layer = layers[name]
        call = layer_call(layer.module, layer.info, device=x.device, dtype=x.dtype, training=False)
        if call is not None:
            offered = structure.accelerate(call, masks[name])
            choices[name] = choose(layer.called, call, offered, x, measured, gain)
    return choices


def _packed(model: nn.Module, choices: Mapping[str, Choice]) -> nn.Module:
    """A copy of a model with these executions, or what takes its place if it is a layer itself."""
    model = copy.deepcopy(model)
    layers = maskable_layers(model)
    for name, choice in choices.items():
        if choice.execution is not None and choice.call is not None:
            fast = Packed(layers[name].called, choice.call, choice.execution)
            if layers[name].module is model:
                return fast
            model.set_submodule(name, fast)
    return model


def _in_chains(
    packed: nn.Module, paths: Mapping[str, str], example_input: Inputs
) -> tuple[nn.Module, str] | None:
    """A copy whose layers run in chains, and its path; None where there are none, or where their network turns out
    to be another: a graph can't tell what changes in place, nor what else reads a module.
    """
    try:
        fused, chained = fuse(copy.deepcopy(packed))
        layers = [layer.call.info.name for layer in chained]
        if not layers or not compare(fused, packed, example_input, _TOLERANCE).ok:
            return None
    except Exception:  # of the model's own code, which meets other modules than it was written for
        return None
    return fused, describe({**paths, **{name: f"{paths[name]}, in chains" for name in layers}})


def _fastest(ways: Sequence[tuple[nn.Module, str]], example_input: Inputs) -> tuple[nn.Module, str]:
    """What is fastest as a whole: layers that gain may lose more by what they do to the others."""
    if len(ways) == 1:
        return ways[0]
    speedups = fastest.network_speedups([network for network, _ in ways], example_input)
    best = max(range(len(ways)), key=lambda index: speedups[index])
    return ways[best] if speedups[best] >= NETWORK_GAIN else ways[0]


def _is_image(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.device.type == "cpu"


def _lies_by_pixels(tensor: Tensor) -> bool:
    by_pixels = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return by_pixels and not tensor.is_contiguous()


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if _is_image(tensor) else tensor


def describe(paths: Mapping[str, str]) -> str:
    """What ran, from each layer's path: the most frequent first, with the number of layers where they differ."""
    count = Counter(paths.values()) or Counter([MASKED_DENSE])
    if len(count) == 1:
        return next(iter(count))
    return "; ".join(f"{path} ({layers})" for path, layers in count.most_common())


def _built(structure: Spec | Layout | Structure) -> EngineStructure:
    if isinstance(structure, str | Mapping):
        from dstbench.registration.registry import registry

        return as_structure(registry().build("structure", structure))
    return as_structure(structure)
