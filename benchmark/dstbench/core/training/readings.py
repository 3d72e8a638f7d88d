"""What a training has come to, read from its state, its topology and its weights. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from dstbench.api import LayerView, Recipe
from dstbench.api.select import count
from dstbench.core.engine.books import Budget
from dstbench.core.engine.structures import EngineStructure
from dstbench.core.engine.update import Masks
from dstbench.core.network.layers import Layer
from dstbench.core.network.ownership import LeftOut, Ownership
from dstbench.core.storage.states import States
from dstbench.core.storage.stored import Weights
from dstbench.core.training.checkpoint import Identity
from dstbench.core.training.evolution import Evolution
from dstbench.core.training.identity import identify
from dstbench.core.training.imposing import checked_fields
from dstbench.core.training.masking import Masking
from dstbench.core.training.method import Method
from dstbench.core.training.presence import Presence
from dstbench.core.training.rules import Fields, Rules
from dstbench.core.training.signals import Signals
from dstbench.core.training.state import TrainingState
from dstbench.core.training.summary import summarise
from dstbench.core.training.support import Removal
from dstbench.core.training.timetable import Timetable
from dstbench.core.training.topology import Topology, UpdateReport

if TYPE_CHECKING:
    from pandas import DataFrame

    from dstbench.registration.registry import Registry


class Readings:
    """The read-only half of a Sparsifier."""

    evolution: Evolution
    presence: Presence
    states: States
    method: Method
    timetable: Timetable
    seed: int
    total_steps: int
    target_density: float
    layers: Mapping[str, Layer]  # in the budget
    dense_layers: Mapping[str, Layer]  # left out of it on request
    structures: Mapping[str, EngineStructure]
    fallbacks: Mapping[str, str]  # layers that the structure doesn't fit, and why
    _owned: Ownership
    _named: tuple[Recipe, Registry | None]
    _outer: list[Any] | None  # optimizers as they were given

    @property
    def state(self) -> TrainingState:
        """Where the training stands."""
        return self.evolution.state

    @property
    def rules(self) -> Rules:
        """What the training goes by."""
        return self.evolution.rules

    @property
    def masking(self) -> Masking:
        """What carries its decisions out."""
        return self.evolution.masking

    @property
    def signals(self) -> Signals:
        """What its decisions read besides weights."""
        return self.evolution.signals

    @property
    def weights(self) -> Weights:
        """The weights in the budget, as they are stored."""
        return self.masking.weights

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
    def identity(self) -> Identity:
        """What a training must share with this one to continue it."""
        shapes = {name: list(layer.info.shape) for name, layer in self.layers.items()}
        return Identity(self.seed, self.total_steps, self.target_density, identify(*self._named), shapes)

    @property
    def unscored(self) -> dict[str, str]:
        """Layers that a score can't rank, where weights are taken at random: which policies, and why."""
        return dict(self.rules.unscored)

    @property
    def topology(self) -> Topology:
        """Which weights are active, which ever and always were."""
        return self.masking.topology

    @property
    def steps(self) -> int:
        """The optimizer steps that were applied."""
        return self.state.steps

    @property
    def history(self) -> list[UpdateReport]:
        """The topology updates."""
        return list(self.state.history)

    @property
    def removals(self) -> list[Removal]:
        """What the structure took away for good."""
        return list(self.state.removals)

    @property
    def budget(self) -> Budget:
        """The number of weights of each layer that its mask realises, to the nearest unit."""
        return dict(self.state.books.budget)

    @property
    def allocation(self) -> Budget:
        """The number of weights that each layer should hold."""
        return dict(self.state.books.allocation)

    @property
    def updates(self) -> int:
        """The topology updates so far."""
        return len(self.state.history)

    @property
    def last_update(self) -> int:
        """The step of the most recent topology update; 0 before the first."""
        return self.state.history[-1].step if self.state.history else 0

    @property
    def last_planned_update(self) -> int:
        """The step at which the training's last topology update is due; 0 if there is none."""
        return self.timetable.last_update

    @property
    def masks(self) -> Masks:
        """{layer name: bool [*w]}; not copies, so don't write to them."""
        return dict(self.topology.masks)

    @property
    def size(self) -> int:
        """N: the maskable weights in the budget."""
        return self.rules.size

    @property
    def active(self) -> Budget:
        """The measured number of active weights of each layer."""
        return dict(self.topology.active)

    @property
    def density(self) -> float:
        """Active weights / N, measured."""
        return self.evolution.density

    @property
    def trained(self) -> Budget:
        """The number of weights of each layer that train, active or not, where these are more than are active: of a
        schedule with a backward superset. {} of any other."""
        superset = self.masking.superset
        return {} if superset is None else superset.counts

    @property
    def backward_density(self) -> float:
        """Weights that train / N: ``density``, unless the schedule has a superset of what is active train."""
        return sum(self.trained.values()) / self.size if self.trained else self.density

    @property
    def total_density(self) -> float:
        """Active weights / all matrix weights, those that stay dense among both."""
        every = self._owned.weights
        return (sum(self.topology.active.values()) + every - self.size) / every

    @property
    def left_out(self) -> dict[str, LeftOut]:
        """{name: shape and reason} of the matrix weights that can't be masked and stay dense."""
        return dict(self._owned.left_out)

    @property
    def explored(self) -> Budget:
        """The number of weights of each layer that were ever active, the initial mask included."""
        return dict(self.topology.explored_counts)

    @property
    def r_s(self) -> float:
        """R_s: the fraction of weights that were ever active, the initial mask included (ITOP, arXiv 2102.02887)."""
        return self.evolution.r_s

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
        return self.evolution.decided

    def summary(self) -> DataFrame:
        """One row a layer: shape, structure, target and measured density, exploration, rows without a weight. Behind
        the layers in the budget come the weights that stay dense, with the reason; ``attrs`` has both densities.

        Raises BadInput where layers have left the model or hold other parameters, which are never trained."""
        if not self.method.dense:
            self.presence.check(whole=True)
        return summarise(self)

    def views(self, fields: Fields = MappingProxyType({})) -> dict[str, LayerView]:
        """What strategies see of each layer now, with the signals of ``fields``: float [*w] by LayerView's field and
        layer name. Raises BadInput for any other."""
        return self.evolution.views(checked_fields(fields, self.layers))
