"""Which way a sparse network runs: on the fastest path that there is for its structure, layer by layer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.accel.compact import compact, masked_copy
from dstbench.accel.fold import fold_norms, relus_in_place
from dstbench.api import Execution, LayerCall, Layout, Spec, StrategyError, Structure
from dstbench.core.engine.structures import EngineStructure, as_structure
from dstbench.core.network.eager import eagerly
from dstbench.core.network.inputs import Inputs, each_tensor, tensors
from dstbench.core.network.layers import maskable_layers
from dstbench.core.network.outputs import Comparison, compare
from dstbench.core.storage.condensed_layer import execute, gather, have_called, layer_call
from dstbench.core.storage.fastest import MASKED_DENSE, Measurements, choose, inputs_of

_TOLERANCE = 1e-3  # in float32: kernels add in another order


class Packed(nn.Module):
    """A layer at inference: an execution, with its weight as its kernel wants it. It takes what the layer takes."""

    def __init__(self, layer: nn.Linear | _ConvNd, call: LayerCall, execution: Execution) -> None:
        super().__init__()
        self.call, self.execution = call, execution
        with torch.no_grad():
            packed = execution.pack(gather(layer.weight.detach(), execution.positions))
        self.register_buffer("weight", packed)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        have_called(self)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output. Raises StrategyError for a shape that the layer doesn't take."""
        out: Tensor = self._run(input)
        return out

    @eagerly
    def _run(self, x: Tensor) -> Tensor:
        return execute(self.execution, self.call, x, self.get_buffer("weight"), self._buffers["bias"])

    def extra_repr(self) -> str:
        """The execution's path, for the module's repr."""
        return self.execution.path


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
    that was measured to be faster, and the path names what runs, with the number of layers. Both need
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
        fast, path = copy.deepcopy(self.fast), "compacted"
        if not self.structure.whole_rows:
            fast, paths = pack(fast, self.masks, self.structure, example_input, measured)
            path = describe(paths)
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


def pack(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    structure: EngineStructure,
    example_input: Inputs,
    measured: Measurements | None = None,
) -> tuple[nn.Module, dict[str, str]]:
    """Have the layers of a masked model in eval mode compute from their active weights, wherever that is faster.

    Every masked layer is measured on the input that ``example_input`` brings it. On a CPU
    images are taken to be channels_last, and so is the model: the fastest layout for what stays dense, and one
    that layers hand on to each other. Returns the model, or what takes its place if it is a layer itself, and how
    each masked layer runs.
    """
    if any(_is_image(tensor) for tensor in tensors(example_input)):
        model = model.to(memory_format=torch.channels_last)
        example_input = each_tensor(example_input, _channels_last)
    elif any(_lies_by_pixels(tensor) for tensor in tensors(example_input)):
        model = model.to(memory_format=torch.channels_last)  # as its input lies
    paths, layers = dict.fromkeys(masks, MASKED_DENSE), maskable_layers(model)
    measured = Measurements() if measured is None else measured
    inputs = inputs_of(
        model, {name: layers[name].module for name in masks if not layers[name].packed}, example_input
    )
    for name, x in inputs.items():
        layer = layers[name]
        call = layer_call(layer.module, layer.info, device=x.device, dtype=x.dtype, training=False)
        if call is None:
            continue
        choice = choose(layer.called, call, structure.accelerate(call, masks[name]), x, measured)
        paths[name] = choice.path
        if choice.execution is not None:
            fast = Packed(layer.called, call, choice.execution)
            if layer.module is model:
                return fast, paths
            model.set_submodule(name, fast)
    return model, paths


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
