"""The one mutable object: it owns a model's masks and keeps weights, optimizer state and masks together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dstbench.api import Recipe, Signal, StrategyError, Target
from dstbench.core import ranks
from dstbench.core.engine.allocation import check_count, check_density
from dstbench.core.engine.update import Masks
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.layers import unwrap
from dstbench.core.network.ownership import owned, patterns_of
from dstbench.core.storage.states import States
from dstbench.core.storage.stored import Storage, check_storage
from dstbench.core.training import checkpoint, copies
from dstbench.core.training.deciding import deciding
from dstbench.core.training.hooks import StepHooks, check_unhooked
from dstbench.core.training.identity import identify
from dstbench.core.training.imposing import budget_of, checked
from dstbench.core.training.joint import joined, optimizers_of, parameters_of
from dstbench.core.training.masking import Masking
from dstbench.core.training.method import as_recipe, build_method, check_condensable, described
from dstbench.core.training.optimizers import overflowed, trains
from dstbench.core.training.presence import Presence
from dstbench.core.training.reach import Reach
from dstbench.core.training.readings import Readings
from dstbench.core.training.rules import Fields, Rules
from dstbench.core.training.signals import Signals, blank, finite
from dstbench.core.training.state import TrainingState
from dstbench.core.training.support import Removal
from dstbench.core.training.timetable import Timetable
from dstbench.core.training.topology import Topology, UpdateReport
from dstbench.core.training.undo import undone_on_failure
from dstbench.errors import BadInput

if TYPE_CHECKING:
    from dstbench.registration.registry import Registry


class Sparsifier(Readings):
    """Dynamic sparse training of a model, inside anyone's loop::

        sparsifier = Sparsifier(model, optimizer, recipe="rigl", density=0.1, total_steps=10_000)
        loss.backward(); sparsifier.step()          # in place of optimizer.step()

    Calling the optimizer's own ``step`` does the same, so ``scaler.step(optimizer)`` and Accelerate's
    wrapper work: everything happens in hooks around the applied step, and a step that a loss scaler skips
    or that accumulates gradients doesn't count. Gradients are masked before the step, so inactive weights
    and their optimizer state stay exactly zero; masked parameters keep their memory (``data_ptr``) for good.

    storage: what the optimizer's parameters hold. "masked": the dense weights. "condensed": the active weights only,
    in the layers that run faster so than masked dense, as measured on ``example_input``, a batch like those to come
    (under autocast, if that is how they will run). "compact": what a structure that removes channels for good has
    left. Masks, draws, ``state_dict`` of model and optimizer, and so training itself, are the same in all three,
    under optimizers that step a weight without looking at others; any other is refused. States load in any order.
    The last two want the model before DDP or ``torch.compile`` wrap it, and parameters to be listed, as for clipping,
    after this. An average of weights over time must be one of state dicts: what a stored weight holds where changes.

    What others write into inactive weights is zeroed before the next step, and by ``enforce`` at once. A step without
    gradients counts as none. Copies are made of (model, optimizer, sparsifier) together.

    optimizer: a torch optimizer, or several that each weight is in one of; ``step`` steps all, and the topology
    changes once they all have. on_update: called with the UpdateReport of every topology update, after it.

    Weights that are frozen, in no optimizer, shared with another kind of module or rewritten by their module before
    it uses them stay dense, as do recurrent weights: a warning says so, and
    ``summary`` lists them with the reasons. ``density`` is of the weights in the budget, ``total_density`` of all.

    Raises BadInput for a bad density, an unknown recipe or a ``dense_layers`` pattern that matches nothing,
    and Infeasible where the density is less than one unit a layer; then nothing was changed.
    """

    @ranks.made_together
    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        recipe: str | Recipe | Mapping[str, Any] = "rigl",
        density: float = 0.1,
        total_steps: int = 0,
        *,
        steps_per_epoch: int | None = None,
        dense_layers: Sequence[str] = (),
        seed: int = 0,
        storage: Storage = "masked",
        example_input: Inputs | None = None,
        registry: Registry | None = None,
        on_update: Callable[[UpdateReport], object] | None = None,
    ) -> None:
        check_storage(storage, model, example_input)
        check_count("seed", seed, "an integer >= 0", least=0)
        if on_update is not None and not callable(on_update):
            raise BadInput(f"on_update: expected a function of an UpdateReport, got {on_update!r}")
        given, recipe = recipe, as_recipe(recipe, registry)
        self.method, self._named = build_method(recipe, registry), (recipe, registry)
        if storage == "condensed" and not self.method.dense:
            check_condensable(self.method)
        self.target_density = 1.0 if self.method.dense else check_density(density)
        self.timetable = Timetable(self.method, self.target_density, total_steps, steps_per_epoch)
        self.seed, self.total_steps, self._name = seed, total_steps, described(given)
        self._outer: list[Any] | None = (
            list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        )
        self.states = States(joined(optimizers_of(optimizer, model)))
        for part in self.optimizers:
            check_unhooked(part)
        self._owned = owned(
            model,
            (*self.method.dense_layers, *patterns_of(dense_layers)),
            {id(parameter) for parameter in parameters_of(self.optimizer)},
        )
        self.layers, self.dense_layers = self._owned.sparse, self._owned.dense

        self.rules = Rules.of(model, self.timetable, self.layers, seed, example_input)
        self.structures, self.fallbacks = self.rules.structures, self.rules.fallbacks
        changes = self.timetable.last_update > 0 or self.method.support is not None
        weights = {name: layer.weight for name, layer in self.layers.items()}
        self.states.check(weights, model.parameters(), storage, changes)
        self.masking = Masking(model, self.rules, self.states, example_input)
        self.weights, self.signals = self.masking.weights, Signals()
        self._presence = Presence(model, self.weights)
        self.dense_gradient = False  # whether the last applied step needed a dense backward pass
        self._needed = Signal.NONE  # by the coming step
        self._on_update, self._reach = on_update, Reach(self.layers, steps_per_epoch)
        self._idle = False  # whether the coming step isn't one of training

        ranks.agree(lambda: {**vars(self.identity), "steps_per_epoch": steps_per_epoch, "storage": storage})
        with undone_on_failure(model, self.optimizers):
            self._start()
            self.masking.arrange(storage, unwrap(model), example_input)
            self.arrangement = self.masking.arrangement
            self._connect()
            if not self.method.dense and (warning := self._owned.warning()):
                warnings.warn(warning, stacklevel=3)  # made_together stands between

    def __repr__(self) -> str:
        return (
            f"Sparsifier({self._name}, density={self.density:.4g} of {self.target_density:g}, "
            f"step={self.steps}/{self.total_steps}, updates={self.updates})"
        )

    # What a training loop calls

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the optimizer and, when one is due, update the topology. Returns what the optimizer returns; several
        optimizers step on one evaluation of the closure, which is returned.
        Built before Accelerate's ``prepare``, it can't know the wrapper: call the prepared optimizer's step."""
        given = self.given
        if len(given) == 1:
            return given[0].step() if closure is None else given[0].step(closure)
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for optimizer in given:
            optimizer.step()
        return loss

    def mask_gradients(self) -> None:
        """Mask the gradients now rather than at the step: call it before clipping by norm, so that gradients
        of inactive weights don't count. Harmless to call twice. A loss scaler must have unscaled them."""
        self._hooks.prepare()

    @torch.no_grad()
    def apply_masks(self, model: nn.Module) -> None:
        """Zero the inactive weights of a copy of the model, such as an average of its weights.

        Raises BadInput, with nothing changed, for a model without all of the layers, or with others."""
        self.weights.mask(model)

    def detach(self) -> None:
        """Stop: unhook from the optimizer. The model keeps its zeros."""
        self._hooks.remove()

    def enforce(self) -> None:
        """Zero the inactive weights now, with their optimizer state: for an evaluation behind whatever wrote weights
        from outside, such as ``load_state_dict`` or an average swapped in. The next step would see it by itself."""
        if not self.method.dense:
            self.masking.enforce(self._silent)

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        return copies.state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()
        self.states.lend()

    def __deepcopy__(self, memo: dict[int, Any]) -> Sparsifier:
        return copies.deep(self, memo)

    def __copy__(self) -> Sparsifier:
        raise copies.alone()

    # What there is to see

    @property
    def optimizer(self) -> Any:
        """The torch optimizer whose steps are listened to; several as one, with their groups and state."""
        return self.states.optimizer

    @property
    def given(self) -> list[Any]:
        """The optimizers as they were given, in their wrappers perhaps; in a copy the torch optimizers themselves."""
        return self._outer or list(self.optimizers)

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The torch optimizers themselves."""
        return self.states.parts

    @cached_property
    def identity(self) -> checkpoint.Identity:
        """What a training must share with this one to continue it."""
        shapes = {name: list(layer.info.shape) for name, layer in self.layers.items()}
        method = identify(*self._named)
        return checkpoint.Identity(self.seed, self.total_steps, self.target_density, method, shapes)

    def set_masks(self, masks: Masks) -> None:
        """Hold other masks, bool [*w] by layer name, from now on; weights that weren't active before are zero.

        Raises BadInput, with nothing changed, for an unknown or missing layer, another dtype or shape, and a mask
        that the structure doesn't allow."""
        masks = checked(masks, self.rules, self.weights.values, self.support)
        books = self.state.books
        books = replace(books, budget=budget_of(masks, books.budget, self.rules))
        self.state = replace(self.state, books=books, undecided=False)
        self.masking.impose(masks, self._silent)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: ``torch.load(..., weights_only=True)`` reads it back."""
        paths = self.arrangement.state()
        return checkpoint.save(
            self.identity, checkpoint.Snapshot(self.state, self.topology, self.signals.momentum, paths)
        )

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue exactly. Raises BadInput, unchanged, for another training's: see ``identity``."""
        snapshot = checkpoint.read(self.identity, saved, self.topology.masks, repr(self.method))
        self.arrangement.adopt(snapshot.paths, snapshot.topology.masks, snapshot.topology.support)
        # everything is read: from here on nothing fails, so nothing is half adopted
        self.state, self.signals.momentum = snapshot.state, snapshot.momentum
        self.masking.adopt(snapshot.topology)
        if not self.method.dense:
            self.masking.zero(self.topology.masks, self._silent)
        self._listen()

    # Inside

    @deciding
    def _start(self) -> None:
        """Dense, and sparse at once unless the initial masks need gradients: then at the first step."""
        self.state = TrainingState(self.rules.opening(), undecided=not self.method.dense)
        if self.method.dense:
            return
        if not self.method.init.needs:
            self._decide({})
        self.rules.check_removals(self.views())

    def _connect(self) -> None:
        """Be told of the optimizer's steps and checkpoints."""
        self._hooks = StepHooks(self.optimizers, self._prepare_step, self._finish_step)
        self.masking.listen_to_checkpoints()
        self._listen()

    def _listen(self) -> None:
        """Hear of new gradients of the weights as they are stored now, and look at what the next step needs."""
        self._hooks.listen(self.weights.values.values())
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Plan the coming step, and have its backward passes leave what it needs."""
        self._plan = self.timetable.plan(self.steps + 1, self.state.books.density)
        self.arrangement.collect(Signal.GRAD in self._plan.needs)

    def _decide(self, fields: Fields) -> None:
        """Initial masks, and zeros where they are inactive."""
        masks, books = self.rules.initial(self.state.books.density, fields)
        self.state = replace(self.state, books=books, undecided=False)
        self.masking.adopt(Topology(masks))
        self.masking.zero(masks, self._silent)

    @torch.no_grad()
    def _prepare_step(self) -> None:
        """Collect what the step's updates read, then mask the gradients."""
        if not self.method.dense and self._presence.replaced():
            self._hooks.listen(self.weights.values.values())
        self._idle = not trains(self.optimizer, self._hooks.renewed)
        if self._idle or self.method.dense:
            return
        if self.weights.moved:
            self.masking.move()
            self.signals.move(self.weights.values)
        self.masking.guard(self._silent)
        self._needed = self._plan.needs | (Signal.NONE if self.decided else self.method.init.needs)
        gradients = self.masking.gradients()
        if self._reach.note(gradients) or self._plan.target is not None:
            self._presence.check()
        if self._needed:
            self._collect(gradients)
        if not self._idle:
            self.masking.mask(gradients, self._silent)

    @deciding
    def _collect(self, gradients: Mapping[str, Tensor]) -> None:
        """Keep the gradients that updates read, and decide the initial masks where these waited for them. What would
        be decided by zeros alone waits for a step with others."""
        wanted = self.masking.logical(gradients)
        decides = self._plan.target is not None or not self.decided
        self._idle = (
            bool(wanted)
            and decides
            and not any(bool(gradient.any()) for gradient in wanted.values())
            and not (self.decided and trains(self.optimizer, False))
        )
        if self._idle:
            return
        init = self.method.init
        self.signals.keep(wanted, getattr(self.optimizer, "grad_scale", None))
        if not self.decided and not any(overflowed(part) for part in self.optimizers):
            ready = self.signals.ready(init.needs, self.topology.masks)
            lacking = next((name for name in self.layers if name not in ready), None)
            if lacking is not None:
                raise StrategyError(f"layer {lacking!r} has no gradient, which the initial masks need")
            fields = self.signals.read(init.needs, self.topology.masks)
            if finite(fields):
                self._decide(fields)

    @property
    def _silent(self) -> bool:
        """Whether dead rows are kept silent: once they can't come back. Until then the constant that their
        bias sends through an activation is what lets a gradient reach them."""
        return self.decided and self.steps >= self.last_planned_update

    @torch.no_grad()
    def _finish_step(self) -> None:
        """Count the applied step; do to the topology what its plan says."""
        if not self.method.dense:
            self.masking.settle(self._silent)
        if self._idle:
            return
        self.state = replace(self.state, steps=self.steps + 1)
        if self.method.dense:
            return
        if not self.decided:
            raise StrategyError(
                f"init {self.method.init!r}: a step was applied whose gradients aren't finite: no initial mask"
            )
        self.dense_gradient = bool(self._needed & (Signal.MOMENTUM | Signal.GRAD))
        self.signals.fold(self._needed)
        self._reach.report(self.steps, self._plan.target is not None)
        if self._plan.removes:
            self._remove()
        if self._plan.target:
            self._update(self._plan.target)
        self.signals.forget()
        self._look_ahead()
        if self._on_update is not None and self.last_update == self.steps:
            self._on_update(self.state.history[-1])

    @deciding
    def _update(self, target: Target) -> None:
        """One topology update, decided by the pure engine, then written. Layers without the signals that it reads
        sit it out, and all do where a network that has died gives zeros alone."""
        ready = self.signals.ready(self._needed, self.topology.masks)
        if not ready:
            return
        fields = self.signals.read(self._needed, {name: self.topology.masks[name] for name in ready})
        if blank(fields):
            return
        masks, books = self.rules.update(self.state.books, target, self.views(fields), self.steps, ready)
        change = self.masking.change(masks, self._silent)
        self._hooks.listen(self.weights.values.values())  # a layer may be stored otherwise now
        active = sum(self.topology.active.values())
        report = UpdateReport(self.steps, self.density, active, change.grown, change.dropped, self.r_s)
        self.state = replace(self.state, books=books, history=(*self.state.history, report))

    @deciding
    def _remove(self) -> None:
        """One event of the structure's own: positions go for good, with the weights that were active there."""
        support = self.rules.shrink(self.views(), self.steps)
        if not support:
            return
        held, supported = self.active, self.topology.supported
        change = self.masking.restrict(support, self._silent)
        self._hooks.listen(self.weights.values.values())
        now, left = self.topology.active, self.topology.supported
        removal = Removal(self.steps, supported - left, change.dropped, sum(now.values()), left)
        books = self.state.books.without({name: held[name] - now[name] for name in now})
        self.state = replace(self.state, books=books, removals=(*self.state.removals, removal))
