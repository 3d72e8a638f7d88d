"""Being told of an optimizer's steps: before each, once its gradients are final, and after each."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, register_optimizer_step_post_hook

from dstbench.core.network.eager import eagerly
from dstbench.core.training.optimizers import overflowed
from dstbench.errors import BadInput

_AGES = count()  # of one after another
_PATIENCE = 32  # more often in a row than a loss scaler skips while it looks for its scale
_UNSEEN = 3  # more than a sharpness-aware step, or averages swapped in and out, write between two of them
_MISSED = f"""weights changed between {_UNSEEN} backward passes in a row and no step of the optimizer was seen: \
masks don't hold and the topology stands still. Step the optimizer that the Sparsifier was given, not another one."""


_IN_BACKWARD = """an optimizer stepped inside a backward pass that makes gradients for others: no step is one of all \
weights then, and none would be counted. Step the optimizers when the pass is over, or give the Sparsifier one for \
all parameters."""


class Surroundings(Protocol):
    """What is otherwise only while an optimizer steps."""

    def enter(self, optimizer: Optimizer) -> None:
        """The optimizer is about to read its gradients."""
        ...

    def leave(self, optimizer: Optimizer) -> None:
        """It has stepped, or is about to evaluate a closure; harmless where it wasn't entered."""
        ...

    def leave_all(self) -> None:
        """A step may have failed: nothing is stepping now."""
        ...


