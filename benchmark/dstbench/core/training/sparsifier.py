"""The one mutable object: it owns a model's masks and keeps weights, optimizer state and masks together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from dstbench.api import LayerView, Recipe, Signal, StrategyError, Structure, Support, Target
from dstbench.api.select import count
from dstbench.core import ranks
from dstbench.core.engine.allocation import bounds, check_count, check_density, uniform_budget
from dstbench.core.engine.random import generator
from dstbench.core.engine.structures import fitted
from dstbench.core.engine.update import Budget, Masks, initial_masks, make_goal, update_masks
from dstbench.core.network.channels import couplings
from dstbench.core.network.layers import Layer, budgeted_layers, unwrap
from dstbench.core.storage.compact import CompactArrangement
from dstbench.core.storage.condensed import CondensedArrangement
from dstbench.core.storage.stored import (
    Arrangement,
    MaskedArrangement,
    Storage,
    Weights,
    check_storage,
    keep_checkpoints_logical,
)
from dstbench.core.training import checkpoint
from dstbench.core.training.dead_rows import DeadRows
from dstbench.core.training.hooks import StepHooks, check_unhooked
from dstbench.core.training.method import build_method, check_condensable
from dstbench.core.training.optimizers import check_owner, innermost, overflowed
from dstbench.core.training.signals import Signals
from dstbench.core.training.summary import summarise
from dstbench.core.training.support import Removal, check_support, shrunk
from dstbench.core.training.timetable import Timetable
from dstbench.core.training.topology import Change, Topology, UpdateReport

if TYPE_CHECKING:
    from pandas import DataFrame

    from dstbench.registration.registry import Registry


def _deciding(method: Callable[[Sparsifier], None]) -> Callable[[Sparsifier], None]:
    """Without gradients, and in the weights' own precision whatever autocast is on around it."""

    @wraps(method)
    def run(self: Sparsifier) -> None:
        device = next(iter(self.layers.values())).weight.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            method(self)

    return run


