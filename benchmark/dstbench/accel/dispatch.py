"""Which way a sparse network runs: on the fastest path that there is for its structure, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.accel.compact import compact, masked_copy
from dstbench.accel.fold import fold_norms, relus_in_place
from dstbench.api import Execution, Layout, Spec, Structure
from dstbench.core.condensed import Condensed, layer_call
from dstbench.core.condensed import condense as condensed_values
from dstbench.core.dispatch import MASKED_DENSE, Choice, choose
from dstbench.core.layers import maskable_layers
from dstbench.core.rows import whole_rows


class Packed(nn.Module):
    """A layer at inference: an execution, with its weight as its kernel wants it."""

    def __init__(self, layer: nn.Linear | _ConvNd, execution: Execution) -> None:
        super().__init__()
        self.execution = execution
        with torch.no_grad():
            packed = execution.pack(condensed_values(layer.weight.detach(), execution.positions))
        self.register_buffer("weight", packed)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        out: Tensor = self._run(x)
        return out

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def _run(self, x: Tensor) -> Tensor:
        return self.execution(x, self.get_buffer("weight"), self._buffers["bias"])

    def extra_repr(self) -> str:
        """What runs."""
        return self.execution.path


def accelerate(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    structure: Spec | Layout | Structure,
    example_input: Tensor | None = None,
) -> nn.Module:
    """An inference copy of a masked model, with the path it runs on as its attribute ``execution_path``.

    ``compacted`` where the structure kills whole rows; else batch norms are folded and layers condensed where
    that was measured to be faster, and the path names what runs, with the number of layers. Both need
    ``example_input``, float [batch, ...]; without it a model runs ``masked-dense``, no faster than dense.
    """
    structure = _built(structure)
    if example_input is None:
        fast, path = masked_copy(model, masks).eval(), MASKED_DENSE
    elif whole_rows(structure):
        fast, path = fold_norms(compact(model, masks, example_input)), "compacted"
    else:
        folded = fold_norms(masked_copy(model, masks))
        fast, choices = condense(folded, masks, structure, example_input, training=False)
        path = describe(choices)
    fast.execution_path = path  # type: ignore[assignment]
    return fast


def condense(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    structure: Spec | Layout | Structure,
    example_input: Tensor,
    *,
    training: bool = True,
) -> tuple[nn.Module, dict[str, Choice]]:
    """A masked copy whose layers store and compute their active weights alone wherever that is faster.

    Every masked layer is measured on the input that ``example_input``, float [batch, ...], brings it. On a CPU
    images are taken to be channels_last, and so is the copy: the fastest layout for what stays dense, and one
    that layers hand on to each other. ReLUs work in place where nothing else reads their input. Also returns
    how each masked layer runs, by name.
    """
    structure = _built(structure)
    copied = relus_in_place(masked_copy(model, masks).train(training))
    if example_input.dim() == 4 and example_input.device.type == "cpu":
        copied = copied.to(memory_format=torch.channels_last)
        example_input = example_input.contiguous(memory_format=torch.channels_last)
    offer = getattr(structure, "accelerate", None)
    choices = {name: Choice(MASKED_DENSE) for name in masks}
    if offer is None:
        return copied, choices
    layers = maskable_layers(copied)
    for name, x in _inputs(copied, masks, example_input).items():
        layer = layers[name].module
        assert isinstance(layer, nn.Linear | _ConvNd)
        call = layer_call(layer, layers[name].info, device=x.device, dtype=x.dtype, training=training)
        if call is None:
            continue
        choices[name] = choice = choose(layer, call, offer(call, masks[name]), x)
        if choice.execution is not None:
            fast = Condensed(layer, call, choice.execution) if training else Packed(layer, choice.execution)
            if layer is copied:
                return fast, choices
            copied.set_submodule(name, fast)
    return copied, choices


def describe(choices: Mapping[str, Choice]) -> str:
    """What ran: the paths, the most frequent first, with the number of layers of each where they differ."""
    count = Counter(choice.path for choice in choices.values())
    if len(count) == 1:
        return next(iter(count))
    return "; ".join(f"{path} ({layers})" for path, layers in count.most_common())


def _built(structure: Spec | Layout | Structure) -> Layout | Structure:
    if isinstance(structure, str | Mapping):
        from dstbench.registration.registry import registry

        built: Layout | Structure = registry().build("structure", structure)
        return built
    return structure


def _inputs(model: nn.Module, names: Mapping[str, Any], example_input: Tensor) -> dict[str, Tensor]:
    """What each named layer is given, the first time, in a forward pass that changes nothing."""
    found: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        found.setdefault(name, args[0])

    layers = maskable_layers(model)
    hooks = [layers[name].module.register_forward_pre_hook(partial(keep, name)) for name in names]
    training = model.training
    with torch.no_grad():
        model.eval()(example_input)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return found
