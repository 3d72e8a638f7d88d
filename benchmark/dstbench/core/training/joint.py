"""The optimizers of a training: found inside wrappers, checked against the model, and several seen as one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dstbench.core.network.layers import maskable_layers
from dstbench.errors import BadInput


def optimizers_of(given: Any, model: nn.Module) -> tuple[Optimizer, ...]:
    """The torch optimizers that were given, each holding some of the model's parameters, no two the same one.

    Raises BadInput, naming what came, for anything else.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    several = isinstance(given, list | tuple)
    if several and not given:
        raise BadInput("optimizer: expected a torch.optim.Optimizer or several, got an empty list")
    optimizers = tuple(innermost(optimizer) for optimizer in (given if several else [given]))
    maskable_layers(model)  # refuses layers without a shape
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owner: dict[int, Optimizer] = {}
    for optimizer in optimizers:
        held = {id(parameter) for parameter in parameters_of(optimizer)} & names.keys()
        if not held:
            raise BadInput(
                f"optimizer: {_the(optimizer, optimizers)} holds none of the model's weights; make it from this "
                "model's parameters"
            )
        twice = next((name for key, name in names.items() if key in held and key in owner), None)
        if twice is not None:
            raise BadInput(f"optimizer: several hold {twice!r}; each parameter belongs to one")
        owner |= dict.fromkeys(held, optimizer)
    return optimizers


def innermost(optimizer: Any) -> Optimizer:
    """The torch optimizer that hooks can be set on, inside Accelerate's wrapper perhaps.

    Raises BadInput for what is none, or only steps another one, such as Lookahead and SAM: its own steps and state
    aren't those that weights move by.
    """
    accelerated = getattr(sys.modules.get("accelerate.optimizer"), "AcceleratedOptimizer", None)
    while accelerated is not None and isinstance(optimizer, accelerated):
        optimizer = optimizer.optimizer
    kind = type(optimizer).__name__
    held = getattr(optimizer, "__dict__", {})
    inner = next((name for name, attribute in held.items() if _steps(attribute)), None)
    if inner is not None:
        several = isinstance(held[inner], list | tuple)
        kinds = ", ".join(type(part).__name__ for part in (held[inner] if several else [held[inner]]))
        raise BadInput(
            f"optimizer: {kind} steps another optimizer, its {inner} ({kinds}): give the Sparsifier that, and step "
            f"{kind} as before"
        )
    if not isinstance(optimizer, Optimizer):
        raise BadInput(
            f"optimizer: expected a torch.optim.Optimizer, a list of them or Accelerate's, got {kind}"
        )
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise BadInput(f"optimizer: {kind} never called Optimizer.__init__, so it can't be listened to")
    return optimizer


def _steps(held: Any) -> bool:
    """Whether what an object holds are optimizers."""
    return isinstance(held, Optimizer) or (
        isinstance(held, list | tuple) and bool(held) and all(isinstance(part, Optimizer) for part in held)
    )


def parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    """All that an optimizer steps."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def joined(optimizers: Sequence[Optimizer]) -> Optimizer:
    """The only optimizer, or several as one: no Optimizer, but it has the groups and the state of one."""
    return optimizers[0] if len(optimizers) == 1 else cast(Optimizer, Joint(optimizers))


def step_all(optimizers: Sequence[Any], closure: Callable[[], Any] | None) -> Any:
    """Step optimizers, in their wrappers perhaps; several on one evaluation of the closure, which is returned.

    Raises BadInput, before anything is stepped, for a closure that can't be called."""
    if closure is not None and not callable(closure):
        raise BadInput(f"closure: expected a function without arguments, got {type(closure).__name__}")
    if len(optimizers) == 1:
        return optimizers[0].step() if closure is None else optimizers[0].step(closure)
    with torch.enable_grad():
        loss = None if closure is None else closure()
    for optimizer in optimizers:
        optimizer.step()
    return loss


class Joint:
    """Several optimizers of one model, with the groups and the state of all of them."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = tuple(optimizers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups themselves: what is written to them, such as a learning rate, counts."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> MutableMapping[Tensor, Any]:
        """What is remembered of each parameter, by whichever optimizer steps it."""
        return _JointState(self.optimizers)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)


class _JointState(MutableMapping[Tensor, Any]):
    """The states of several optimizers; a new parameter's is kept where its group is."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers

    def __getitem__(self, parameter: Tensor) -> Any:
        for optimizer in self._optimizers:
            if parameter in optimizer.state:
                return optimizer.state[parameter]
        raise KeyError(parameter)

    def __setitem__(self, parameter: Tensor, state: Any) -> None:
        for optimizer in self._optimizers:
            if any(held is parameter for held in parameters_of(optimizer)):
                optimizer.state[parameter] = state
                return
        raise KeyError(parameter)

    def __delitem__(self, parameter: Tensor) -> None:
        for optimizer in self._optimizers:
            if parameter in optimizer.state:
                del optimizer.state[parameter]
                return
        raise KeyError(parameter)

    def __iter__(self) -> Iterator[Tensor]:
        return (parameter for optimizer in self._optimizers for parameter in optimizer.state)

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self._optimizers)


def _the(optimizer: Optimizer, optimizers: Sequence[Optimizer]) -> str:
    """An optimizer in a sentence: by its place where there are several."""
    return (
        "it" if len(optimizers) == 1 else f"the {type(optimizer).__name__} at {optimizers.index(optimizer)}"
    )
