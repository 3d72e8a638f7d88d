"""Carrying a topology out: what is stored, what masks it and what is zero follow the masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from dstbench.core.engine.update import Masks
from dstbench.core.network.inputs import Inputs
from dstbench.core.storage.arrangement import Arrangement, MaskedArrangement
from dstbench.core.storage.bits import keep
from dstbench.core.storage.compact import CompactArrangement
from dstbench.core.storage.condensed import CondensedArrangement
from dstbench.core.storage.states import States
from dstbench.core.storage.stored import Storage, Weights, keep_checkpoints_logical
from dstbench.core.training.dead_rows import DeadRows
from dstbench.core.training.rules import Rules
from dstbench.core.training.superset import Superset
from dstbench.core.training.topology import Change, Topology
from dstbench.core.training.valuing import write
from dstbench.core.training.watch import Watch


class Masking:
    """A network's weights with their gradients, optimizer state and dead rows, held to the masks of a topology.

    silent, in what follows: whether dead rows are kept silent, too.
    """

    topology: Topology

    def __init__(self, model: nn.Module, rules: Rules, states: States, example: Inputs | None) -> None:
        """All weights are active. example: an input, for models that can't be traced without one."""
        self._rules, self.states, self._watch = rules, states, Watch(states)
        self._dead = DeadRows(model, {} if rules.method.dense else rules.structures, rules.couplings, example)
        self._still = False  # whether the optimizers leave zeros alone
        self._known = False  # whether what they did once is what they always do
        self._first = True  # no step was applied yet
        self.superset: Superset | None = None  # what trains besides the active weights
        self.weights = Weights(rules.layers, states)
        self.arrangement: Arrangement = MaskedArrangement()
        values = self.weights.values
        self.adopt(Topology({n: torch.ones_like(v, dtype=torch.bool) for n, v in values.items()}))

    def arrange(self, storage: Storage, model: nn.Module, example_input: Inputs | None) -> None:
        """Store the weights in another way than whole, by the masks that there are."""
        rules = self._rules
        if storage == "compact":
            self.arrangement = CompactArrangement(model, rules.couplings, self.weights)
        elif storage == "condensed" and example_input is not None and not rules.method.dense:
            offers = {name: structure.accelerate for name, structure in rules.structures.items()}
            condensed = CondensedArrangement(model, rules.layers, offers, self.weights)
            condensed.choose(self.topology.masks, example_input)
            self.arrangement = condensed
        self._hold()
        conducts = [self.states.conduct(weight) for weight in self.weights.values.values()]
        self._still = all(conduct.still for conduct in conducts)
        self._known = self.states.known and all(conduct.condensed and conduct.movable for conduct in conducts)

    @torch.no_grad()
    def adopt(self, topology: Topology) -> None:
        """Follow another topology from now on."""
        self.topology = topology
        self._hold()

    @torch.no_grad()
    def impose(self, masks: Masks, silent: bool) -> None:
        """Hold other masks, bool [*w] by layer, without counting them as explored."""
        survivors = {name: masks[name] & mask for name, mask in self.topology.masks.items()}
        if self.superset is not None:
            self.superset.adopt(self.superset.masks, self.whole(), masks)
        self.topology.adopt(masks)
        self._hold()
        self.zero(survivors, silent)

    def change(self, masks: Masks, forbidden: Masks, silent: bool, trained: Masks | None = None) -> Change:
        """Hold the masks that a topology update decided, and train ``trained``, where there is a superset.

        forbidden: bool [*w] of layers with weights that begin anew though they are active, which a score removed
        by force; those of a superset keep what they hold, as all of its positions do."""
        if self.superset is None or trained is None:
            return self._follow(self.topology.change(masks, forbidden), silent)
        whole = self.whole()
        self.superset.adopt(trained, whole, masks)
        change = self._follow(self.topology.change(masks), silent)
        write(self.weights, whole, masks)
        return change

    def whole(self) -> dict[str, Tensor]:
        """What every position holds, float [*w] by layer, of a training with a superset; {} of any other."""
        return {} if self.superset is None else self.superset.whole(self.weights, self.topology.masks)

    def enter(self, layers: Collection[str]) -> None:
        """An optimizer is about to step these layers."""
        if self.superset is not None:
            self.superset.enter(self.weights, self.topology.masks, layers)

    def leave(self) -> None:
        """It has stepped."""
        if self.superset is not None:
            self.superset.leave(self.weights, self.topology.masks)

    def restrict(self, support: Masks, silent: bool) -> Change:
        """Give up what lies outside the support of some layers, for good."""
        return self._follow(self.topology.restrict(support), silent)

    def move(self) -> None:
        """Go where the weights went, as when Accelerate's ``prepare`` moves them."""
        self.topology.follow({name: value.device for name, value in self.weights.values.items()})
        if self.superset is not None:
            self.superset.move(self.weights.values)
        self._hold()

    def gradients(self) -> dict[str, Tensor]:
        """Of the layers that have one, shaped as stored."""
        return {name: value.grad for name, value in self.weights.values.items() if value.grad is not None}

    def logical(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients in logical shapes, float [*w], as dense as the arrangement was asked to collect them."""
        dense = {name: self.arrangement.dense_gradient(name) for name in gradients}
        return {
            name: self.weights.stored[name].logical(gradient) if (whole := dense[name]) is None else whole
            for name, gradient in gradients.items()
        }

    def mask(self, gradients: Mapping[str, Tensor], silent: bool) -> None:
        """Zero the gradients of inactive weights, in place, whatever they are: infinite or NaN, too."""
        weights = self.weights
        bits = weights.bits if self.superset is None else self.superset.bits(weights.values)
        pairs = [(gradient, bits[name]) for name, gradient in gradients.items()]
        keep(pairs + self._dead.gradients(silent))

    @torch.no_grad()
    def zero(self, survivors: Mapping[str, Tensor], silent: bool) -> None:
        """Keep weights and their optimizer state where ``survivors``, bool [*w], say so; zero the rest in place.
        State of what trains without being active stays, too."""
        self.weights.zero(survivors, {} if self.superset is None else self.superset.masks)
        self._dead.zero(self.states, silent)
        self._watch.look(self.weights.values)

    @torch.no_grad()
    def guard(self, silent: bool) -> None:
        """Zero what others wrote into inactive weights, wherever and however, and into their optimizer state."""
        if written := self._watch.written(self.weights.values):
            self.zero({name: self.topology.masks[name] for name in written}, silent)
        self._enforce(silent)

    @torch.no_grad()
    def settle(self, silent: bool) -> None:
        """Zero what a step may have written into inactive weights."""
        if not self._still or self.states.overheard or self._first:
            self._first = (
                False  # fused optimizers begin with whatever memory held where their first step is skipped
            )
            self.zero(self.topology.masks, silent)
            return
        if not self._known:
            self._enforce(silent)
        self._watch.look(self.weights.values)

    @torch.no_grad()
    def enforce(self, silent: bool) -> None:
        """Zero all inactive weights, in what was loaded for another topology, too."""
        self._hold()
        self.zero(self.topology.masks, silent)

    def listen_to_checkpoints(self) -> None:
        """Have the optimizers' checkpoints hold state in logical shapes."""
        keep_checkpoints_logical(self.states, self.arrangement.stored)
        for optimizer in self.states.parts:
            optimizer.register_load_state_dict_post_hook(lambda _: self._watch.forget())

    def _enforce(self, silent: bool) -> None:
        self.weights.enforce()
        self._dead.enforce(silent)

    def _hold(self) -> None:
        """Bring what is stored, and what masks it, in line with the topology."""
        self.arrangement.follow(self.topology.masks, self.topology.support)
        self.weights.hold(self.topology.masks)
        self._dead.hold(self.topology.masks, self.arrangement.rows, self.topology.support)

    def _follow(self, change: Change, silent: bool) -> Change:
        self.states.forget()
        self._hold()
        self.zero(change.survivors, silent)
        return change
