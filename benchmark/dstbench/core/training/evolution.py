"""Where a training stands, and what its decisions make of that: state, masks and weights change together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from dstbench.api import LayerView, Signal, StrategyError, Target
from dstbench.api.accumulators import SEEN
from dstbench.core import ranks
from dstbench.core.engine.books import Books
from dstbench.core.engine.finiteness import not_finite_of
from dstbench.core.engine.update import Masks
from dstbench.core.training.activity import Activity
from dstbench.core.training.calibration import Rehearsal
from dstbench.core.training.checkpoint import Snapshot
from dstbench.core.training.deciding import deciding
from dstbench.core.training.folding import Foldings
from dstbench.core.training.imposing import budget_of, checked
from dstbench.core.training.masking import Masking
from dstbench.core.training.optimizers import overflowed, trains
from dstbench.core.training.rounds import rehearsed
from dstbench.core.training.rules import Fields, Rules
from dstbench.core.training.signals import Signals, blank
from dstbench.core.training.state import TrainingState
from dstbench.core.training.superset import Superset
from dstbench.core.training.support import Removal
from dstbench.core.training.timetable import StepPlan
from dstbench.core.training.topology import Topology, UpdateReport
from dstbench.core.training.valuing import WeightValues, write
from dstbench.errors import BadInput, NotFinite


class Evolution:
    """Initial masks, updates and removals of a training: decided by its rules, carried out by its masking."""

    state: TrainingState

    def __init__(self, rules: Rules, masking: Masking) -> None:
        self.rules, self.masking, self.signals = rules, masking, Signals()
        self.values = WeightValues(rules.method.values, rules.seed)
        self.foldings = Foldings(rules.method.accumulators)
        self._unfit = "no gradients came"  # why there are no initial masks yet

    @property
    def decided(self) -> bool:
        """Whether there are initial masks; until then all weights are active (an init that reads gradients)."""
        return not self.state.undecided

    @property
    def silent(self) -> bool:
        """Whether dead rows are kept silent: once they can't come back. Until then the constant that their
        bias sends through an activation is what lets a gradient reach them."""
        return self.decided and self.state.steps >= self.rules.timetable.last_update

    @property
    def density(self) -> float:
        """Active weights / maskable ones, measured."""
        return sum(self.masking.topology.active.values()) / self.rules.size

    @property
    def r_s(self) -> float:
        """Weights that were ever active / maskable ones."""
        return sum(self.masking.topology.explored_counts.values()) / self.rules.size

    def views(self, fields: Fields = MappingProxyType({})) -> dict[str, LayerView]:
        """What strategies see of each layer now, with the signals of ``fields`` and what is remembered."""
        views = self.rules.views(self.state, self.masking.topology, self.masking.weights, fields)
        whole, memory = self.masking.whole(), self.values.memory
        return {
            name: replace(view, weight=whole.get(name, view.weight), memory=memory.get(name))
            for name, view in views.items()
        }

    @property
    def since_update(self) -> int | None:
        """Steps behind the last topology update; None: there was none."""
        return self.state.steps - self.state.history[-1].step if self.state.history else None

    @deciding
    def pulls(self, layers: Collection[str]) -> dict[str, Tensor]:
        """What is added to the gradients of these layers in the coming step, float [*w]."""
        views = self.views()
        return self.values.pulls({name: views[name] for name in layers}, self.state.steps + 1)

    @deciding
    def start(self, rehearsal: Rehearsal | None) -> None:
        """Dense, and sparse at once unless the initial masks need a step's gradients: then at the first step.
        rehearsal: for an init that is scored in rounds."""
        self.state = TrainingState(self.rules.opening(), undecided=not self.rules.method.dense)
        if self.rules.method.dense:
            return
        if rehearsal is not None:
            self._hold(*rehearsed(self.rules, rehearsal, self.state.books.density))
        elif not self.rules.method.init.waits:
            self._decide({})
        self.rules.check_removals(self.views())

    @deciding
    def collect(self, gradients: Mapping[str, Tensor], updates: bool) -> bool:
        """Keep the gradients that decisions read, and decide the initial masks where these waited for them.

        gradients: shaped as stored, by layer. updates: whether a topology update follows the step. Returns False
        where zeros alone would decide: that waits for a step with others.
        """
        wanted, optimizer = self.masking.logical(gradients), self.masking.states.optimizer
        zeros = bool(wanted) and not any(bool(gradient.any()) for gradient in wanted.values())
        if zeros and (updates or not self.decided) and not (self.decided and trains(optimizer, False)):
            self.state = replace(self.state, waits=self.state.waits + 1)
            return False
        self.signals.keep(wanted, getattr(optimizer, "grad_scale", None))
        if not self.decided and not any(overflowed(part) for part in self.masking.states.parts):
            needs, masks = self.rules.method.init.needs, self.masking.topology.masks
            ready = self.signals.ready(needs, masks)
            lacking = next((name for name in masks if name not in ready), None)
            if lacking is not None:
                raise StrategyError(f"layer {lacking!r} has no gradient, which the initial masks need")
            fields = self.signals.read(needs, masks)
            self._unfit = not_finite_of(fields)  # a loss scaler is about to skip the step, or should
            if not self._unfit:
                self._decide(fields)
        return True

    def _decide(self, fields: Fields) -> None:
        """Initial masks, and zeros where they are inactive."""
        self._hold(*self.rules.initial(self.state.books.density, fields))

    def _hold(self, masks: Masks, books: Books) -> None:
        """Begin with these masks."""
        self.state = replace(self.state, books=books, undecided=False)
        views = {
            name: replace(view, mask=masks[name], before=masks[name], active=books.budget[name],
                          allocation=books.allocation[name])
            for name, view in self.views().items()
        }  # fmt: skip
        values = self.values.begin(views)
        write(self.masking.weights, values, {name: torch.ones_like(masks[name]) for name in values})
        self._begin_superset(views, masks)
        self.masking.adopt(Topology(masks))
        self.masking.zero(masks, self.silent)

    def _begin_superset(self, views: Mapping[str, LayerView], masks: Masks) -> None:
        """Have more weights train than the masks let live, if that is asked for; all positions hold their values."""
        backward = self.rules.timetable.initial_backward
        if backward is None:
            return
        whole = {name: self.masking.weights.logical(name).clone() for name in masks}
        ranks.hold_as_rank_0(
            whole.values()
        )  # wrapping gives ranks one model's parameters, not what lies beside them
        views = {name: replace(view, weight=whole[name]) for name, view in views.items()}
        n = round(backward * self.rules.size)
        trained = self.rules.superset(views, masks, self.state.books, n, self.state.steps)
        self.masking.superset = Superset(trained, {n: v.masked_fill(masks[n], 0) for n, v in whole.items()})

    @deciding
    def accumulate(self, plan: StepPlan, activity: Activity) -> None:
        """What the coming step makes of the accumulators that it enters, from the weights that it starts from.
        Layers without the signals that one needs keep its total."""
        self.foldings.forget()
        if not plan.folds or not self.decided:
            return
        masks, device = self.masking.topology.masks, next(iter(self.masking.weights.values.values())).device
        views = {}
        for name in sorted(plan.folds):
            needs = self.foldings.foldings[name].needs
            ready = self.signals.ready(needs, masks)
            fields = self.signals.read(needs, {layer: masks[layer] for layer in ready})
            if self.foldings.foldings[name].entry is not None:
                fields[SEEN] = activity.everywhere(name, ready, device)
                ready = list(fields[SEEN])
                if not ready:
                    raise StrategyError(
                        f"accumulator {name!r} saw nothing pass through any layer before step "
                        f"{self.state.steps + 1}: it listens to modules being called, as compiled models' aren't"
                    )
            every = self.views(fields)
            views[name] = {layer: every[layer] for layer in ready}
        step = self.state.steps + 1
        with ranks.together(f"what accumulators make of step {step}"):
            self.foldings.prepare(plan.folds, views, self.rules.timetable.clock(step))

    def count(self, needs: Signal) -> None:
        """A step was applied, which collected this. Raises NotFinite where there still are no initial masks."""
        self.state = replace(self.state, steps=self.state.steps + 1, waits=0)
        if not self.decided:
            init, step = self.rules.method.init, self.state.steps
            raise NotFinite(f"init {init!r}, step {step}: {self._unfit}: no initial mask")
        self.signals.fold(needs)
        self.foldings.commit()

    @deciding
    def update(self, target: Target, needs: Signal) -> None:
        """One topology update, decided by the pure engine, then written. Layers without the signals that it reads
        sit it out, as frozen ones do. Where a network that has died gives gradients of zeros alone nothing moves,
        but where the density falls it is pruned to it."""
        masks, weights = self.masking.topology.masks, self.masking.weights.values
        ready = [name for name in self.signals.ready(needs, masks) if weights[name].requires_grad]
        if ready:
            ready = self.foldings.ready(ready, masks[ready[0]].device)
        if not ready:
            return
        fields = self.signals.read(needs, {name: masks[name] for name in ready})
        fields |= self.foldings.read({name: masks[name] for name in ready})
        if blank(fields):
            if round(target.final * self.rules.size) >= sum(self.state.books.budget.values()):
                return
            target = replace(target, keep=target.final)
        state, views = self.state, self.values.remember(self.views(fields), self.state.steps)
        masks, books, forbidden = self.rules.update(state.books, target, views, state.steps, ready)
        stay = {n: view.mask & ~forbidden[n] if n in forbidden else view.mask for n, view in views.items()}
        fresh = {name: mask & ~stay[name] for name, mask in masks.items()}
        grown = (
            {} if self.masking.superset is not None else self.values.grown(views, stay, masks, state.steps)
        )
        trained = self._trained(views, masks, books, target, ready)
        change = self.masking.change(masks, forbidden, self.silent, trained)
        write(self.masking.weights, grown, fresh)
        self.foldings.reset(fresh, update=True)
        active = sum(self.masking.topology.active.values())
        report = UpdateReport(state.steps, self.density, active, change.grown, change.dropped, self.r_s)
        self.state = replace(state, books=books, history=(*state.history, report))

    def _trained(
        self,
        views: Mapping[str, LayerView],
        masks: Masks,
        books: Books,
        target: Target,
        ready: Collection[str],
    ) -> Masks | None:
        """What trains behind an update; None: what is active. Raises StrategyError for a superset out of nowhere."""
        superset, schedule = self.masking.superset, self.rules.method.schedule
        if superset is None:
            if target.backward is not None:
                raise StrategyError(
                    f"{schedule!r}: {target} asks for a superset, its target of step 0 didn't"
                )
            return None
        n = round((target.backward or target.final) * self.rules.size)
        resting = {name: mask for name, mask in superset.masks.items() if name not in ready}
        return self.rules.superset(views, masks, books, n, self.state.steps, resting)

    @deciding
    def remove(self) -> None:
        """One event of the structure's own: positions go for good, with the weights that were active there."""
        support = self.rules.shrink(self.views(), self.state.steps)
        if not support:
            return
        topology = self.masking.topology
        held, supported = dict(topology.active), topology.supported
        change = self.masking.restrict(support, self.silent)
        now, left = topology.active, topology.supported
        removal = Removal(self.state.steps, supported - left, change.dropped, sum(now.values()), left)
        books = self.state.books.without({name: held[name] - now[name] for name in now})
        self.state = replace(self.state, books=books, removals=(*self.state.removals, removal))

    def impose(self, masks: Masks) -> None:
        """Hold other masks, bool [*w] by layer. Raises BadInput, with nothing changed, for any that don't fit."""
        masks = checked(masks, self.rules, self.masking.weights.values, self.masking.topology.support)
        books = self.state.books
        books = replace(books, budget=budget_of(masks, books.budget, self.rules))
        self.state = replace(self.state, books=books, undecided=False)
        before = self.masking.topology.masks
        self.foldings.reset({name: mask & ~before[name] for name, mask in masks.items()}, update=False)
        self.masking.impose(masks, self.silent)

    def check(self, snapshot: Snapshot) -> None:
        """Raise BadInput where a checkpoint lacks what this method goes on from."""
        missing = [f"totals.{name}" for name in self.foldings.totals if name not in snapshot.totals]
        if not snapshot.state.undecided:
            missing += ["memory"] if self.values.memory and not snapshot.memory else []
            missing += ["trained"] if self.masking.superset is not None and snapshot.superset is None else []
        if missing:
            raise BadInput(f"checkpoint: {missing[0]}: expected a value, got none: its method makes one")

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a checkpoint that was checked."""
        self.state, self.signals.momentum = snapshot.state, snapshot.momentum
        self.values.memory, self.masking.superset = snapshot.memory, snapshot.superset
        totals, topology = snapshot.totals, snapshot.topology
        self.foldings.totals = {name: dict(totals[name]) for name in self.foldings.totals}
        self.masking.adopt(topology)
        if not self.rules.method.dense:
            self.masking.zero(topology.masks, self.silent)

    @torch.no_grad()
    def move(self) -> None:
        """Follow the weights to another device or dtype."""
        self.masking.move()
        self.signals.move(self.masking.weights.values)
        self.values.move(self.masking.weights.values)
        self.foldings.move(self.masking.weights.values)
