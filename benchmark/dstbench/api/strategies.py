"""The protocols of strategies, what they are given and what they give back: in the order in which to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from dstbench.api.abilities import declared, method
from dstbench.errors import BadInput
from dstbench.recipe import Clock, Rounds, Signal, Target


@dataclass(frozen=True)
class Heads:
    """How the output rows of a projection are divided among attention's heads: into ``parts`` of equally many rows,
    queries, keys and values where they are packed, and each of these into ``count`` heads."""

    count: int
    parts: int = 1

    def of_rows(self, rows: int) -> Tensor:
        """The head of each row: int64 [rows]."""
        within = torch.arange(rows) % (rows // self.parts)
        return within // (rows // self.parts // self.count)


@dataclass(frozen=True)
class LayerInfo:
    """What is known of a maskable weight before any value of it."""

    name: str  # module path, such as "layer1.0.conv1"
    shape: tuple[int, ...]  # [out, in / groups, *kernel]
    kind: Literal["conv", "conv_transpose", "linear"]
    classifier: bool = False  # the layer that makes the logits: its output rows are classes
    first_conv: bool = False  # the convolution that sees the images
    heads: Heads | None = None  # whose rows the output rows are, in attention's projections
    sees_input: bool = False  # a linear layer whose columns are the network's own inputs

    @property
    def numel(self) -> int:
        """The number of weights."""
        return prod(self.shape)


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
    memory: Tensor | None = None  # float [*w]: what the method's values remember of each position; see Values
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # [*w], by the name of an accumulator asked for

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

    Optional: ``needs`` (a Signal: what it reads of a layer beyond weights and masks), ``misfit(layer) -> str | None``
    (why it can't rank the weights of a layer: they are taken at random there, and the layer is listed),
    ``accumulators = {name: spec or Accumulator}`` (what it reads in ``layer.extra[name]``) and, of an init,
    ``rounds`` (a Rounds: it is scored before training, on batches or on ones; so is an init with accumulators, which
    fold over the batches of a round) and ``full = True`` (training starts as dense as the structure allows, whatever
    the schedule says, and falls to its density at the first topology update).
    """

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Return scores, float [*w], on the weight's device."""
        ...


class Share(Protocol):
    """How many where: a relative weight >= 0 per layer, by which the engine divides ``n`` weights.

    ``candidates[name]`` are the scores of that layer's eligible positions, float [eligible], oriented so
    that *higher = take first* in both roles (negated when pruning).

    Optional: ``needs`` and ``accumulators`` (as of a Score) and ``uses_candidates = False`` (it never reads them,
    which spares gathering them).
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
        scores = torch.rand(layer.shape, generator=rng, dtype=torch.float32, device="cpu").to(
            layer.weight.device
        )
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
    """A score and a share: what init, prune and grow are made of, with what both declare.

    Raises BadInput where a declaration isn't of its type.
    """

    score: Score = field(default_factory=Random)
    share: Share = field(default_factory=InPlace)

    def __post_init__(self) -> None:
        """Read every declaration once, so that a wrong one is refused here."""
        _ = self.needs, self.full, self.uses_candidates, method(self.score, "misfit")
        _ = self.rounds, self.accumulators, self.percolates

    @property
    def needs(self) -> Signal:
        """The signals that either part reads."""
        return declared(self.score, "needs", Signal.NONE) | declared(self.share, "needs", Signal.NONE)

    @property
    def accumulators(self) -> dict[str, Any]:
        """What either part reads in ``extra``: name -> spec or Accumulator."""
        of_score = declared(self.score, "accumulators", dict[str, Any]())
        of_share = declared(self.share, "accumulators", dict[str, Any]())
        for name in of_score.keys() & of_share.keys():
            if of_score[name] != of_share[name]:
                raise BadInput(f"{self!r}: its score and its share call two accumulators {name!r}")
        return {**of_score, **of_share}

    @property
    def rounds(self) -> Rounds:
        """Of an init: how it is scored before training, which one with accumulators always is."""
        rounds = declared(self.score, "rounds", Rounds())
        return Rounds(1) if self.accumulators and not rounds.count else rounds

    @property
    def waits(self) -> bool:
        """Of an init: whether it is decided at the first step, by its gradients."""
        return bool(self.needs) and not self.rounds.count

    @property
    def full(self) -> bool:
        """Of an init: whether training starts as dense as the structure allows."""
        return declared(self.score, "full", False)

    def reads(self, accumulator: str, layer: LayerInfo) -> bool:
        """Whether an accumulator of a layer is read: by a share of any, by a score of those that it ranks."""
        shared = accumulator in declared(self.share, "accumulators", dict[str, Any]())
        return shared or self.misfit(layer) is None

    def misfit(self, layer: LayerInfo) -> str | None:
        """Why the score can't rank a layer; None where it can."""
        reason = method(self.score, "misfit")
        return None if reason is None else reason(layer)

    def score_for(self, layer: LayerInfo) -> Score:
        """The score, or a random one for a layer that it can't rank."""
        return self.score if self.misfit(layer) is None else Random()

    @property
    def percolates(self) -> bool:
        """Of a prune: whether links that lead nowhere go with what it removes, over all layers."""
        return declared(self.score, "percolates", False)

    @property
    def uses_candidates(self) -> bool:
        """Whether the share reads the scores of eligible positions."""
        return declared(self.share, "uses_candidates", True)


