"""All that a plugin imports: the protocols of the four strategy kinds and the values they exchange.

A strategy is a frozen dataclass with ``__call__``: its fields are the hyper-parameters, its repr is the
label on the leaderboard, its equality keeps a trial's identity stable, and it holds no state.

``*w`` is the shape of a layer's weight, ``[out, in, *kernel]``. Counts are numbers of *weights* unless a
name says units. Densities are fractions in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from dstbench.errors import BadInput

__all__ = [
    "Augment",
    "Clock",
    "Coupling",
    "DataUnavailable",
    "DatasetFactory",
    "Files",
    "ImageData",
    "InPlace",
    "Infeasible",
    "LayerInfo",
    "LayerView",
    "Layout",
    "ModelFactory",
    "Policy",
    "Quota",
    "Random",
    "Recipe",
    "Schedule",
    "Score",
    "Share",
    "Signal",
    "Spec",
    "Split",
    "StrategyError",
    "Structure",
    "Support",
    "Target",
]  # fmt: skip

Spec = str | Mapping[str, Any]
"""A component by name, or ``{"name": ..., parameter: value}``; init, prune and grow also take ``share``."""


class StrategyError(ValueError):
    """A strategy broke its contract, or was asked for something it can't do. Names it and the layer."""


class Infeasible(StrategyError):
    """What was asked for can't exist here, such as a budget outside all bounds; the message gives the figures.
    A trial that meets it is skipped."""


class DataUnavailable(FileNotFoundError):
    """A data set's files aren't there: what was looked for, where, and how to get them."""


class Signal(Flag):
    """What a score or share reads beyond weights and masks; collected, and charged, only when asked for."""

    NONE = 0
    GRAD = auto()  # the dense gradient of the update's batch, averaged over ranks; costs a dense backward
    ACTIVE_GRAD = auto()  # the same on active weights, zero elsewhere; free
    MOMENTUM = auto()  # an exponential average of dense gradients; costs a dense backward every step


@dataclass(frozen=True)
class LayerInfo:
    """What is known of a maskable weight before any value of it."""

    name: str  # module path, such as "layer1.0.conv1"
    shape: tuple[int, ...]  # [out, in / groups, *kernel]
    kind: Literal["conv", "conv_transpose", "linear"]
    classifier: bool = False  # the layer that makes the logits: its output rows are classes
    first_conv: bool = False  # the convolution that sees the images

    @property
    def numel(self) -> int:
        """The number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class LayerView:
    """A layer as a strategy sees it during one init or one topology update. Read only.

    Counts are exact integer budgets: a structure realises them to the nearest unit, so ``active`` may
    differ from ``mask.sum()`` by half a unit.
    """

    info: LayerInfo
    weight: Tensor  # float [*w]
    mask: Tensor  # bool [*w]; growing: what pruning kept
    before: Tensor  # bool [*w]; the mask before this update
    active: int  # weights in the budget now: before pruning, or what pruning kept
    allocation: int  # weights that this layer should hold after pruning, or after growing
    progress: float = 0.0  # step / total steps
    grad: Tensor | None = None  # float [*w], with Signal.GRAD
    active_grad: Tensor | None = None  # float [*w], with Signal.ACTIVE_GRAD
    momentum: Tensor | None = None  # float [*w], with Signal.MOMENTUM
    support: Tensor | None = None  # bool [*w]: the positions that may ever be active again; None = all

    @property
    def name(self) -> str:
        """The module path."""
        return self.info.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.info.shape


class Score(Protocol):
    """Which weights: one number per weight, higher = keep (pruning) or activate (init, growing) first.

    Pure: reads its layer, writes nothing. ``-inf`` marks a position that may not be taken at all. NaN,
    another shape or a non-float dtype is refused by name. Draws come from ``rng``, a CPU generator made
    from (seed, layer name, step).

    An init's score may declare ``full = True``: training then starts as dense as the structure allows,
    whatever the schedule says, and falls to its density at the first topology update.
    """

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Return scores, float [*w], on the weight's device."""
        ...


class Share(Protocol):
    """How many where: a relative weight >= 0 per layer, by which the engine divides ``n`` weights.

    ``candidates[name]`` are the scores of that layer's eligible positions, float [eligible], oriented so
    that *higher = take first* in both roles (negated when pruning). A share that never reads them sets
    ``uses_candidates = False``, which spares gathering them.
    """

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """Return layer name -> relative weight."""
        ...


