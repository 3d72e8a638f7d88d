"""What weights hold when a mask lets them live, and how fast they learn: the protocol, and a choice of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from dstbench.api.abilities import declared, method
from dstbench.api.strategies import LayerInfo, LayerView
from dstbench.errors import BadInput, StrategyError
from dstbench.recipe import Signal

Tell = Callable[[LayerView, Generator], Tensor]


class Values(Protocol):
    """What weights hold at the start and where they grow, and each layer's learning rate. Pure, as a Score is.

    What it doesn't say, of these three, is as ``Keep`` has it. What ``initial`` and ``grown`` give is read where they
    say, and ignored elsewhere; NaN, infinities, another shape or a non-float dtype are refused by name. Draws come
    from ``rng``, a CPU generator made from (seed, layer name, step).

    Optional, too: ``initial``, ``grown`` and ``lr_scale`` themselves, of which one may be all that there is, and

    - ``needs`` (a Signal: what ``grown`` reads of a layer beyond weights and masks).
    - ``remember(layer, rng) -> Tensor``: a number for each position, float [*w], that is kept with the training and
      in its checkpoints, for scores to read as ``layer.memory`` (``Signal.MEMORY``). Called behind the initial masks,
      before ``initial``, where there is no memory yet, and at each topology update before the masks change.
    - ``pull(layer, rng) -> Tensor``: what is added to the gradient of each applied step, float [*w], read where
      weights train: a penalty's gradient, noise. It counts neither for growth nor for clipping.
    - ``restart(since) -> float``: a factor >= 0 of all learning rates, ``since`` steps behind the last topology
      update: 0 at the step that follows it. Before the first update the factor is 1.
    - ``for_optimizer(kind) -> Values``: itself for weights that an optimizer of this class steps, such as "AdamW".
      Called once, when a training is made. Raises StrategyError for one that it has no answer for.
    - ``caution(updates) -> str | None``: what speaks against it, said once in a warning, where the topology is ever
      updated or isn't.
    """

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """Return what active weights start with, float [*w]. The layer has its initial mask, and in ``weight`` still
        what the model was built with, everywhere."""
        ...

    def grown(self, layer: LayerView, rng: Generator) -> Tensor:
        """Return what grown weights hold, float [*w], read where ``layer.mask & ~layer.before``: the masks behind and
        before the topology update. ``weight`` is as before it."""
        ...

    def lr_scale(self, layer: LayerInfo, density: float) -> float:
        """Return the factor, > 0, of the learning rate of a layer of this density, whatever a schedule of learning
        rates says."""
        ...


@dataclass(frozen=True)
class Keep:
    """The model's own initial values, zero where weights grow (RigL), and one learning rate for all."""

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """What is there."""
        return layer.weight

    def grown(self, layer: LayerView, rng: Generator) -> Tensor:
        """0."""
        return torch.zeros_like(layer.weight)

    def lr_scale(self, layer: LayerInfo, density: float) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class ValuePolicy:
    """A Values, and two others that may speak in its place: of what grows, and of restarts of the learning rate.

    Raises BadInput where a declaration isn't of its type, or two of them want to remember.
    """

    values: Values = Keep()
    grown: Values | None = None  # whose ``grown`` is asked; None: ``values``
    restart: Values | None = None  # whose ``restart`` is asked; None: ``values``

    def __post_init__(self) -> None:
        """Read every declaration once, so that a wrong one is refused here."""
        _ = self.needs, self.remembers, self.pulls, self.restarts, self.keeps, self.grows_zero
        for part in self._parts:
            _ = method(part, "caution"), method(part, "for_optimizer"), method(part, "lr_scale")
        if len(self._remembering) > 1:
            both = " and ".join(map(repr, self._remembering))
            raise BadInput(
                f"values: {both} both remember something of each position, and there is one memory"
            )
        if self.restart is not None and not self.restarts:
            raise BadInput(f"values: {self.restart!r} has no restart of the learning rate")

    def __repr__(self) -> str:
        """The component's own, with whose word counts besides."""
        others = {"grown": self.grown, "restart": self.restart}
        return repr(self.values) + "".join(f", {name} by {part!r}" for name, part in others.items() if part)

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for."""
        return self == ValuePolicy()

    @property
    def keeps(self) -> bool:
        """Whether weights start with what the model gave them, known without asking."""
        return isinstance(self.values, Keep) or method(self.values, "initial") is None

    @property
    def grows_zero(self) -> bool:
        """Whether weights grow at zero, known without asking."""
        return isinstance(self._grower, Keep) or method(self._grower, "grown") is None

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """What a layer's active weights start with, float [*w]."""
        return _tell(self.values, "initial", Keep().initial)(layer, rng)

    def grown_values(self, layer: LayerView, rng: Generator) -> Tensor:
        """What a layer's grown weights hold, float [*w]."""
        return _tell(self._grower, "grown", Keep().grown)(layer, rng)

    @property
    def needs(self) -> Signal:
        """The signals that ``grown`` reads."""
        return declared(self._grower, "needs", Signal.NONE)

    @property
    def remembers(self) -> bool:
        """Whether there is a memory."""
        return bool(self._remembering)

    def remember(self, layer: LayerView, rng: Generator) -> Tensor:
        """The memory of a layer from now on, float [*w]."""
        return _tell(self._remembering[0], "remember", Keep().initial)(layer, rng)

    @property
    def pulls(self) -> bool:
        """Whether gradients are added to."""
        return method(self.values, "pull") is not None

    def pull(self, layer: LayerView, rng: Generator) -> Tensor:
        """What is added to a layer's gradient, float [*w]."""
        return _tell(self.values, "pull", Keep().grown)(layer, rng)

    @property
    def restarts(self) -> bool:
        """Whether learning rates start anew behind an update."""
        return method(self._restarter, "restart") is not None

    def lr_factor(self, since: int | None) -> float:
        """The factor of all learning rates so many steps behind the last update; None: there was none."""
        restarting = method(self._restarter, "restart")
        return 1.0 if restarting is None or since is None else float(restarting(since))

    def for_optimizer(self, kind: str) -> ValuePolicy:
        """The same for weights that this class of optimizer steps. Raises StrategyError where one has no answer."""

        def told(part: Values | None) -> Values | None:
            telling = None if part is None else method(part, "for_optimizer")
            return part if telling is None else telling(kind)

        values = told(self.values)
        assert values is not None
        return ValuePolicy(values, told(self.grown), told(self.restart))

    def cautions(self, updates: bool) -> list[str]:
        """What speaks against it in a training whose topology is updated, or isn't."""
        asked = [said(updates) for part in self._parts if (said := method(part, "caution")) is not None]
        return [text for text in asked if text]

    def lr_scale(self, layer: LayerInfo, density: float) -> float:
        """The factor of a layer's learning rate. Raises StrategyError unless it is finite and > 0."""
        scaling = method(self.values, "lr_scale") or Keep().lr_scale
        scale = scaling(layer, density)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < torch.inf:
            raise StrategyError(
                f"{self.values!r}, layer {layer.name!r}: expected a finite learning-rate scale > 0, got {scale!r}"
            )
        return float(scale)

    @property
    def _parts(self) -> list[Values]:
        return [part for part in (self.values, self.grown, self.restart) if part is not None]

    @property
    def _grower(self) -> Values:
        return self.values if self.grown is None else self.grown

    @property
    def _restarter(self) -> Values:
        return self.values if self.restart is None else self.restart

    @property
    def _remembering(self) -> list[Values]:
        asked = [self.values, *([] if self.grown is None else [self.grown])]
        return [part for part in asked if method(part, "remember") is not None]


def _tell(part: Values, name: str, otherwise: Tell) -> Tell:
    """One of a component's methods of a layer, if it has it."""
    return method(part, name) or otherwise
