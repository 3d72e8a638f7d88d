"""Which way one layer runs: the fastest execution that its structure offers, or masked dense, as measured."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from dstbench.api import Execution, LayerCall
from dstbench.core.network.inputs import Inputs, arguments
from dstbench.core.network.outputs import evaluating
from dstbench.core.storage.condensed_layer import CondensedLayer
from dstbench.core.storage.timing import Call, time_interleaved

MASKED_DENSE = "masked-dense"
GAIN = 1.1
"""An execution must be this much faster than masked dense: less is within the noise of a measurement."""
GAIN_IN_CHAINS = 0.7
"""What may pay where layers run together: none of them then reads and writes for itself."""
NETWORK_GAIN = 1.05
"""A network must be this much faster than masked dense, as a whole."""
_ROUNDS, _NETWORK_ROUNDS, _WARMUP = 5, 9, 2
_AUTOCAST = (torch.bfloat16, torch.float16)

Measurements = dict[tuple[Any, ...], float]
"""Speedups by all that a layer's time depends on. It belongs to whoever chooses for a whole model, so that layers
that are alike run alike."""


@dataclass(frozen=True)
class Choice:
    """How a layer runs, and how much faster than masked dense that was measured to be."""

    path: str
    speedup: float = 1.0
    execution: Execution | None = None  # None: masked dense
    call: LayerCall | None = None  # what it computes


def choose(
    layer: nn.Linear | _ConvNd,
    call: LayerCall,
    executions: Sequence[Execution],
    example: Tensor,
    measured: Measurements | None = None,
    gain: float = GAIN,
) -> Choice:
    """Time the executions against the layer itself on an input like ``example``; the fastest, if worth it.

    gain: how much faster it is to be at least. measured: what is known already; what is timed is added to it.
    """
    measured = {} if measured is None else measured
    best, fastest = Choice(MASKED_DENSE), 0.0
    for execution in executions:
        key = _key(call, execution, example)
        if key not in measured:
            measured[key] = speedup(layer, call, execution, example)
        if measured[key] >= gain and measured[key] > fastest:
            fastest = measured[key]
            best = Choice(execution.path, fastest, execution, call)
    return best


@torch.no_grad()
def inputs_of(model: nn.Module, modules: Mapping[str, nn.Module], example_input: Inputs) -> dict[str, Tensor]:
    """What each module sees of ``example_input`` in eval mode; only modules called once, with one tensor."""
    args, kwargs = arguments(example_input)
    seen: dict[str, list[tuple[object, ...]]] = {name: [] for name in modules}

    def listen(name: str) -> RemovableHandle:
        return modules[name].register_forward_pre_hook(lambda _, args: seen[name].append(args))

    handles = [listen(name) for name in modules]
    try:
        with evaluating(model):
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: calls[0][0]
        for name, calls in seen.items()
        if len(calls) == 1 and len(calls[0]) == 1 and isinstance(calls[0][0], Tensor)
    }


def speedup(
    layer: nn.Linear | _ConvNd, call: LayerCall, execution: Execution, example: Tensor, rounds: int = _ROUNDS
) -> float:
    """The median, over interleaved rounds, of the layer's own time over the execution's: > 1 = faster."""
    dense = copy.deepcopy(layer)
    fast = CondensedLayer(copy.deepcopy(layer), call, execution)
    mine, other = time_interleaved(
        [layer_pass(fast, call, example), layer_pass(dense, call, example)], rounds, _WARMUP
    )
    return statistics.median(d / m for m, d in zip(mine, other, strict=True))


def network_speedups(networks: Sequence[nn.Module], example_input: Inputs) -> list[float]:
    """How much faster than the first each network, in eval mode, infers such a batch: medians over interleaved
    rounds.
    """
    args, kwargs = arguments(example_input)

    def passes(network: nn.Module) -> Call:
        @torch.inference_mode()
        def run() -> object:
            return network(*args, **kwargs)

        return run

    calls = [passes(network) for network in networks]
    first, *others = time_interleaved(calls, _NETWORK_ROUNDS, _WARMUP)
    return [1.0, *(statistics.median(f / o for f, o in zip(first, other, strict=True)) for other in others)]


def layer_pass(module: nn.Module, call: LayerCall, example: Tensor) -> Call:
    """One forward pass on ``example``, and the backward pass where the layer trains, as a call to time."""
    x = example.detach().clone(memory_format=torch.preserve_format)
    with torch.autocast(call.device.type, call.dtype, enabled=call.dtype in _AUTOCAST), torch.no_grad():
        gradient = torch.ones_like(module(x))
    if call.training:
        x.requires_grad_()

    def run() -> None:
        with torch.autocast(call.device.type, call.dtype, enabled=call.dtype in _AUTOCAST):
            if not call.training:
                with torch.inference_mode():
                    module(x)
                return
            out = module(x)
        x.grad = None
        module.zero_grad()
        out.backward(gradient)

    return run


def _key(call: LayerCall, execution: Execution, example: Tensor) -> tuple[Any, ...]:
    stored = round(execution.positions.numel() / call.info.numel, 2)
    plain = replace(call.info, name="", classifier=False, first_conv=False, sees_input=False)
    unnamed = replace(call, info=plain)
    layout = tuple(example.shape), tuple(example.stride())
    return execution.path, unnamed, layout, stored, torch.get_num_threads()