class Sparsifier:
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
    left. Masks, draws, ``state_dict`` of model and optimizer, and so training itself, are the same in all three; load
    the Sparsifier's state after theirs. The last two want the model before DDP or ``torch.compile`` wrap it, and
    parameters to be listed, as for clipping, after this. An average of weights over time must be one of state dicts:
    what stands where in a stored weight changes.

    Raises BadInput for a bad density, an unknown recipe or a ``dense_layers`` pattern that matches nothing,
    and Infeasible where the density is less than one unit a layer.
    """

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
        example_input: Tensor | None = None,
        registry: Registry | None = None,
    ) -> None:
        check_storage(storage, model, example_input)
        inner = unwrap(model)
        check_count("seed", seed, "an integer >= 0", least=0)
        self.method = build_method(recipe, registry)
        self.target_density = 1.0 if self.method.dense else check_density(density)
        self.timetable = Timetable(self.method, self.target_density, total_steps, steps_per_epoch)
        self.seed, self.total_steps = seed, total_steps
        self.steps = 0  # applied optimizer steps
        self.history: list[UpdateReport] = []  # topology updates
        self.removals: list[Removal] = []  # what the structure took away for good
        self.dense_gradient = False  # whether the last applied step needed a dense backward pass
        self._outer, self.optimizer = optimizer, innermost(optimizer)
        patterns = (
            *self.method.dense_layers,
            *([dense_layers] if isinstance(dense_layers, str) else dense_layers),
        )
        self.layers, self.dense_layers = budgeted_layers(model, patterns)
        check_unhooked(self.optimizer)
        check_owner(self.optimizer, [layer.weight for layer in self.layers.values()])
        self.fallbacks: dict[str, str] = {}  # layers that the structure doesn't fit, and why
        self.structures = {name: self._structure(layer) for name, layer in self.layers.items()}
        self._dead = DeadRows(model, {} if self.method.dense else self.structures)
        self.signals, self._needed = Signals(), Signal.NONE  # by the coming step
        self._due: Target | None = None
        self._leaky = False  # the optimizer moves weights whose gradient and state are zero
        self._couplings = couplings(inner, self.layers) if self.method.support else ()
        self.weights = Weights(self.layers, self.optimizer)
        self.arrangement: Arrangement = MaskedArrangement()
        if storage == "compact":
            self.arrangement = CompactArrangement(inner, self._couplings, self.weights)
        self._start()
        if example_input is not None and storage == "condensed" and not self.method.dense:
            check_condensable(self.method)
            self.arrangement = condensing = CondensedArrangement(
                inner, self.layers, self.structures, self.weights
            )
            condensing.choose(self.masks, example_input)
            self._hold()
        self._hooks = StepHooks(self.optimizer, self._prepare_step, self._finish_step)
        keep_checkpoints_logical(self.optimizer, self.arrangement.stored)
        self._listen()

    # What a training loop calls

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the optimizer and, when one is due, update the topology. Returns what the optimizer returns.
        Built before Accelerate's ``prepare``, it can't know the wrapper: call the prepared optimizer's step."""
        return self._outer.step() if closure is None else self._outer.step(closure)

    def mask_gradients(self) -> None:
        """Mask the gradients now rather than at the step: call it before clipping by norm, so that gradients
        of inactive weights don't count. Harmless to call twice. A loss scaler must have unscaled them."""
        self._hooks.prepare()

    @torch.no_grad()
    def apply_masks(self, model: nn.Module) -> None:
        """Zero the inactive weights of a copy of the model, such as an average of its weights."""
        self.weights.mask(model)

    def detach(self) -> None:
        """Stop: unhook from the optimizer. The model keeps its zeros."""
        self._hooks.remove()

    # What there is to see

    @property
    def last_update(self) -> int:
        """The step of the training's last topology update; 0 if there is none."""
        return self.timetable.last_update

    @property
    def masks(self) -> Masks:
        """{layer name: bool [*w]}; not copies, so don't write to them."""
        return dict(self.topology.masks)

    @property
    def size(self) -> int:
        """N: the maskable weights in the budget."""
        return sum(layer.info.numel for layer in self.layers.values())

    @property
    def active(self) -> Budget:
        """The measured number of active weights of each layer."""
        return dict(self.topology.active)

    @property
    def density(self) -> float:
        """Active weights / N, measured."""
        return sum(self.topology.active.values()) / self.size

    @property
    def explored(self) -> Budget:
        """The number of weights of each layer that were ever active, the initial mask included."""
        return dict(self.topology.explored_counts)

    @property
    def r_s(self) -> float:
        """R_s: the fraction of weights that were ever active, the initial mask included (ITOP, arXiv 2102.02887)."""
        return sum(self.topology.explored_counts.values()) / self.size

    @property
    def support(self) -> Masks:
        """{layer name: bool [*w]} where a layer may ever be active again, for layers that lost positions for good."""
        return dict(self.topology.support)

    @property
    def initial(self) -> Budget:
        """The number of weights of each layer that were active at the start."""
        return dict(self.topology.initial)

    @property
    def kept(self) -> Budget:
        """The number of weights of each layer that every topology so far has held."""
        return {name: count(mask) for name, mask in self.topology.kept.items()}

    @property
    def never_dropped(self) -> float:
        """The fraction of the initially active weights that every topology so far has held."""
        return sum(self.kept.values()) / sum(self.initial.values())

    @property
    def collapsed(self) -> list[str]:
        """Layers whose weights are all zero: grown at zero, and no gradient reaches them any more."""
        return [name for name, values in self.weights.values.items() if not bool(values.detach().any())]

    @property
    def decided(self) -> bool:
        """Whether there are initial masks; until then all weights are active (an init that reads gradients)."""
        return not self._undecided

    def summary(self) -> DataFrame:
        """One row a layer: shape, structure, target and measured density, exploration, rows without a weight."""
        return summarise(self)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: ``torch.load(..., weights_only=True)`` reads it back."""
        return checkpoint.save(self)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue exactly. Raises BadInput if it was saved for other layers, another seed or another length."""
        checkpoint.load(self, saved)

    # Inside

    def _structure(self, layer: Layer) -> Structure:
        structure, reason = fitted(self.method.structure, layer.info)
        if reason is not None:
            self.fallbacks[layer.info.name] = reason
        return structure

    @_deciding
    def _start(self) -> None:
        """Dense, and sparse at once unless the initial masks need gradients: then at the first step."""
        first = self.timetable.target(0)
        self._final = first.final if first else self.target_density
        self._undecided = not self.method.dense  # until there are initial masks
        self.budget = {name: layer.info.numel for name, layer in self.layers.items()}
        self.allocation, self._proportions = dict(self.budget), dict(self.budget)
        self._begin({n: torch.ones_like(p, dtype=torch.bool) for n, p in self.weights.values.items()})
        if self.method.dense:
            return
        infos = {name: layer.info for name, layer in self.layers.items()}
        last = round(self.target_density * self.size)
        limits = bounds(infos, self.structures)
        uniform_budget(infos, last, *limits)  # raises now, not when it gets there
        if self.method.starts_full:
            self._final = sum(limits[1].values()) / self.size
        if not self.method.init.needs:
            self._decide({})
        if self.method.support:
            start = self.timetable.clock(0)
            check_support(self.method.support, self.timetable.clock, self.last_update)
            shrunk(self.method.support, self._views({}), self._couplings, start)  # may refuse the network

    @torch.no_grad()
    def set_masks(self, masks: Masks) -> None:
        """Hold other masks, bool [*w] by layer name, from now on; weights that weren't active before are zero."""
        survivors = {name: masks[name] & mask for name, mask in self.topology.masks.items()}
        self.topology.adopt({name: masks[name] for name in self.layers})
        self._hold()
        self._zero(survivors)

    def _begin(self, masks: Masks) -> None:
        self.topology = Topology(masks)
        self._hold()

    def _listen(self) -> None:
        """Hear of new gradients of the weights as they are stored now, and ask for those that the next step needs."""
        self._hooks.listen(self.weights.values.values())
        self.arrangement.collect(Signal.GRAD in self._needs())

    def _hold(self) -> None:
        """Bring what is stored, and what masks it, in line with the topology."""
        self.arrangement.follow(self.topology.masks, self.topology.support)
        self.weights.hold(self.topology.masks)
        self._dead.hold(self.topology.masks, self.arrangement.rows)

    def _decide(self, fields: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Initial masks, the same on every rank, and zeros where they are inactive."""
        n = round(self._final * self.size)
        masks, budget = initial_masks(
            self.layers, self.structures, self.method.init, n, self.seed, fields=fields
        )
        ranks.broadcast(masks)
        self.budget = ranks.broadcast_counts(budget, next(iter(masks.values())).device)
        self.allocation, self._proportions = dict(self.budget), dict(self.budget)
        self._begin(masks)
        self._undecided = False
        self._zero(masks)

    @_deciding
    def _prepare_step(self) -> None:
        """Collect what the step's updates read, then mask the gradients."""
        if self.method.dense:
            return
        if self.weights.moved:
            values = self.weights.values
            self.topology.follow({name: value.device for name, value in values.items()})
            self.signals.move(values)
            self._hold()
        self._due = self.timetable.target(self.steps + 1)
        self._needed = self._needs()
        gradients = {n: p.grad for n, p in self.weights.values.items() if p.grad is not None}
        wanted = {n: self._gradient(n, g) for n, g in gradients.items()} if self._needed else {}
        self.signals.keep(wanted, getattr(self.optimizer, "grad_scale", None))
        if self._undecided and not overflowed(self.optimizer):
            self._decide_from_gradients()
        pairs = [(gradient, self.weights.floats[name]) for name, gradient in gradients.items()]
        if self._silent:
            pairs += self._dead.gradients()
        if pairs:
            torch._foreach_mul_([gradient for gradient, _ in pairs], [mask for _, mask in pairs])

    def _needs(self) -> Signal:
        """What the coming step must collect."""
        needed = self.timetable.needs(self.steps + 1, self._final)
        return needed | self.method.init.needs if self._undecided else needed

    def _gradient(self, name: str, stored: Tensor) -> Tensor:
        """A layer's gradient in the logical shape, float [*w], as dense as this step needs it."""
        dense = self.arrangement.dense_gradient(name)
        return self.weights.stored[name].logical(stored) if dense is None else dense

    def _decide_from_gradients(self) -> None:
        """Decide the initial masks, unless a loss scaler is about to skip the step for its gradients."""
        fields = self.signals.read(self.method.init.needs, self.topology.masks)
        self._check_complete(fields, "the initial masks need")
        if all(bool(g.isfinite().all()) for values in fields.values() for g in values.values()):
            self._decide(fields)

    def _check_complete(self, fields: Mapping[str, Mapping[str, Tensor]], why: str) -> None:
        for name in self.layers:
            if any(name not in values for values in fields.values()):
                raise StrategyError(f"layer {name!r} has no gradient, which {why}")

    @property
    def _silent(self) -> bool:
        """Whether dead rows are kept silent: once they can't come back. Until then the constant that their
        bias sends through an activation is what lets a gradient reach them."""
        return bool(self._dead.vectors) and not self._undecided and self.steps >= self.last_update

    @_deciding
    def _finish_step(self) -> None:
        """Count the applied step; update the topology if it is due."""
        if overflowed(self.optimizer):
            return
        self.steps += 1
        if self.method.dense:
            return
        if self._undecided:
            raise StrategyError(
                f"init {self.method.init!r}: a step was applied whose gradients aren't finite: no initial mask"
            )
        self.dense_gradient = bool(self._needed & (Signal.MOMENTUM | Signal.GRAD))
        self.signals.fold(self._needed)
        if self.steps & (self.steps - 1) == 0:  # 1, 2, 4, 8, …: a warm-up from zero may hide it at first
            self._leaky = self._leaky or self.weights.leak(self.topology.active)
        if self._leaky:
            self._zero(self.topology.masks)
        if self.method.support and self.timetable.removes(self.steps):
            self._remove(self.method.support)
        if self._due is not None:
            self._update(self._due)
        self.signals.forget()
        self.arrangement.collect(Signal.GRAD in self._needs())

    def _update(self, target: Target) -> None:
        """One topology update, decided by the pure engine, then written."""
        fields = self.signals.read(self._needed, self.topology.masks)
        self._check_complete(fields, "a topology update at this step needs")
        views = self._views(fields)

        def draw(name: str, role: str) -> Generator:
            return generator(self.seed, name, self.steps, role)

        method = self.method
        share, density = method.init.share, self.target_density
        goal = make_goal(target, self._final, views, self.structures, share, self._proportions, density)
        masks, self.budget = update_masks(views, self.structures, method.prune, method.grow, goal, draw)
        self._due = None
        self.allocation, self._final = goal.final_allocation, target.final
        ranks.check_equal(masks)
        change = self.topology.change(masks)
        self._write(change)
        active = sum(self.topology.active.values())
        self.history.append(
            UpdateReport(self.steps, self.density, active, change.grown, change.dropped, self.r_s)
        )

    def _remove(self, component: Support) -> None:
        """One event of the structure's own: positions go for good, with the weights that were active there."""
        support = shrunk(component, self._views({}), self._couplings, self.timetable.clock(self.steps))
        ranks.check_equal({name: support.get(name, mask) for name, mask in self.topology.masks.items()})
        if not support:
            return
        held, supported = self.active, self.topology.supported
        change = self.topology.restrict(support)
        lost = {name: held[name] - now for name, now in self.topology.active.items()}
        self.budget = {name: max(0, budget - lost[name]) for name, budget in self.budget.items()}
        self._write(change)
        active, left = sum(self.topology.active.values()), self.topology.supported
        self.removals.append(Removal(self.steps, supported - left, change.dropped, active, left))

    def _write(self, change: Change) -> None:
        """Follow a change of the masks: weights, optimizer state, rows."""
        self._hold()
        self._hooks.listen(self.weights.values.values())  # a layer may be stored otherwise now
        self._zero(change.survivors)

    def _views(self, fields: Mapping[str, Mapping[str, Tensor]]) -> dict[str, LayerView]:
        return {name: self._view(layer, fields) for name, layer in self.layers.items()}

    def _view(self, layer: Layer, fields: Mapping[str, Mapping[str, Tensor]]) -> LayerView:
        name = layer.info.name
        return LayerView(
            layer.info,
            self.weights.logical(name),
            self.topology.masks[name],
            self.topology.masks[name],
            self.budget[name],
            self.allocation[name],
            self.steps / self.total_steps,
            support=self.topology.support.get(name),
            **{kind: values[name] for kind, values in fields.items()},
        )

    def _zero(self, survivors: Mapping[str, Tensor]) -> None:
        """Keep weights and their optimizer state where ``survivors``, bool [*w], say so; zero the rest in place."""
        self.weights.zero(survivors)
        if self._silent:
            self._dead.zero(self.optimizer)
