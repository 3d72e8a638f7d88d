"""Inits that score the network before training, over and over or at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerView, Policy, Rounds, Signal
from dstbench_plugins.share.rank import Global


@dataclass(frozen=True)
class SynapticFlow:
    """Keep the largest |w · ∂R/∂w| with R the sum of the outputs for an input of ones, of the network with every
    value of its state at its size: no data is read (SynFlow, arXiv 2006.05467). At round k the best are kept at
    density d^(k/rounds), of the survivors.

    As in the authors' code: evaluation mode, batch norms' statistics by size, too, one sample, float64 (products of
    sizes overflow), 100 rounds, ranked over all layers. Departures: theirs thresholds with ≤ and may drop ties
    together; layer norms, which no size can pass, are left out, as GSE's code does; of text the embedding's output is
    ones, which is ours.
    """

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
    """Keep the largest w · (H g): weights without which gradients would shrink most (GraSP, arXiv 2002.07376), the
    other sign than the paper's, which removes the largest -w · H g.

    As in the code of SynFlow's authors: the outputs are divided by 200, g and H g come from two passes over the same
    ``batches`` batches, all layers are ranked together. Their batches hold ten samples a class; the number here is of
    the training's batches. Their network is in evaluation mode.
    """

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
    """Keep the largest |g · w|, g of the network masked by the round before, at density d^(k/rounds) behind round k.

    Iterative SNIP keeps survivors only; FORCE (``regain``) ranks all weights by their initial values, so that a
    masked one may return (both arXiv 2006.09081). Gradients are means over ``batches`` other batches each round: 1
    for CIFAR-10, 10 for CIFAR-100, 20 for Tiny-ImageNet, 40 for ImageNet there. 60 rounds are the paper's, their
    code's default is 10. All layers are ranked together, in training mode, as in their code.
    """

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
    """SynFlow over all layers, each of which keeps at least one unit."""
    return Policy(SynapticFlow(rounds), Global())


def grasp(batches: int = 1, temperature: float = 200.0) -> Policy:
    """GraSP over all layers, each of which keeps at least one unit."""
    return Policy(GradientSignal(batches, temperature), Global())


def iterative_snip(rounds: int = 60, batches: int = 1) -> Policy:
    """SNIP in rounds, over all layers, each of which keeps at least one unit."""
    return Policy(IterativeSaliency(rounds, batches), Global())


def force(rounds: int = 60, batches: int = 1) -> Policy:
    """FORCE: SNIP in rounds that may take weights back, over all layers, each of which keeps at least one unit."""
    return Policy(IterativeSaliency(rounds, batches, regain=True), Global())
