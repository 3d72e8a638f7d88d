"""The one mutable object: it owns a model's masks and keeps weights, optimizer state and masks together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dstbench.api import Recipe, Signal, Spec, ValuePolicy, Values
from dstbench.core import ranks
from dstbench.core.engine.allocation import check_count, check_density
from dstbench.core.engine.update import Masks
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.layers import unwrap
from dstbench.core.network.ownership import owned, patterns_of
from dstbench.core.storage.states import States
from dstbench.core.storage.stored import Storage, check_storage
from dstbench.core.training import checkpoint, copies
from dstbench.core.training.activity import Activity
from dstbench.core.training.calibration import Calibration
from dstbench.core.training.evolution import Evolution
from dstbench.core.training.hooks import StepHooks, check_unhooked
from dstbench.core.training.joint import joined, optimizers_of, parameters_of, step_all
from dstbench.core.training.masking import Masking
from dstbench.core.training.method import as_recipe, build_method, described
from dstbench.core.training.optimizers import trains
from dstbench.core.training.preparing import prepared, valued
from dstbench.core.training.presence import Presence
from dstbench.core.training.reach import Reach
from dstbench.core.training.readings import Readings
from dstbench.core.training.rounds import rehearsal_of
from dstbench.core.training.rules import Rules
from dstbench.core.training.stepping import Stepping
from dstbench.core.training.timetable import Timetable
from dstbench.core.training.topology import UpdateReport
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

    values: in place of the recipe's, a component's name, its spec, or a Values.

    optimizer: a torch optimizer, or several that each weight is in one of; ``step`` steps all, and the topology
    changes once they all have. on_update: called with the UpdateReport of every topology update, after it.
    calibration: batches for an init that looks at some before training; ``passes`` says what that cost.

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
        values: Spec | Values | ValuePolicy | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        check_storage(storage, model, example_input)
        check_count("seed", seed, "an integer >= 0", least=0)
        if on_update is not None and not callable(on_update):
            raise BadInput(f"on_update: expected a function of an UpdateReport, got {on_update!r}")
        given, recipe = recipe, valued(as_recipe(recipe, registry), values)
        self.method, self._named = build_method(recipe, registry), (recipe, registry)
        self.target_density = 1.0 if self.method.dense else check_density(density)
        self.timetable = Timetable(self.method, self.target_density, total_steps, steps_per_epoch)
        self.seed, self.total_steps, self._name = seed, total_steps, described(given)
        self._outer: list[Any] | None = (
            list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        )
        self.states = States(joined(optimizers_of(optimizer, model)))
        for part in self.optimizers:
            check_unhooked(part)
        self.method = prepared(self.method, self.timetable, self.optimizers, storage)
        self.timetable = replace(self.timetable, method=self.method)
        self._owned = owned(
            model,
            (*self.method.dense_layers, *patterns_of(dense_layers)),
            {id(parameter) for parameter in parameters_of(self.optimizer)},
        )
        self.layers, self.dense_layers = self._owned.sparse, self._owned.dense

        rules = Rules.of(model, self.timetable, self.layers, seed, example_input)
        self.structures, self.fallbacks = rules.structures, rules.fallbacks
        changes = self.timetable.last_update > 0 or self.method.support is not None
        weights = {name: layer.weight for name, layer in self.layers.items()}
        self.states.check(weights, model.parameters(), storage, changes)
        self.evolution = Evolution(rules, Masking(model, rules, self.states, example_input))
        self.presence = Presence(model, self.weights)
        self.dense_gradient = False  # whether the last applied step needed a dense backward pass
        self._needed = Signal.NONE  # by the coming step
        self._on_update, self._reach = on_update, Reach(self.layers, steps_per_epoch)
        self._idle = False  # whether the coming step isn't one of training
        self._activity = Activity(self.layers, unwrap(model), seed)

        ranks.agree(lambda: {**vars(self.identity), "steps_per_epoch": steps_per_epoch, "storage": storage})
        with undone_on_failure(model, self.optimizers):
            self.evolution.start(rehearsal := rehearsal_of(model, rules, calibration, example_input))
            self.passes = () if rehearsal is None else tuple(rehearsal.passes)
            self.masking.arrange(storage, unwrap(model), example_input)
            self.arrangement = self.masking.arrangement
            self._connect()
            cautions = self.method.values.cautions(self.timetable.last_update > 0)
            for warning in () if self.method.dense else (self._owned.warning(), *cautions):
                if warning:
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
        return step_all(self.given, closure)

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
        self._activity.stop()

    def enforce(self) -> None:
        """Zero the inactive weights now, with their optimizer state: for an evaluation behind whatever wrote weights
        from outside, such as ``load_state_dict`` or an average swapped in. The next step would see it by itself."""
        if not self.method.dense:
            self._follow(whole=True)
            self.masking.enforce(self.evolution.silent)

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

    # State

    def set_masks(self, masks: Masks) -> None:
        """Hold other masks, bool [*w] by layer name, from now on; weights that weren't active before are zero.

        Raises BadInput, with nothing changed, for an unknown or missing layer, another dtype or shape, and a mask
        that the structure doesn't allow."""
        self.evolution.impose(masks)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: ``torch.load(..., weights_only=True)`` reads it back.

        Raises BadInput where the model no longer has the layers that these are the masks of."""
        if not self.method.dense:
            self.presence.check(whole=True)
        return checkpoint.save(
            self.identity,
            checkpoint.Snapshot(
                self.state,
                self.topology,
                self.signals.momentum,
                self.arrangement.state(),
                self.evolution.values.memory,
                self.masking.superset,
                self.evolution.foldings.totals,
            ),
        )

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue exactly. Raises BadInput, unchanged, for another training's: see ``identity``."""
        snapshot = checkpoint.read(self.identity, saved, self.topology.masks, repr(self.method))
        self.evolution.check(snapshot)
        self.arrangement.adopt(snapshot.paths, snapshot.topology.masks, snapshot.topology.support)
        # everything is read: from here on nothing fails, so nothing is half adopted
        self.evolution.resume(snapshot)
        self._listen()

    # Inside

    def _connect(self) -> None:
        """Be told of the optimizer's steps and checkpoints."""
        self._stepping = Stepping(self.evolution)
        self._hooks = StepHooks(
            self.optimizers, self._prepare_step, self._mask, self._finish_step, self._stepping
        )
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
        foldings = self.evolution.foldings.foldings
        self._activity.watch({name: foldings[name] for name in self._plan.folds}, self.steps + 1)

    @torch.no_grad()
    def _prepare_step(self) -> None:
        """Collect what the step's updates read, then mask the gradients."""
        if not self.method.dense:
            self._follow(whole=self._plan.target is not None)
        self._idle = not trains(self.optimizer, self._hooks.renewed)
        if self.method.dense:
            return
        if not self._idle:
            self._needed = self._plan.needs | (Signal.NONE if self.decided else self.method.init.needs)
            gradients = self.masking.gradients()
            self._reach.note(gradients)
            if self._needed:
                self._idle = not self.evolution.collect(gradients, self._plan.target is not None)
            if not self._idle:
                self.evolution.accumulate(self._plan, self._activity)
        self._stepping.trains = not self._idle
        self._mask()

    @torch.no_grad()
    def _mask(self) -> None:
        """Have the coming step see zeros alone where weights are inactive: no gradients, and nothing that others
        wrote since it was prepared."""
        if not self.method.dense:
            self.masking.guard(self.evolution.silent)
            self.masking.mask(self.masking.gradients(), self.evolution.silent)

    def _follow(self, whole: bool) -> None:
        """Find the weights where they are now. whole: look through all of the model."""
        self.presence.check(whole)
        if self.presence.adopt():
            self._hooks.listen(self.weights.values.values())
        if self.weights.moved:
            self.evolution.move()

    @torch.no_grad()
    def _finish_step(self) -> None:
        """Count the applied step; do to the topology what its plan says."""
        if not self.method.dense:
            self.masking.settle(self.evolution.silent)
        if self._idle:
            return
        self.evolution.count(self._needed)
        if self.method.dense:
            return
        self.dense_gradient = bool(self._needed & (Signal.MOMENTUM | Signal.GRAD))
        self._reach.report(self.steps, self._plan.target is not None)
        if self._plan.removes:
            self.evolution.remove()
        if self._plan.target:
            self.evolution.update(self._plan.target, self._needed)
        if self._plan.removes or self._plan.target:
            self._hooks.listen(self.weights.values.values())  # a layer may be stored otherwise now
        self.signals.forget()
        self._look_ahead()
        if self._on_update is not None and self.last_update == self.steps:
            self._on_update(self.state.history[-1])
