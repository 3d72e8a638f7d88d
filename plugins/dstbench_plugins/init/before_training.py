"""Inits that score the network before training, over and over or at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerView, Policy, Rounds, Signal
from dstbench_plugins.share.rank import Global


@dataclass(frozen=True)
class SynapticFlow:
    """|w · ∂R/∂w| of |network| on ones, in rounds: see ``synflow``."""

    needs: ClassVar[Signal] = Signal.GRAD
    count: int = 100

    @property
    def rounds(self) -> Rounds:
        """On ones, of survivors."""
        return Rounds(self.count, probe="ones")

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|w · ∂R/∂w|: float64 [*w]."""
        assert layer.grad is not None
        return (layer.weight.double() * layer.grad.double()).abs()


@dataclass(frozen=True)
class GradientSignal:
    """w · (H g) at a few batches: see ``grasp``."""

    needs: ClassVar[Signal] = Signal.HESSIAN
    batches: int = 1
    temperature: float = 200.0

    @property
    def rounds(self) -> Rounds:
        """At once."""
        return Rounds(1, batches=self.batches, temperature=self.temperature, training=False)

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """w · H g: float [*w]."""
        return layer.weight * layer.extra["hessian"]


@dataclass(frozen=True)
class IterativeSaliency:
    """|g · w| of the network masked by the round before: see ``iterative_snip`` and ``force``."""

    needs: ClassVar[Signal] = Signal.GRAD
    count: int = 60
    batches: int = 1
    regain: bool = False

    @property
    def rounds(self) -> Rounds:
        """On batches."""
        return Rounds(self.count, regain=self.regain, batches=self.batches)

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|g · w|: float [*w]."""
        assert layer.grad is not None
        return (layer.grad * layer.weight).abs()


def synflow(rounds: int = 100) -> Policy:
    """Keep the largest |w · ∂R/∂w| with R the sum of the outputs for an input of ones, of the network with every
    value of its state at its size: no data is read (SynFlow, arXiv 2006.05467). At round k of ``rounds`` the best
    of the survivors are kept at density d^(k/rounds), ranked over all layers.

    As in the authors' code: evaluation mode, batch norms' statistics by size, too, one sample, float64 (products of
    sizes overflow), 100 rounds. Departures: every layer keeps at least one unit; theirs thresholds with ≤ and may
    drop ties together; layer norms, which no size can pass, are left out, as GSE's code does; of text the
    embedding's output is ones, which is ours.
    """
    return Policy(SynapticFlow(rounds), Global())


def grasp(batches: int = 1, temperature: float = 200.0) -> Policy:
    """Keep the largest w · (H g), ranked over all layers: weights without which gradients would shrink most (GraSP,
    arXiv 2002.07376). This is minus the paper's score, whose largest are removed.

    As in the code of SynFlow's authors: the outputs are divided by ``temperature``, g and H g come from two passes
    over the same ``batches`` batches, the network is in evaluation mode. Departures: every layer keeps at least one
    unit; their batches hold ten samples a class, here they are the training's first.
    """
    return Policy(GradientSignal(batches, temperature), Global())


def iterative_snip(rounds: int = 60, batches: int = 1) -> Policy:
    """Keep the largest |g · w| of the survivors, g of the network masked by the round before, at density
    d^(k/rounds) behind round k, ranked over all layers (iterative SNIP, arXiv 2006.09081).

    Gradients are means over ``batches`` other batches each round, in training mode as in their code: 1 for
    CIFAR-10, 10 for CIFAR-100, 20 for Tiny-ImageNet, 40 for ImageNet there. 60 rounds are the paper's, the code's
    default is 10. Departures: every layer keeps at least one unit; batches are the training's first, in its order.
    """
    return Policy(IterativeSaliency(rounds, batches), Global())


def force(rounds: int = 60, batches: int = 1) -> Policy:
    """Keep the largest |g · w| of all weights, w their initial values and g of the network masked by the round
    before, so that a masked weight may return, at density d^(k/rounds) behind round k (FORCE, arXiv 2006.09081).

    All else is as of ``snip-it``: 60 rounds in the paper, 10 by default in its code; 1 to 40 batches each.
    """
    return Policy(IterativeSaliency(rounds, batches, regain=True), Global())
