"""What a training goes by, resolved once, and the decisions that follow: from values to values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor, nn

from dstbench.api import Coupling, LayerView, Policy, Target
from dstbench.api.select import count
from dstbench.core import ranks
from dstbench.core.engine.allocation import bounds, uniform_budget, view_fields
from dstbench.core.engine.backward import superset_masks
from dstbench.core.engine.books import Books
from dstbench.core.engine.finiteness import check_finite
from dstbench.core.engine.random import draws
from dstbench.core.engine.structures import EngineStructure, fitted
from dstbench.core.engine.update import Masks, initial_masks, update_masks
from dstbench.core.network.couplings import couplings
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.layers import Layer, unwrap
from dstbench.core.network.passages import Passages, passages
from dstbench.core.storage.stored import Weights
from dstbench.core.training.method import Method
from dstbench.core.training.state import TrainingState
from dstbench.core.training.support import check_support, shrunk
from dstbench.core.training.timetable import Timetable
from dstbench.core.training.topology import Topology

Fields = Mapping[str, Mapping[str, Tensor]]  # LayerView's field, or name in ``extra`` -> layer name -> [*w]


@dataclass(frozen=True)
class Rules:
    """The resolved method of a training, with the layers that it applies to. Every rank decides alike, or is told."""

    timetable: Timetable
    layers: Mapping[str, Layer]  # those in the budget
    structures: Mapping[str, EngineStructure]  # of each layer
    fallbacks: Mapping[str, str]  # layers that the structure doesn't fit, unstructured instead, and why
    unscored: Mapping[str, str]  # layers that a score can't rank, taken at random there, and why
    couplings: tuple[Coupling, ...]  # the channels that a structure may remove
    seed: int
    passages: Passages | None = None  # along which prune's removals percolate

    @classmethod
    def of(
        cls,
        model: nn.Module,
        timetable: Timetable,
        layers: Mapping[str, Layer],
        seed: int,
        example: Inputs | None = None,
    ) -> Rules:
        """Fit the method to the layers of a model. example: an input, for models that can't be traced without one."""
        method = timetable.method
        fits = {name: fitted(method.structure, layer.info) for name, layer in layers.items()}
        structures = {name: structure for name, (structure, _) in fits.items()}
        fallbacks = {name: why for name, (_, why) in fits.items() if why is not None}
        coupled = couplings(unwrap(model), layers, example) if method.support else ()
        unscored = _unscored(method, layers, updates=timetable.last_update > 0)
        followed = passages(unwrap(model), layers, example) if method.prune.percolates else None
        return cls(timetable, layers, structures, fallbacks, unscored, coupled, seed, followed)

    @property
    def method(self) -> Method:
        """One component of each kind."""
        return self.timetable.method

    @property
    def size(self) -> int:
        """N: the maskable weights in the budget."""
        return sum(layer.info.numel for layer in self.layers.values())

    def opening(self) -> Books:
        """The books of the dense network, at the density that the initial masks will have.

        Raises Infeasible where the training's density can't be held: now, not when it gets there.
        """
        infos = {name: layer.info for name, layer in self.layers.items()}
        books = Books.opened(
            self.timetable.initial_density, {name: info.numel for name, info in infos.items()}
        )
        if self.method.dense:
            return books
        lower, upper = bounds(infos, self.structures)
        uniform_budget(infos, round(self.timetable.density * self.size), lower, upper)
        full = sum(upper.values()) / self.size
        return replace(books, density=full) if self.method.starts_full else books

    def views(
        self, state: TrainingState, topology: Topology, weights: Weights, fields: Fields
    ) -> dict[str, LayerView]:
        """What strategies see of each layer. fields: the signals that they asked for, where a layer has them."""
        masks, books = topology.masks, state.books
        return {
            name: LayerView(
                layer.info,
                weights.logical(name),
                mask=masks[name],
                before=masks[name],
                active=books.budget[name],
                allocation=books.allocation[name],
                progress=self.timetable.clock(state.steps).progress,
                support=topology.support.get(name),
                **view_fields({kind: values[name] for kind, values in fields.items() if name in values}),
            )
            for name, layer in self.layers.items()
        }

    def initial(
        self, density: float, fields: Fields, survivors: Masks | None = None, most: bool = False
    ) -> tuple[Masks, Books]:
        """Initial masks, those of rank 0, which may have other weights until they are wrapped.

        survivors: bool [*w] by layer; all others come last. most: at most what the structures hold.
        """
        n = round(density * self.size)
        if most:
            _, upper = bounds({name: layer.info for name, layer in self.layers.items()}, self.structures)
            n = min(n, sum(upper.values()))
        with ranks.together("the initial masks"):
            masks, budget = initial_masks(
                self.layers, self.structures, self.method.init, n, self.seed, fields, survivors
            )
        ranks.broadcast(masks)
        device = next(iter(masks.values())).device
        return masks, Books.opened(density, ranks.broadcast_counts(budget, device))

    def update(
        self, books: Books, target: Target, views: Mapping[str, LayerView], step: int, ready: Collection[str]
    ) -> tuple[Masks, Books, Masks]:
        """The masks behind one topology update, in which the layers that aren't ``ready`` keep theirs, and what its
        prune score insisted on removing, bool [*w] of the layers that have any. Raises StrategyError where ranks
        come to different masks."""
        method = self.method
        with ranks.together(f"the topology update at step {step}"):
            goal = books.goal(target, views, self.structures, method.init.share, self.timetable.density)
            taking = {name: view for name, view in views.items() if name in ready}
            check_finite(taking, step)
            if len(taking) < len(views):
                goal = goal.among(taking, books.budget, self.structures)
            draw = draws(self.seed, step)
            percolated = self.passages.percolated if self.passages else None
            masks, budget, forbidden = update_masks(
                taking, self.structures, method.prune, method.grow, goal, draw, percolated
            )
        masks = {name: masks.get(name, view.mask) for name, view in views.items()}
        ranks.check_equal(masks, step)
        return masks, books.after(target, goal, budget), forbidden

    def superset(
        self,
        views: Mapping[str, LayerView],
        masks: Masks,
        books: Books,
        n: int,
        step: int,
        resting: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Masks:
        """What trains where ``masks`` are active: n weights, those of ``resting`` layers as they are, bool [*w].
        Before the first step, where no score has its signals, a grow score that reads any is a random one.
        Raises StrategyError where ranks come to different ones."""
        grow = self.method.grow if step or not self.method.grow.needs else Policy()
        with ranks.together(f"the superset at step {step}"):
            left = n - sum(count(mask) for mask in resting.values())
            taking = {name: view for name, view in views.items() if name not in resting}
            held = {name: books.budget[name] for name in taking}
            trained = superset_masks(taking, self.structures, grow, masks, held, left, draws(self.seed, step))
        trained = {name: trained.get(name, resting.get(name, masks[name])) for name in views}
        ranks.check_equal(trained, step)
        return trained

    def shrink(self, views: Mapping[str, LayerView], step: int) -> Masks:
        """What the structure's event at a step leaves of the layers that lose positions for good."""
        if self.method.support is None:
            return {}
        with ranks.together(f"the removal at step {step}"):
            check_finite(views, step)
            support = shrunk(self.method.support, views, self.couplings, self.timetable.clock(step))
        ranks.check_equal({name: support.get(name, view.mask) for name, view in views.items()}, step)
        return support

    def check_removals(self, views: Mapping[str, LayerView]) -> None:
        """Refuse, before the first step, what the structure could never remove, or too late."""
        if self.method.support is not None:
            check_support(self.method.support, self.timetable.clock, self.timetable.last_update)
            shrunk(self.method.support, views, self.couplings, self.timetable.clock(0))


def _unscored(method: Method, layers: Mapping[str, Layer], updates: bool) -> dict[str, str]:
    """Layer -> such as "grow: a convolution is no network of links", for the policies that come to be used."""
    policies = {"init": method.init, **({"prune": method.prune, "grow": method.grow} if updates else {})}
    reasons = {
        name: {kind: why for kind, policy in policies.items() if (why := policy.misfit(layer.info))}
        for name, layer in layers.items()
    }
    return {
        name: "; ".join(f"{kind}: {why}" for kind, why in of.items()) for name, of in reasons.items() if of
    }
