"""Whether the masked weights are still those that the model has and the optimizers step."""

from __future__ import annotations

from torch import Tensor, nn

from dstbench.core.storage.stored import Weights
from dstbench.core.training.joint import parameters_of
from dstbench.errors import BadInput


class Presence:
    """Knows the parameters of a training, to notice when others stand in their places."""

    def __init__(self, model: nn.Module, weights: Weights) -> None:
        self._model, self._weights = model, weights
        self._known: dict[str, Tensor] = weights.values

    def replaced(self) -> bool:
        """Whether layers hold other parameters than before.

        Raises BadInput where no optimizer steps those: they would be masked, and never trained.
        """
        values = self._weights.values
        new = {name: value for name, value in values.items() if value is not self._known[name]}
        if not new:
            return False
        stepped = {id(parameter) for parameter in parameters_of(self._weights.states.optimizer)}
        lost = [name for name, value in new.items() if id(value) not in stepped]
        if lost:
            raise BadInput(
                f"{_named(lost)} another parameter than the Sparsifier was given, which no optimizer holds: load a "
                "state dict without assign=True, write values with copy_(), or make optimizer and Sparsifier anew"
            )
        self._known = values
        return True

    def check(self) -> None:
        """Raise BadInput where a layer is no longer a part of the model: its masks would hold nothing."""
        there = {id(parameter) for parameter in self._model.parameters()}
        gone = [name for name, value in self._weights.values.items() if id(value) not in there]
        if gone:
            raise BadInput(
                f"{_named(gone)} left the model since the Sparsifier was made, so its masks hold nothing there: "
                "detach() it, and make one for the model as it is now"
            )


def _named(names: list[str]) -> str:
    few = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"layer {few} has" if len(names) == 1 else f"layers {few} have"