@dataclass(frozen=True)
class Quota:
    """Groups of units of which at most ``quota`` may be active (N:M: groups of m, quota n).

    None: equally many in each, whatever the layer's budget is; groups differ by one unit at most.
    """

    group: Tensor  # int64 [units]: the group of each unit
    quota: int | None


@runtime_checkable
class Layout(Protocol):
    """The short way to write a structure: a partition of the weight into units, active or not as one.

    Optional: ``quota(layer) -> Quota`` (how many units of a group may be active) and, as of a Structure, ``misfit``,
    ``accelerate`` and ``whole_rows``.
    """

    def units(self, layer: LayerInfo) -> Tensor:
        """Return the unit of every weight, int64 [*w], numbered 0, 1, … without gaps."""
        ...


@runtime_checkable
class Structure(Protocol):
    """Which masks are legal. Needed in full only where units are not a fixed partition (see Layout).

    Optional:

    - ``misfit(layer) -> str | None``: why a layer can't carry it; that layer is then unstructured and listed.
    - ``accelerate(call: LayerCall, mask) -> Sequence[Execution]``: ways to compute with the active weights alone,
      likeliest first.
    - ``whole_rows = True``: output rows die as a whole. What follows a dead row is kept silent, so that it can be
      removed exactly.
    - ``retiles = True``: ``fill`` may drop kept positions.
    - ``merge(kept, keep_scores, grow_scores, n)``: how the two score tensors become the one that ``fill`` sees; the
      engine's own rank-normalises kept positions into [1, 2] and the others into [0, 1].
    - ``allowed(layer, scores) -> int``: how many weights ``fill`` could add where some scores are -inf; the engine's
      own counts the positions.

    An ability of another type is refused with BadInput; the conformance kit finds a name that is nearly one of these.
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
    """Channels that exist as one: channel c is row c of every producer, entry c of every norm, and the columns
    that it feeds in every consumer. Several producers where their rows are added (a residual stream) or
    multiplied, or where a depthwise convolution follows; a depthwise producer's groups go with its rows.

    Behind a flatten each channel feeds ``consumer.shape[1] / producer.shape[0]`` columns in a row.

    A ``stream`` is normalised over its channels, or parameters are added to it, as position embeddings are: whatever
    adds to a channel that is gone from all producers is held at zero. ``compact`` cuts it out; storage ``compact``
    keeps it, silent, while the network trains.
    """

    producers: tuple[str, ...]  # layer names
    norms: tuple[str, ...]  # module paths: affine and running statistics are by channel
    consumers: tuple[str, ...]  # layer names
    stream: bool = False


@runtime_checkable
class Support(Protocol):
    """The network-wide part of a structure: positions that are removed for good, at its own times.

    On its own it is a structure whose masks are any within the support; a Layout or Structure may have these
    two methods, ``events`` and ``support``, besides its own. ``whole_rows = True`` of a mere support says that
    compaction pays; it keeps nothing silent, since the consumers of a removed row lose their columns.

    After a removal fewer weights are active than the budget asks for: the next topology update grows the rest, among
    what is left. On a common step the removal comes first.
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


class Schedule(Protocol):
    """When the topology changes and to which densities. Pure.

    Called with step 0 for the initial density (its ``final``; None means ``density``) and once after every
    applied step. The last target's ``final`` equals ``density`` exactly.

    A target with ``backward`` has more weights train than are active (a backward superset, Top-KAST): the forward
    pass computes with the active ones alone; those beside them, the best by the grow score, get their gradients and
    are stepped, too (at step 0 random ones, where that score reads signals). A training that has a superset has it
    from step 0 on, and what becomes inactive in it keeps its value: the scores of an update see it in
    ``LayerView.weight``, and what becomes active goes on from there, whatever the values say of grown weights.
    """

    def __call__(self, clock: Clock, density: float) -> Target | None:
        """Return the target of an update at this step, or None for no update."""
        ...
