"""The storage ``condensed``: layers hold their active weights only, and run the fastest way measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from dstbench.api import Execution, LayerCall
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.layers import Layer
from dstbench.core.ranks import average, of_rank_0
from dstbench.core.storage.condensed_layer import CondensedLayer, gather, layer_call
from dstbench.core.storage.fastest import MASKED_DENSE, Measurements, choose, inputs_of
from dstbench.core.storage.stored import Stored, Weights
from dstbench.errors import BadInput, nearest

Masks = Mapping[str, Tensor]  # layer name -> bool [*w]
Offer = Callable[[LayerCall, Tensor], Sequence[Execution]]  # a structure's ``accelerate``


class CondensedArrangement:
    """Swaps layers for condensed ones, in a model and its optimizer, and has them follow the masks.

    A layer stays masked dense where its structure offers nothing faster, or where it is not one module of its own:
    the model itself, used under two names, tied to another's weight, listened to by hooks, or packed by attention.
    """

    rows: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Layer],
        offers: Mapping[str, Offer],
        weights: Weights,
    ) -> None:
        self._model, self._layers, self._offers, self._weights = model, layers, offers, weights
        self._places = _own_places(
            model, {name: layer.module for name, layer in layers.items() if not layer.packed}
        )
        self._condensed: dict[str, CondensedLayer] = {}
        self._ran = dict.fromkeys(layers, MASKED_DENSE)  # how each layer runs

    def stored(self) -> Iterable[Stored]:
        """The condensed layers' weights."""
        return [self._weights.stored[name] for name in self._condensed]

    @property
    def paths(self) -> Mapping[str, str]:
        """How each layer runs."""
        return self._ran

    def choose(self, masks: Masks, example_input: Inputs) -> None:
        """Condense each layer that has an execution measured to be faster than masked dense on such a batch."""
        modules = {name: self._layers[name].called for name in self._places}
        chosen, measured = dict(self._ran), Measurements()
        for name, example in inputs_of(self._model, modules, example_input).items():
            call = self._call(name)
            if call is not None:
                offered = self._offers[name](call, masks[name])
                chosen[name] = choose(modules[name], call, offered, example, measured).path
        self.adopt(of_rank_0(chosen), masks, {})

    def state(self) -> dict[str, str]:
        """How each layer runs: measured, so that another measurement might say otherwise."""
        return dict(self._ran)

    def adopt(self, state: Mapping[str, str], masks: Masks, support: Masks) -> None:
        """Run each layer as ``state`` says; BadInput, unchanged, where one can't here."""
        changed = {
            name: None if path == MASKED_DENSE else self._offered(name, path, masks[name])
            for name, path in state.items()
            if path != self._ran[name]
        }
        for name, execution in changed.items():
            self._ran[name] = state[name]
            self._swap(name, execution)

    def follow(self, masks: Masks, support: Masks) -> None:
        """Store by these masks from now on."""
        for name, module in list(self._condensed.items()):
            execution = self._next(name, masks[name])
            if execution is None:
                self._swap(name, None)
                continue
            stored = self._weights.stored[name]
            stored.relocate(execution.positions, self._weights.states)
            module.execution = execution
            if module.loaded is not None:  # a checkpoint's weights, which these are the masks of
                module.weight.data.copy_(stored.physical(module.loaded))
                module.loaded = None

    def collect(self, wanted: bool) -> None:
        """Whether the coming backward passes are to leave dense gradients."""
        for name, module in self._condensed.items():
            module.collecting, module.dense_gradient = wanted, None
            self._weights.stored[name].loaded = {}  # no masks came with it: training went on

    def dense_gradient(self, name: str) -> Tensor | None:
        """What ``collect`` asked for, float [*w], averaged over ranks; None of a layer that is stored dense.

        Loss scalers and clipping change the stored weights' gradient alone: the dense one is brought to its size.
        """
        module = self._condensed.get(name)
        if module is None or module.dense_gradient is None or module.weight.grad is None:
            return None
        average({name: module.dense_gradient})
        stored, held = module.weight.grad, gather(module.dense_gradient, module.execution.positions)
        norm = held.square().sum()
        return module.dense_gradient * ((stored * held).sum() / norm if float(norm) > 0 else 1)

    def _call(self, name: str) -> LayerCall | None:
        layer, device = self._layers[name], self._layers[name].weight.device
        dtype = layer.weight.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        return layer_call(layer.module, layer.info, device=device, dtype=dtype, training=True)

    def _next(self, name: str, mask: Tensor) -> Execution | None:
        """What runs a condensed layer with another mask: as before, or the likeliest that there is for this one."""
        offered = self._offers[name](self._condensed[name].call, mask)
        same = [execution for execution in offered if execution.path == self._ran[name]]
        execution = next(iter([*same, *offered]), None)
        self._ran[name] = MASKED_DENSE if execution is None else execution.path
        return execution

    def _offered(self, name: str, path: str, mask: Tensor) -> Execution:
        module = self._condensed.get(name)
        call = self._call(name) if module is None else module.call
        offered = [] if call is None else self._offers[name](call, mask)
        for execution in offered:
            if execution.path == path:
                return execution
        raise BadInput(
            f"layer {name!r}: can't run {path!r} here{nearest(path, [execution.path for execution in offered])}"
        )

    def _swap(self, name: str, execution: Execution | None) -> None:
        """Put a condensed layer in place of the dense one, another execution into it, or the dense one back."""
        module, layer, stored = self._condensed.get(name), self._layers[name], self._weights.stored[name]
        if execution is None:
            if module is not None:
                dense = stored.logical(module.weight.detach()) if module.loaded is None else module.loaded
                layer.module.weight = nn.Parameter(dense, requires_grad=module.weight.requires_grad)
                self._put(name, layer.module, None)
                del self._condensed[name]
        elif module is not None:
            module.execution = execution
        else:
            call = self._call(name)
            assert call is not None
            self._condensed[name] = CondensedLayer(layer.called, call, execution)
            self._put(name, self._condensed[name], execution.positions)

    def _put(self, name: str, module: nn.Module, positions: Tensor | None) -> None:
        """Have the model run ``module``, and the optimizer step its weight, from the state of the one before."""
        states, stored = self._weights.states, self._weights.stored[name]
        optimizer = states.optimizer
        before, after = stored.values, module.weight
        assert isinstance(after, nn.Parameter)
        dense = stored.state_of(states)
        state = optimizer.state.pop(before, {})
        stored.owner, stored.positions, stored.loaded = module, positions, {}
        for group in optimizer.param_groups:
            group["params"][:] = [after if held is before else held for held in group["params"]]
        if state:
            optimizer.state[after] = {
                **state,
                **{key: stored.physical(value) for key, value in dense.items()},
            }
        self._model.set_submodule(self._places[name], module)


def _own_places(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Where each module stands in a model: those in one place, without hooks, that share their weight with none."""
    everywhere = list(model.named_modules(remove_duplicate=False))
    weights = Counter(id(module._parameters.get("weight")) for module in model.modules())
    places = {}
    for name, module in modules.items():
        paths = [path for path, other in everywhere if other is module]
        hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        if len(paths) == 1 and paths[0] and weights[id(module.weight)] == 1 and not hooked:
            places[name] = paths[0]
    return places