@dataclass(frozen=True)
class Random:
    """Uniformly random scores: every legal position is equally likely to be taken."""

    exclude_dropped: bool = False  # DSR forbids regrowing what this update just dropped

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Draw float32 [*w] in [0, 1) on the CPU, so that every device gets the same numbers."""
        scores = torch.rand(layer.shape, generator=rng).to(layer.weight.device)
        return scores.masked_fill_(layer.before & ~layer.mask, -torch.inf) if self.exclude_dropped else scores


@dataclass(frozen=True)
class InPlace:
    """Every layer goes to its own allocation: what it lost, it gets back."""

    uses_candidates: ClassVar[bool] = False

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """Distance to the allocation: below it when growing (n > 0 to add), above it when pruning."""
        gaps = {name: layer.allocation - layer.active for name, layer in layers.items()}
        sign = 1 if sum(gaps.values()) >= 0 else -1
        return {name: float(max(0, sign * gap)) for name, gap in gaps.items()}


@dataclass(frozen=True)
class Policy:
    """A score and a share: what init, prune and grow are made of."""

    score: Score = field(default_factory=Random)
    share: Share = field(default_factory=InPlace)

    @property
    def needs(self) -> Signal:
        """The signals that either part reads."""
        return getattr(self.score, "needs", Signal.NONE) | getattr(self.share, "needs", Signal.NONE)


@dataclass(frozen=True)
class Quota:
    """Groups of units of which at most ``quota`` may be active (N:M: groups of m, quota n)."""

    group: Tensor  # int64 [units]: the group of each unit
    quota: int


@runtime_checkable
class Layout(Protocol):
    """The short way to write a structure: a partition of the weight into units, active or not as one."""

    def units(self, layer: LayerInfo) -> Tensor:
        """Return the unit of every weight, int64 [*w], numbered 0, 1, … without gaps.

        Two more methods are optional: ``quota(layer) -> Quota`` and ``misfit(layer) -> str | None``. Where
        units are output rows, ``whole_rows = True`` keeps what follows a dead row silent, so that it can be
        removed exactly.
        """
        ...


@runtime_checkable
class Structure(Protocol):
    """Which masks are legal. Needed in full only where units are not a fixed partition (see Layout).

    Optional: ``retiles = True`` (``fill`` may drop kept positions), ``misfit(layer) -> str | None`` (why a
    layer can't carry it; that layer is then unstructured and listed), ``merge(kept, keep_scores,
    grow_scores, n)`` (how the two score tensors become the one that ``fill`` sees; the engine's own
    rank-normalises kept positions into [1, 2] and the others into [0, 1]), ``allowed(layer, scores) -> int``
    (how many weights ``fill`` could add where some scores are -inf; the engine's own counts the positions).
    """

    def unit(self, layer: LayerInfo) -> int:
        """The size of the largest unit, in weights: budgets are realised to half of it."""
        ...

    def capacity(self, layer: LayerInfo) -> int:
        """The most weights that can be active."""
        ...

    def shrink(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """Keep about n of the active weights: bool [*w], a subset of ``layer.mask``."""
        ...

    def fill(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """Add to ``layer.mask`` up to n active weights, to the nearest unit: bool [*w], legal."""
        ...

    def is_legal(self, layer: LayerInfo, mask: Tensor) -> bool:
        """Whether a mask, bool [*w], obeys this structure."""
        ...


@dataclass(frozen=True)
class Coupling:
    """Channels that exist as one: a layer's output rows, the norms behind them, and the columns that they feed.

    Behind a flatten each row feeds ``consumer.shape[1] / producer.shape[0]`` columns in a row.
    """

    producer: str  # layer name
    norms: tuple[str, ...]  # module paths
    consumers: tuple[str, ...]  # layer names


@runtime_checkable
class Support(Protocol):
    """The network-wide part of a structure: positions that are removed for good, at its own times.

    On its own it is a structure whose masks are any within the support; a Layout or Structure may have these
    two methods besides its own. After a removal fewer weights are active than the budget asks for: the next
    topology update grows the rest, among what is left. On a common step the removal comes first.
    """

    def events(self, clock: Clock) -> bool:
        """Whether something may be removed after this step. Pure; asked about steps to come, too."""
        ...

    def support(
        self, layers: Mapping[str, LayerView], couplings: Sequence[Coupling], clock: Clock
    ) -> Mapping[str, Tensor]:
        """Return the new support, bool [*w], of the layers that lose positions: a subset of what they had.

        couplings: the channels that can be removed exactly. Called at each event and once at step 0, where
        nothing can be removed yet, but Infeasible raised for a network without anything to remove.
        """
        ...


@dataclass(frozen=True)
class Clock:
    """Where training stands. A step is one *applied* optimizer step."""

    step: int
    total_steps: int
    steps_per_epoch: int | None = None

    @property
    def progress(self) -> float:
        """The share of the steps that are done, 0 to 1."""
        return self.step / self.total_steps

    @property
    def epoch(self) -> float:
        """Epochs done. Raises StrategyError where nobody said how long an epoch is."""
        if self.steps_per_epoch is None:
            raise StrategyError("this schedule counts epochs: pass steps_per_epoch to the Sparsifier")
        return self.step / self.steps_per_epoch


@dataclass(frozen=True)
class Target:
    """Density after the prune half and after the grow half of one topology update."""

    keep: float
    final: float

    def __post_init__(self) -> None:
        """Refuse what no update can reach."""
        if not (0 <= self.keep <= self.final <= 1 and self.final > 0):
            raise StrategyError(f"a target needs 0 <= keep <= final <= 1 and final > 0, got {self}")


class Schedule(Protocol):
    """When the topology changes and to which densities. Pure.

    Called with step 0 for the initial density (its ``final``; None means ``density``) and once after every
    applied step. The last target's ``final`` equals ``density`` exactly.
    """

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """Return the target of an update at this step, or None for no update."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A published method: a named choice of one component of each kind. Data, not code."""

    init: Spec = "erk"
    structure: Spec = "unstructured"
    prune: Spec = "magnitude"
    grow: Spec = "gradient"
    schedule: Spec = "cosine"
    dense_layers: tuple[str, ...] = ()  # layers left out of N and of the budget: see budgeted_layers
    dense: bool = False  # no masks at all
    narrow: bool = False  # no masks: a narrower model with as many parameters as the sparse one has weights
    multiplier: float = 1.0  # extended training: the runner scales epochs and learning-rate milestones by it

    def __post_init__(self) -> None:
        """Refuse a training without length."""
        if isinstance(self.multiplier, bool) or not 0 < self.multiplier < float("inf"):
            raise BadInput(f"multiplier: expected a number > 0, got {self.multiplier!r}")

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some parts changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Split:
    """Images of one split, kept whole in memory."""

    images: Tensor  # uint8 [n, c, h, w]
    labels: Tensor  # int64 [n]

    def __post_init__(self) -> None:
        """Refuse a split whose parts don't belong together."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images: expected uint8 [n, c, h, w], got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: expected int64 [{len(self.images)}], got {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.images.shape
        return channels, height, width


@dataclass(frozen=True)
class Files:
    """Images of one split as files, read batch by batch in worker processes: for what memory can't hold.

    ``transform`` maps a PIL image (RGB, or grey where ``shape`` has one channel) to uint8 [c, h, w]. Where it
    draws, it draws from the global generators of ``random``, numpy and torch: the reader sets those from
    (seed, epoch, image) before each call and puts them back, so a pixel depends neither on the number of
    workers nor on what was read before. It must pickle. Normalisation, and the data set's ``Augment``, come
    after it, on the device.
    """

    root: Path
    names: tuple[str, ...]  # of the files, below root, with forward slashes
    labels: Tensor  # int64 [n]
    shape: tuple[int, int, int]  # channels, height, width of what the transform returns
    transform: Callable[[Any], Tensor]

    def __post_init__(self) -> None:
        """Refuse a split whose parts don't belong together."""
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.names),):
            raise ValueError(
                f"labels: expected int64 [{len(self.names)}], got {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Augment:
    """Training augmentation that runs batched on the device."""

    padding: int = 0  # pixels added on every side before a random crop back to size; 0 = no crop
    mode: Literal["constant", "reflect"] = "constant"
    flip: bool = False  # horizontally, with probability one half


@dataclass(frozen=True)
class ImageData:
    """A data set: three disjoint splits, how to normalise and how to augment.

    Each split is in memory or in files. ``validation`` may be empty: then all of the published training set
    is trained on. Nothing is ever chosen by ``test``.
    """

    train: Split | Files
    validation: Split | Files
    test: Split | Files
    num_classes: int
    mean: tuple[float, ...]  # per channel, of pixels scaled to [0, 1]
    std: tuple[float, ...]
    augment: Augment = field(default_factory=Augment)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.train.shape


class DatasetFactory(Protocol):
    """A registered data set: a frozen dataclass whose fields are its parameters.

    What it is registered with (``train_images``, ``input_shape``, ``num_classes``) holds at its defaults. A
    property ``declared`` with the same keys, optional, says it at other parameters, so that a plan can count
    before there is any data.
    """

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """Load. Raises DataUnavailable, naming what was looked for, where, and what would fetch it."""
        ...


ModelFactory = Callable[..., nn.Module]
"""``(num_classes, input_shape, **parameters) -> nn.Module``; ``width`` among the parameters is a multiplier
of the hidden channels, which the small-dense control needs."""
