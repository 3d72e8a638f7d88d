"""A method made ready for one training: its values know the optimizer, and what it can't be stored as is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.optim import Optimizer

from dstbench.api import Recipe, Spec, ValuePolicy, Values
from dstbench.core.training.method import Method, check_condensable, check_observable
from dstbench.core.training.timetable import Timetable
from dstbench.errors import BadInput


def valued(recipe: Recipe, values: Spec | Values | ValuePolicy | None) -> Recipe:
    """The recipe with other values. Raises BadInput where it has no masks by which any would be set."""
    if values is None:
        return recipe
    if recipe.dense or recipe.narrow:
        raise BadInput(f"values: the recipe has no masks, so there are none to set, got {values!r}")
    return recipe.but(values=values)


def prepared(method: Method, timetable: Timetable, optimizers: Sequence[Optimizer], storage: str) -> Method:
    """The method with its values told what steps the weights.

    Raises BadInput as ``check_stored`` does, StrategyError where the values have no answer for an optimizer.
    """
    if method.dense:
        return method
    check_stored(method, timetable.initial_backward is not None, storage)
    values = method.values
    for kind in dict.fromkeys(type(optimizer).__name__ for optimizer in optimizers):
        values = values.for_optimizer(kind)
    return replace(method, values=values)


def check_stored(method: Method, superset: bool, storage: str) -> None:
    """Refuse, by name, what can't train as it is to be stored. superset: whether more trains than is active.

    Raises BadInput for condensed storage of a method whose masks wait for gradients, or whose every step needs dense
    ones; for accumulators that look at layers which the storage replaces; and for a superset that is stored otherwise
    than masked, or with a structure that removes positions for good.
    """
    if storage == "condensed":
        check_condensable(method)
    check_observable(method, storage)
    if superset:
        if storage != "masked":
            raise BadInput(
                f"storage: {storage!r} holds active weights alone, and {method.schedule!r} trains a superset of "
                "them: use 'masked'"
            )
        if method.support is not None:
            raise BadInput(
                f"structure: {method.support!r} removes positions for good, which {method.schedule!r} may be training"
            )
