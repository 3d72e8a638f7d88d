"""What optimizers remember of each weight: a new weight's is what the optimizer itself would start with."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from dstbench.core.storage.conduct import Conduct, entrywise
from dstbench.core.storage.seen import known_conduct
from dstbench.errors import BadInput


class States:
    """The optimizers' state of each parameter, and how they were seen to treat it.

    optimizer: one, or several joined into one with their groups and state, the parts being its ``optimizers``.
    """

    def __init__(self, optimizer: Any) -> None:
        self._held: Any = optimizer
        self._lent: tuple[Any, list[weakref.ref[Optimizer]]] | None = None
        self._conducts: dict[tuple[int, int], Conduct] = {}  # by part and group: loading makes groups anew

    @property
    def optimizer(self) -> Any:
        """What was given. Raises BadInput in a copy that was made without it."""
        if self._lent is not None:
            kind, lent = self._lent
            parts = [part for reference in lent if (part := reference()) is not None]
            if len(parts) < len(lent):
                raise BadInput(
                    "this Sparsifier was copied without its optimizer, whose steps it listens to: copy all at once, "
                    "copy.deepcopy((model, optimizer, sparsifier)), or load its state_dict() into a new one"
                )
            self._held, self._lent = parts[0] if issubclass(kind, Optimizer) else kind(parts), None
        return self._held

    def lend(self) -> None:
        """Hold the optimizers from their first use on: in a copy they live only if they were copied beside it."""
        self._lent = type(self._held), [weakref.ref(part) for part in self.parts]
        self._held = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_held": self.optimizer, "_lent": None, "_conducts": self._conducts}

    @property
    def parts(self) -> tuple[Optimizer, ...]:
        """The real optimizers."""
        return getattr(self.optimizer, "optimizers", (self.optimizer,))

    def of(self, values: Tensor) -> dict[str, Any]:
        """What is remembered of a parameter."""
        held: dict[str, Any] = self.optimizer.state.get(values, {})
        return held

    def conduct(self, values: Tensor) -> Conduct:
        """How the optimizer of a parameter treats it; of one that none steps, nothing is remembered."""
        for i, part in enumerate(self.parts):
            for j, group in enumerate(part.param_groups):
                if any(held is values for held in group["params"]):
                    if (i, j) not in self._conducts:
                        self._conducts[i, j] = known_conduct(part, group)
                    return self._conducts[i, j]
        return Conduct()

    def forget(self) -> None:
        """Learn anew where a new weight's state follows settings, such as a learning rate, that may have changed."""
        self._conducts = {key: conduct for key, conduct in self._conducts.items() if not conduct.neutral}

    @property
    def known(self) -> bool:
        """Whether the optimizers are torch's own: how these treat zeros is known once it was seen. Any other may do
        later what it didn't at first."""
        kinds = {kind for part in self.parts for kind in type(part).__mro__ if issubclass(kind, Optimizer)}
        return all(kind.__module__.startswith("torch.optim.") for kind in kinds)

    @property
    def overheard(self) -> bool:
        """Whether others have hooks on steps, too: they may write anything."""
        hooks = [
            registered
            for p in self.parts
            for registered in (p._optimizer_step_pre_hooks, p._optimizer_step_post_hooks)
        ]
        return any(len(registered) > 1 for registered in hooks) or bool(
            _global_optimizer_pre_hooks or _global_optimizer_post_hooks
        )

    def check(
        self, weights: Mapping[str, Tensor], vectors: Iterable[Tensor], storage: str, changes: bool
    ) -> None:
        """Refuse state that can't be kept with its weights, and, where these aren't stored whole, an optimizer that
        would step them otherwise then. changes: whether what is stored ever does.

        Raises BadInput.
        """
        steppers = [
            self.conduct(tensor) for tensor in (*weights.values(), *(vectors if storage == "compact" else ()))
        ]
        for conduct in steppers:
            names = ", ".join(type(part).__name__ for part in self.parts)
            if conduct.unknown:
                raise BadInput(
                    f"optimizer: {names} keeps {conduct.unknown[0]!r} in codes, of which none was found to stand "
                    "for a new weight; use one whose state is numbers, such as torch's own"
                )
            alike = storage == "masked" or getattr(conduct, storage)
            if not alike or (storage != "masked" and changes and not conduct.movable):
                why = f": trying it ended in {conduct.failure}" if conduct.failure else ""
                raise BadInput(
                    f"storage: {storage!r} would train something else than 'masked' under {names}, whose step of a "
                    f"weight depends on others or on the shape{why}; use 'masked'"
                )

    @torch.no_grad()
    def clear(self, values: Tensor, survivors: Tensor, held: Tensor | None = None) -> None:
        """Zero a parameter, and start its state anew, but where ``survivors``, bool of its shape, says so; in place.
        held: where the state lives on, if that isn't the same."""
        values.masked_fill_(~survivors, 0)
        gone = ~(survivors if held is None else held)
        state, neutral = self.of(values), self.conduct(values).neutral
        for key in entrywise(state, values):
            held = state[key]
            if key not in neutral and not held.is_floating_point():
                raise BadInput(
                    f"optimizer: state {key!r} holds {held.dtype}, of which no value is known to be new"
                )
            held.masked_fill_(gone, neutral.get(key, 0))