class StepHooks:
    """Calls ``prepare`` once before an optimizer step, when its gradients are final, and ``done`` behind it. Where it
    was prepared some time before, as for clipping, ``again`` comes right before the step.

    A closure makes gradients inside the step: then ``prepare`` follows it. An optimizer whose step calls its
    parent's counts one step, where the outer one ends. New gradients of the weights ask for ``prepare`` again.

    ``around`` is entered once all is prepared, and left when the step is over, before ``done``.

    Several optimizers make one step: ``done`` comes when all of them have applied the same gradients. Where a loss
    scaler skips one of them, the step counts as skipped.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        prepare: Callable[[], None],
        again: Callable[[], None],
        done: Callable[[], None],
        around: Surroundings,
    ) -> None:
        self._prepare, self._again, self._done, self._around = prepare, again, done, around
        self._prepared = False  # what the coming step needs is done already
        self._depth = 0  # of steps within steps
        self._kinds = {id(part): type(part).__name__ for part in optimizers}  # not held: a copy may lack them
        self._applied = set[int]()  # those of them that applied the gradients that there are
        self._partial = 0  # steps in a row that only some of the optimizers applied
        self.renewed = False  # whether a backward pass made gradients since the last step
        self._last: tuple[Tensor, int, int] | None = (
            None  # of a weight at its last gradient: writes to it, address
        )
        self._unseen = 0  # writes between backward passes since the last step
        self._handles = {
            id(part): (part.register_step_pre_hook(self._before), part.register_step_post_hook(self._after))
            for part in optimizers
        }
        self._saving = [part.register_state_dict_pre_hook(around.leave) for part in optimizers]
        self._last_word: Any = (
            None  # the handle on every optimizer's steps, where others listen to these, too
        )
        self._pass = -1  # the backward pass in which an optimizer stepped last
        self._heard: list[Any] = []  # handles on weights
        self._age = next(_AGES)
        self._weight: Tensor | None = None  # one of those that are listened to

    def listen(self, weights: Iterable[Tensor]) -> None:
        """Hear of new gradients of these weights, and of no others any more."""
        for handle in self._heard:
            handle.remove()
        heard = [weight for weight in weights if weight.requires_grad]
        self._weight = next(iter(heard), None)
        self._heard = [weight.register_post_accumulate_grad_hook(self._renew) for weight in heard]  # type: ignore[no-untyped-call]

    def prepare(self) -> None:
        """Prepare the coming step now rather than when it comes; harmless to call twice."""
        if not self._prepared:
            self._prepared = True
            self._prepare()

    def remove(self) -> None:
        """Hear of no further step."""
        self._around.leave_all()
        for handle in (*chain.from_iterable(self._handles.values()), *self._saving, *self._heard):
            handle.remove()
        if self._last_word is not None:
            self._last_word.remove()

    @eagerly
    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._superseded:
            raise BadInput(
                "another Sparsifier was made for these weights since this one, and masks them otherwise: detach() one"
            )
        _, behind = self._handles[id(optimizer)]
        hooks: Any = optimizer._optimizer_step_post_hooks
        hooks.move_to_end(behind.id)  # what others write there is seen, too
        self._speak_last()
        if self._depth == 0 and id(optimizer) in self._applied:
            self._begin()
        self._depth += 1
        self._last, self._unseen = None, 0
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            if self._prepared:
                self._again()
            self.prepare()
            if self._depth == 1:
                self._around.enter(optimizer)
            return None

        def prepared() -> Any:
            self._around.leave(optimizer)
            depth, loss = self._depth, closure()
            self._depth, self._last = depth, None  # its backward pass renewed the gradients
            self.prepare()
            if depth == 1:
                self._around.enter(optimizer)
            return loss

        return (args[0], prepared, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

    def _speak_last(self) -> None:
        """Where others hook every optimizer's steps, hear of the end of a step behind them: they come after an
        optimizer's own hooks, and may write."""
        every: Any = _global_optimizer_post_hooks  # private, for nothing public orders them
        if self._last_word is None and every:
            self._last_word = register_optimizer_step_post_hook(_late(self))
            weakref.finalize(self, self._last_word.remove)
        if self._last_word is not None:
            every.move_to_end(self._last_word.id)

    @eagerly
    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._last_word is None:
            self.end(optimizer)

    def end(self, optimizer: Optimizer) -> None:
        """An optimizer's step is over, with all that hooks did; of others' nothing is to be done."""
        if id(optimizer) not in self._kinds:
            return
        self._depth -= 1
        self._pass = _backward_pass()
        if self._depth > 0:
            return
        self._around.leave(optimizer)
        if not overflowed(optimizer):
            self._applied.add(id(optimizer))
        self._prepared = len(self._kinds) > 1
        if len(self._applied) == len(self._kinds):
            self._applied, self._partial, self._prepared = set(), 0, False
            self._done()
            self._last, self._unseen = None, 0
        if not self._applied:
            self.renewed = False

    def _renew(self, weight: Tensor) -> None:
        """A backward pass made new gradients: a step that those before were prepared for never came, or failed."""
        if self._applied and self._pass == _backward_pass() != -1:
            raise BadInput(_IN_BACKWARD)
        self._begin()
        self._around.leave_all()
        self._depth, self.renewed = 0, True
        if self._last is None or self._last[0] is weight:
            now = weight, weight._version, weight.data_ptr()
            self._unseen += self._last is not None and self._last[1:] != now[1:]
            self._last = now
            if self._unseen == _UNSEEN:
                self._unseen += 1  # said once
                if not self._superseded:
                    warnings.warn(_MISSED, RuntimeWarning, stacklevel=2)

    @property
    def _superseded(self) -> bool:
        """Whether a later one listens to the same weights."""
        hooks = (self._weight is not None and self._weight._post_accumulate_grad_hooks) or {}
        owners = (getattr(hook, "__self__", None) for hook in hooks.values())
        return any(isinstance(owner, StepHooks) and owner._age > self._age for owner in owners)

    def _begin(self) -> None:
        """Other gradients, for all optimizers. Says so where it goes on that some never apply them."""
        self._prepared = False
        if not self._applied:
            return
        self._partial += 1
        if self._partial == _PATIENCE:
            idle = [kind for part, kind in self._kinds.items() if part not in self._applied]
            warnings.warn(
                f"{_PATIENCE} times in a row {', '.join(idle)} didn't step where the other optimizers did: such "
                "steps count as skipped, and the topology stays as it is",
                stacklevel=3,
            )
        self._applied = set()


def _late(hooks: StepHooks) -> Callable[[Optimizer, Any, Any], None]:
    """A hook for all optimizers that doesn't keep these hooks, and so a model, alive."""
    held = weakref.ref(hooks)

    @eagerly
    def late(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if (alive := held()) is not None:
            alive.end(optimizer)

    return late


def _backward_pass() -> int:
    """Which backward pass this runs in; -1 outside of any, and where torch doesn't say."""
    current: Any = getattr(torch._C, "_current_graph_task_id", lambda: -1)
    return int(current())


def check_unhooked(optimizer: Optimizer) -> None:
    """Refuse an optimizer that another Sparsifier listens to."""
    hooks = getattr(optimizer, "_optimizer_step_pre_hooks", {}).values()
    if any(isinstance(getattr(hook, "__self__", None), StepHooks) for hook in hooks):
        raise BadInput("optimizer: it has a Sparsifier already; detach() that one first")
