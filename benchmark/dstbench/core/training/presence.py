"""Whether the masked weights are still those that the model computes with and the optimizers step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from dstbench.core.network.layers import clean_names
from dstbench.core.storage.stored import Weights
from dstbench.core.training.joint import parameters_of
from dstbench.errors import BadInput

_OFTEN = 256  # checks of the known places for one of the whole model


class Presence:
    """Knows the parameters of a training and where the model holds them, to notice when others stand there."""

    def __init__(self, model: nn.Module, weights: Weights) -> None:
        self._model, self._weights = model, weights
        self._known: dict[str, Tensor] = weights.values
        self._holders: dict[str, int] = {}  # how many modules hold a weight, by layer
        self._links: list[tuple[nn.Module, str, nn.Module]] = []  # that lead to weights: parent, name, child
        self._left = 0  # checks until one of the whole model
        self._look_through(self._known)

    def adopt(self) -> bool:
        """Know the parameters that stand there now; whether they are others than before."""
        before, self._known = self._known, self._weights.values
        return any(value is not before[name] for name, value in self._known.items())

    def check(self, whole: bool = False) -> None:
        """Look whether the parameters are where they were, and now and then, or if ``whole``, all through the model.

        Raises BadInput where a layer has left the model, so that its masks would hold nothing; where what it holds
        now is stepped by no optimizer, so that it would be masked and never trained; and where others share it now.
        """
        values = self._weights.values
        new = {name: value for name, value in values.items() if value is not self._known[name]}
        if new:
            self._check_new(new)
        for name, value in values.items():
            if value.shape != (held := self._weights.bits[name].shape):
                raise BadInput(
                    f"layer {name} has a weight of another shape than the Sparsifier was given: expected "
                    f"{tuple(held)}, got {tuple(value.shape)}"
                )
        intact = all(parent._modules.get(name) is child for parent, name, child in self._links)
        self._left -= 1
        if whole or new or not intact or self._left < 0:
            self._look_through(values)

    def _check_new(self, new: Mapping[str, Tensor]) -> None:
        """Refuse what can't take a weight's place."""
        if computed := [name for name, value in new.items() if not isinstance(value, nn.Parameter)]:
            raise BadInput(
                f"{_named(computed)} a weight that is computed since the Sparsifier was made, as by a "
                "parametrization, weight norm or torch's pruning: do that before, or detach() the Sparsifier"
            )
        stepped = {id(parameter) for parameter in parameters_of(self._weights.states.optimizer)}
        if lost := [name for name, value in new.items() if id(value) not in stepped]:
            raise BadInput(
                f"{_named(lost)} another parameter than the Sparsifier was given, which no optimizer holds: load a "
                "state dict without assign=True, write values with copy_(), or make optimizer and Sparsifier anew"
            )

    def _look_through(self, values: Mapping[str, Tensor]) -> None:
        """Find all modules that hold the weights."""
        paths = _holders(self._model, {id(value) for value in values.values()})
        if gone := [name for name, value in values.items() if id(value) not in paths]:
            raise BadInput(
                f"{_named(gone)} left the model since the Sparsifier was made, so its masks hold nothing there: "
                "detach() it, and make one for the model as it is now"
            )
        for name, value in values.items():
            held = paths[id(value)]
            if len(held) > self._holders.setdefault(name, len(held)):
                clean = clean_names(self._model)
                others = ", ".join(clean[path] for path in held if clean[path] != name)
                raise BadInput(
                    f"layer {name} shares its weight with {others} since the Sparsifier was made: tie weights before "
                    "that"
                )
        modules = dict(self._model.named_modules())
        steps = {
            (parent, child): (modules[parent], child.rpartition(".")[2], modules[child])
            for value in values.values()
            for parent, child in _way(paths[id(value)][0])
        }
        self._links, self._left = list(steps.values()), _OFTEN


def _holders(model: nn.Module, wanted: set[int]) -> dict[int, list[str]]:
    """The paths of the modules that hold each of some parameters, by id."""
    paths = defaultdict[int, list[str]](list)
    for path, module in model.named_modules():
        for held in {id(parameter) for parameter in module._parameters.values()} & wanted:
            paths[held].append(path)
    return paths


def _way(path: str) -> list[tuple[str, str]]:
    """The steps from the model to a module: paths of parent and child."""
    parts = path.split(".") if path else []
    ends = [".".join(parts[:n]) for n in range(len(parts) + 1)]
    return list(pairwise(ends))


def _named(names: list[str]) -> str:
    few = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"layer {few} has" if len(names) == 1 else f"layers {few} have"
