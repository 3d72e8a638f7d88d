"""Where values are kept. Masks, scores, names, random draws and checkpoints are *logical*: shaped as the model was
built. A parameter may hold fewer entries than that; what stands where is known here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dstbench.core.network.inputs import Inputs, arguments
from dstbench.core.network.layers import Layer, clean_names, unwrap
from dstbench.core.ranks import world
from dstbench.core.storage.bits import bits_of, keep
from dstbench.core.storage.condensed_layer import gather, scatter
from dstbench.core.storage.conduct import entrywise
from dstbench.core.storage.states import States
from dstbench.errors import BadInput, nearest

Storage = Literal["masked", "condensed", "compact"]


class Stored:
    """A parameter or buffer, and the entries of its logical tensor that it holds: all, unless told otherwise."""

    def __init__(self, owner: nn.Module, field: str, absent: float = 0.0) -> None:
        self.owner, self.field = owner, field
        self.absent = absent  # what an entry that is no longer kept reads as
        self.shape = tuple(self.values.shape)  # of the logical tensor
        self.positions: Tensor | None = None  # int64 [*values]: in the flattened logical tensor; -1 = padding
        self.loaded: dict[str, Tensor] = {}  # logical optimizer state from a checkpoint of other positions

    @property
    def values(self) -> Tensor:
        """The parameter or buffer: whichever the module holds now, since moving a model may make new ones."""
        values = self.owner._parameters.get(self.field)  # at every step, and getattr is five times as slow
        return getattr(self.owner, self.field) if values is None else values

    def logical(self, values: Tensor, absent: float | None = None) -> Tensor:
        """A tensor shaped as the values, in the logical shape; what isn't kept reads as ``absent``."""
        if self.positions is None:
            return values
        absent = self.absent if absent is None else absent
        return scatter(values, self.positions.to(values.device), self.shape, absent)

    def physical(self, dense: Tensor) -> Tensor:
        """A tensor of the logical shape, at the kept entries; padding is zero."""
        return dense if self.positions is None else gather(dense, self.positions.to(dense.device))

    def state_of(self, states: States) -> dict[str, Tensor]:
        """The optimizer's state of each entry, [*logical shape] by name; what was loaded for other positions wins."""
        values, state = self.values, states.of(self.values)
        neutral = states.conduct(values).neutral
        held = {key: self.logical(state[key], neutral.get(key, 0.0)) for key in entrywise(state, values)}
        return held | self.loaded

    @torch.no_grad()
    def relocate(self, positions: Tensor, states: States) -> None:
        """Keep the entries at ``positions`` from now on, in the optimizer's state too; new ones are ``absent``, and
        their state is a new weight's.

        Memory is written in place where the shape stays, so that ``data_ptr`` does.
        """
        values = self.values
        state = states.of(values)
        moved = self.state_of(states)
        whole, self.loaded = self.logical(values), {}
        self.positions = positions
        for key, dense in moved.items():
            kept = self.physical(dense)
            state[key] = state[key].copy_(kept) if state[key].shape == kept.shape else kept
        kept = self.physical(whole)
        if values.shape == kept.shape:
            values.copy_(kept)
        else:
            _reshape(self.owner, self.field, kept)


def _reshape(owner: nn.Module, field: str, values: Tensor) -> None:
    """Give a parameter or buffer other values of another shape; a parameter stays the same object."""
    held = getattr(owner, field)
    if not isinstance(held, nn.Parameter):
        setattr(owner, field, values)
        return
    held.grad = None
    # Autograd remembers the shape to accumulate into for as long as some graph lives; only a change of the
    # dtype makes it forget.
    held.data = values.to(torch.float64 if values.dtype != torch.float64 else torch.float32)
    held.data = values


