"""What passes through layers: sums over their inputs and over the gradients of their outputs, collected by hooks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional, grad
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dstbench.api import Signal
from dstbench.api.accumulators import Folding, products
from dstbench.core import ranks
from dstbench.core.engine.random import generator
from dstbench.core.network.layers import Layer
from dstbench.errors import BadInput

Sums = dict[str, dict[str, Tensor]]  # accumulator's name -> layer name -> float32

_GRADS = (grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight)


class Activity:
    """Hooks on layers while someone wants sums: Σ entry(x) of each input column over samples and places, and
    Σ entry(∂L/∂y) of each output row. Forward passes without gradients, as evaluations are, don't count."""

    def __init__(self, layers: Mapping[str, Layer], model: nn.Module, seed: int) -> None:
        self._layers, self._model, self._seed = layers, model, seed
        self._foldings: dict[str, Folding] = {}  # those that are collected for
        self._handles: list[Any] = []
        self._step, self._calls = 0, dict[str, int]()
        self._inside = False  # a pass of our own
        self._random: list[Tensor] = []  # states of generators before attention
        self.sums: Sums = {}

    def watch(self, foldings: Mapping[str, Folding], step: int) -> None:
        """Collect for these accumulators from now on, in a step's forward and backward passes; for none: unhook.

        Raises BadInput for a layer whose inputs nobody can see."""
        wanted = {name: folding for name, folding in foldings.items() if folding.entry is not None}
        if wanted.keys() != self._foldings.keys():
            self.stop()
            self._foldings = wanted
            if wanted:
                self._hook()
        self._step = step
        self.forget()

    def stop(self) -> None:
        """Leave the layers alone."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._foldings = [], {}

    def forget(self) -> None:
        """Begin anew."""
        self.sums, self._calls = {name: {} for name in self._foldings}, {}

    def everywhere(self, name: str, layers: Collection[str], device: torch.device) -> dict[str, Tensor]:
        """An accumulator's sums over all ranks, of the layers that all of them have."""
        held = self.sums.get(name, {})
        flags = ranks.everywhere([layer in held for layer in layers], device)
        return {
            layer: ranks.add_up(held[layer].clone()) for layer, has in zip(layers, flags, strict=True) if has
        }

    def _hook(self) -> None:
        holders: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in self._model.modules():
            for field, weight in module._parameters.items():
                holders.setdefault(id(weight), []).append((module, field))
        for name, layer in self._layers.items():
            if not self._wanted(name):
                continue
            for module, field in holders.get(id(layer.weight), [(layer.module, layer.field)]):
                self._attach(name, module, field)

    def _wanted(self, name: str) -> dict[str, Folding]:
        """The accumulators that someone reads of a layer."""
        info = self._layers[name].info
        return {key: folding for key, folding in self._foldings.items() if folding.fits(info)}

    def _attach(self, name: str, module: nn.Module, field: str) -> None:
        if not isinstance(module, nn.Linear) and any(f.pairs for f in self._wanted(name).values()):
            raise BadInput(
                f"layer {name!r}: pairs of inputs are those of linear layers, not {type(module).__name__}"
            )
        if isinstance(module, nn.MultiheadAttention):
            hook = partial(self._attention, name, field)
        elif isinstance(module, _ConvTransposeNd):
            raise BadInput(
                f"layer {name!r}: sums over the inputs of a transposed convolution aren't supported"
            )
        elif isinstance(module, nn.Linear | _ConvNd):
            owner = self._attention_of(module)
            if owner is not None:  # called with its weights by the attention that holds it
                self._handles += [
                    owner.register_forward_pre_hook(self._before),
                    owner.register_forward_hook(partial(self._projection, name, module), with_kwargs=True),
                ]
                return
            hook = partial(self._called, name)
        else:
            raise BadInput(f"layer {name!r}: nobody can see what {type(module).__name__} multiplies it with")
        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def _attention_of(self, module: nn.Module) -> nn.MultiheadAttention | None:
        every = (m for m in self._model.modules() if isinstance(m, nn.MultiheadAttention))
        return next((m for m in every if m.out_proj is module), None)

    def _called(self, name: str, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled() and not self._inside:
            self._see(name, module, args[0] if args else kwargs["input"], output)

    def _attention(self, name: str, field: str, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        """The projections that attention packs: queries, keys and values are their inputs."""
        if not torch.is_grad_enabled() or self._inside:
            return
        given = [kwargs[key] if key in kwargs else args[i] for i, key in enumerate(("query", "key", "value"))]
        index = {"q_proj_weight": 0, "k_proj_weight": 1, "v_proj_weight": 2}
        chosen = given if field == "in_proj_weight" else [given[index[field]]]
        self._refuse_gradients(name)
        for key, folding in self._wanted(name).items():
            parts = [
                self._columns(folding, functional.linear, x, self._places(name, x.shape[:-1], folding, x))
                for x in chosen
            ]
            rows = len(self._layers[name].weight) // len(parts)
            whole = torch.cat([part.expand(rows, -1) for part in parts]) if len(parts) > 1 else parts[0]
            self._add(key, name, whole)
        self._calls[name] = self._calls.get(name, 0) + 1

    def _projection(
        self, name: str, projection: Any, module: Any, args: Any, kwargs: Any, output: Any
    ) -> None:
        """Attention's output projection, whose input no hook sees: the same attention again, projecting by 1."""
        if not torch.is_grad_enabled() or self._inside:
            return
        self._refuse_gradients(name)
        weight = projection.weight
        plain = {"out_proj.weight": torch.eye(len(weight), dtype=weight.dtype, device=weight.device)}
        if projection.bias is not None:
            plain["out_proj.bias"] = torch.zeros_like(projection.bias)
        self._inside = True
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=self._devices(weight)):
                self._replay(weight)
                x = functional_call(module, plain, args, kwargs)[0]
        finally:
            self._inside = False
        for key, folding in self._wanted(name).items():
            places = self._places(name, x.shape[:-1], folding, x)
            self._add(key, name, self._columns(folding, functional.linear, x, places))
        self._calls[name] = self._calls.get(name, 0) + 1

    def _before(self, module: nn.MultiheadAttention, args: Any) -> None:
        """Remember the random numbers that attention is about to draw, for its dropout."""
        if torch.is_grad_enabled() and not self._inside and module.training and module.dropout:
            device = next(module.parameters()).device
            self._random = [torch.get_rng_state()]
            self._random += [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []

    def _devices(self, weight: Tensor) -> list[torch.device]:
        return [weight.device] if weight.device.type == "cuda" else []

    def _replay(self, weight: Tensor) -> None:
        if self._random:
            torch.set_rng_state(self._random[0])
            if len(self._random) > 1:
                torch.cuda.set_rng_state(self._random[1], weight.device)
            self._random = []

    def _refuse_gradients(self, name: str) -> None:
        if any(Signal.OUTPUT_GRADIENTS in folding.needs for folding in self._foldings.values()):
            raise BadInput(f"layer {name!r}: nobody can see its output's gradients inside torch's attention")

    def _see(self, name: str, module: Any, x: Tensor, output: Tensor) -> None:
        linear = isinstance(module, nn.Linear)
        batched = linear or x.dim() == len(module.kernel_size) + 2
        shape = output.shape[:-1] if linear else (output if batched else output[None])[:, :1].shape
        for key, folding in self._wanted(name).items():
            places = self._places(name, shape, folding, x)
            if Signal.INPUTS in folding.needs:
                self._add(key, name, self._columns(folding, module, x.detach(), places))
            elif output.requires_grad:
                output.register_hook(partial(self._rows, key, name, folding, places, linear))  # type: ignore[no-untyped-call]
        self._calls[name] = self._calls.get(name, 0) + 1

    def _places(self, name: str, shape: Any, folding: Folding, like: Tensor) -> Tensor | None:
        """A random sign for each sample and place, float32 of that shape; None where all count alike."""
        if not folding.signed:
            return None
        draw = generator(self._seed, name, self._step, f"signs {self._calls.get(name, 0)}")
        first, *rest = (*shape, 1)[: max(1, len(shape))]
        everyone = torch.randint(
            2, (ranks.world() * first, *rest), generator=draw
        )  # as one process would draw
        mine = everyone[ranks.rank() * first :][:first].float() * 2 - 1
        return mine.view(tuple(shape)).to(like.device)

    @torch.no_grad()
    def _columns(self, folding: Folding, module: Any, x: Tensor, places: Tensor | None) -> Tensor:
        """Σ places · entry(x) of each column: float32 [1, in], or [1 or out, in / groups, *kernel].

        Of pairs [out, in]."""
        assert folding.entry is not None
        device = x.device.type
        with torch.autocast(device, enabled=False):
            values = folding.entry(x.detach().float())
            if not isinstance(module, _ConvNd):
                flat = values.reshape(-1, values.shape[-1])
                if folding.pairs:
                    return products(flat, module.out_features)
                return (flat.sum(0) if places is None else places.reshape(-1) @ flat)[None]
            return _unfolded(module, values, places)

    @torch.no_grad()
    def _rows(
        self, key: str, name: str, folding: Folding, places: Tensor | None, linear: bool, gradient: Tensor
    ) -> None:
        """Add Σ places · entry(∂L/∂y) of each row: float32 [out, 1, …]."""
        assert folding.entry is not None
        if key not in self._foldings:  # a backward pass behind the step that it was for
            return
        values = folding.entry(gradient.detach().float())
        if linear:
            flat = values.reshape(-1, values.shape[-1])
            sums = flat.sum(0) if places is None else places.reshape(-1) @ flat
        else:
            space = self._layers[name].weight.dim() - 2
            values = values if values.dim() == space + 2 else values[None]
            sums = (values if places is None else values * places).transpose(0, 1).flatten(1).sum(1)
        self._add(key, name, sums.view(-1, *[1] * (self._layers[name].weight.dim() - 1)))

    def _add(self, key: str, name: str, sums: Tensor) -> None:
        held = self.sums[key].get(name)
        self.sums[key][name] = sums if held is None else held + sums


def _unfolded(module: _ConvNd, values: Tensor, places: Tensor | None) -> Tensor:
    """Sums over the columns that ``unfold`` would make, without making them: a convolution's weight gradient where
    the output's gradient is ``places``, [batch, 1, *space], or one everywhere."""
    dimensions = len(module.kernel_size)
    values = values if values.dim() == dimensions + 2 else values[None]
    pads = module._reversed_padding_repeated_twice
    values = functional.pad(
        values, pads, mode="constant" if module.padding_mode == "zeros" else module.padding_mode
    )
    if places is None:
        values = values.sum(0, keepdim=True)
        sizes = zip(values.shape[2:], module.dilation, module.kernel_size, module.stride, strict=True)
        space = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in sizes]
        places = values.new_ones(1, 1, *space)
    shape = (1, module.in_channels, *module.kernel_size)
    sums: Tensor = _GRADS[dimensions - 1](  # type: ignore[no-untyped-call]
        values, shape, places, stride=module.stride, padding=0, dilation=module.dilation
    )
    if module.groups == 1:
        return sums
    grouped = sums.view(module.groups, module.in_channels // module.groups, *module.kernel_size)
    return grouped.repeat_interleave(module.out_channels // module.groups, 0)