class Weights:
    """The maskable weights of a training as they are stored, with their masks in the same shapes."""

    def __init__(self, layers: Mapping[str, Layer], states: States) -> None:
        self.states = states
        self.stored = {name: Stored(layer.module, layer.field) for name, layer in layers.items()}
        self.bits: dict[str, Tensor] = {}  # the masks, for each of the values, by layer
        self._held: dict[str, tuple[torch.dtype, torch.device]] = {}  # of the values when the masks were set

    @property
    def values(self) -> dict[str, Tensor]:
        """The parameters by layer, as stored."""
        return {name: stored.values for name, stored in self.stored.items()}

    def logical(self, name: str) -> Tensor:
        """A layer's weight, float [*w]; the parameter itself where that is stored whole."""
        stored = self.stored[name]
        return stored.logical(stored.values.detach())

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Mask by these, bool [*w], from now on."""
        values = self.values
        self.bits = {n: bits_of(stored.physical(masks[n]), values[n]) for n, stored in self.stored.items()}
        self._held = {name: (value.dtype, value.device) for name, value in values.items()}

    @property
    def moved(self) -> bool:
        """Whether weights are on another device or of another dtype than when the masks were set."""
        return any(self._held[name] != (value.dtype, value.device) for name, value in self.values.items())

    def mask(self, model: nn.Module) -> None:
        """Zero the inactive weights of another model of the same layers. Raises BadInput for any other."""
        if not isinstance(model, nn.Module):
            raise BadInput(
                f"model: expected a torch.nn.Module with this one's layers, got {type(model).__name__}"
            )
        fields = {stored.field for stored in self.stored.values()}
        names, weights = clean_names(model), {}
        for path, module in model.named_modules():
            for field in fields:
                name = names[path] if field == "weight" else f"{names[path]}.{field}" if path else field
                weight = module._parameters.get(field)  # not one that is computed at each call
                if name in self.bits and weight is not None:
                    weights[name] = weight
        missing = [name for name in self.bits if name not in weights]
        if missing:
            near = nearest(missing[0], [name for name in names.values() if name not in self.bits and name])
            raise BadInput(
                f"model: {type(model).__name__} has no weight of the layers {', '.join(missing)}{near}"
            )
        bits = {name: self._like(name, weight) for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.masked_fill_(bits[name].to(weight.device) == 0, 0)

    def _like(self, name: str, weight: Tensor) -> Tensor:
        """A layer's mask, 0/1, for another's weight, which may be stored whole or as here."""
        bits, stored = self.bits[name], self.stored[name]
        if tuple(weight.shape) == stored.shape:
            return stored.logical(bits)
        if weight.shape != bits.shape:
            raise BadInput(
                f"model: layer {name!r}: expected a weight of {stored.shape}, got {tuple(weight.shape)}"
            )
        return bits

    def zero(
        self, survivors: Mapping[str, Tensor], trained: Mapping[str, Tensor] = MappingProxyType({})
    ) -> None:
        """Keep weights and their optimizer state where ``survivors``, bool [*w], say so, and state alone where
        ``trained`` do; zero the rest in place."""
        for name, survivor in survivors.items():
            stored = self.stored[name]
            held = stored.physical(survivor | trained[name]) if name in trained else None
            self.states.clear(stored.values, stored.physical(survivor), held)

    def enforce(self) -> None:
        """Zero the inactive weights, in place and without a look at them. It doesn't count as a write: a graph that a
        backward pass will still go through stays good."""
        keep((value.data, self.bits[name]) for name, value in self.values.items())

    @torch.no_grad()
    def stray(self) -> dict[str, int]:
        """The inactive weights that aren't zero, by layer: none, unless someone wrote them."""
        return {
            name: int(((values.detach() != 0) & (self.bits[name].to(values.device) == 0)).sum())
            for name, values in self.values.items()
        }


def keep_checkpoints_logical(states: States, stored: Callable[[], Iterable[Stored]]) -> None:
    """Make the optimizers' ``state_dict()`` give, and ``load_state_dict`` take, state in logical shapes.

    What was saved at other positions than those kept now waits in ``Stored.loaded`` for the masks it belongs to.
    """

    def numbered(optimizer: Optimizer) -> Iterable[tuple[int, Stored]]:
        known = {id(tensor.values): tensor for tensor in stored()}
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        return [(i, known[id(parameter)]) for i, parameter in enumerate(parameters) if id(parameter) in known]

    def saved(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        held = dict(state_dict["state"])
        for index, tensor in numbered(optimizer):
            if index in held:
                held[index] = {**held[index], **tensor.state_of(states)}
        return {**state_dict, "state": held}

    def loading(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        given = dict(state_dict["state"])
        for index, tensor in numbered(optimizer):
            state, neutral = given.get(index, {}), states.conduct(tensor.values).neutral
            dense = {
                key: value.to(tensor.values.device)
                for key, value in state.items()
                if isinstance(value, Tensor) and tuple(value.shape) == tensor.shape
            }
            kept = {key: tensor.physical(value) for key, value in dense.items()}
            given[index] = {**state, **kept}
            outside = any(
                not torch.equal(tensor.logical(kept[key], neutral.get(key, 0.0)), value)
                for key, value in dense.items()
            )
            tensor.loaded = dense if outside else {}
        return {**state_dict, "state": given}

    for optimizer in states.parts:
        optimizer.register_state_dict_post_hook(saved)
        optimizer.register_load_state_dict_pre_hook(loading)


def check_storage(storage: str, model: nn.Module, example_input: Inputs | None) -> None:
    """Refuse what this model can't be stored as. Raises BadInput with the reason."""
    known = get_args(Storage)
    if storage not in known:
        near = nearest(storage, known) if isinstance(storage, str) else ""
        raise BadInput(f"storage: expected one of {', '.join(known)}, got {storage!r}{near}")
    if storage == "masked":
        return
    if unwrap(model) is not model:
        raise BadInput(
            f"storage: {storage!r} changes modules: pass the model before DDP or torch.compile wrap it"
        )
    if storage == "compact" and world() > 1:
        raise BadInput(
            "storage: 'compact' changes the shapes of parameters, which DDP can't follow; use 'masked'"
        )
    if storage != "condensed":
        return
    if example_input is None:
        raise BadInput(
            "example_input: storage 'condensed' measures on a batch like those to come, [batch, ...], got NoneType"
        )
    arguments(example_input)
