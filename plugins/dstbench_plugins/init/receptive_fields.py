"""Inits with local receptive fields, as of brains and small worlds (CHTs)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from dstbench.api import Infeasible, LayerInfo, LayerView, Policy, take_top
from dstbench_plugins.checks import check_choice, check_fraction
from dstbench_plugins.draws import gumbel, uniform
from dstbench_plugins.init.degrees import fixed_degrees, uniform_degrees
from dstbench_plugins.init.uniform import Uniform
from dstbench_plugins.structure.misfits import not_bipartite

Degrees = Literal["fixed", "uniform"]


@dataclass(frozen=True)
class ReceptiveFields:
    """Bipartite receptive fields: every node of the smaller side links to the larger side around its own place,
    p ∝ (1 + D)^(-(1 - r)/r) with D the distance on a ring (BRF of CHTs, arXiv 2501.19107, as its code has it).

    Node i of m stands at i · max(1, n // m) mod n on the ring of n. r = 0 takes the nearest positions, r = 1 random
    ones. Degrees are ``fixed``, equal but for one link, or ``uniform``: one each and the others to random nodes.
    The authors' command for LLaMA has r = 0.3 and uniform degrees; their tables take the best of r in 0, 0.1, 0.2,
    0.3 and both degrees, their perceptrons r = 0.25.

    Departures: the paper fixes the degrees of the output side, its code, as here, those of the smaller. The code
    loses the links of a node that would have more than n; here nodes with room get them. Convolutions are matrices
    [out, in · taps]; depthwise ones get random positions, and are listed.
    """

    r: float = 0.3  # randomness: 0 = nearest, 1 = uniform
    degrees: Degrees = "uniform"

    def __post_init__(self) -> None:
        """Refuse what isn't a field."""
        check_fraction("r", self.r)
        check_choice("degrees", self.degrees, get_args(Degrees))

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers without links between inputs and outputs."""
        return not_bipartite(layer)

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """At least 1 on exactly ``allocation`` positions, random numbers below 1/2 elsewhere: float64 [*w]."""
        return _as_scores(layer, self._links, rng)

    def _links(self, nodes: int, places: int, links: int, rng: Generator) -> Tensor:
        """The mask, bool [nodes, places], of ``links`` links. Raises Infeasible for less than one a node."""
        if self.degrees == "fixed":
            degrees = fixed_degrees(links, nodes, rng)
        elif links < nodes:
            raise Infeasible(f"{self!r}: {links} links for {nodes} nodes, which have at least one each")
        else:
            degrees = uniform_degrees(links, nodes, places, rng)
        keys = self._preferences(nodes, places, rng)
        ranks = keys.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return ranks < degrees[:, None]

    def _preferences(self, nodes: int, places: int, rng: Generator) -> Tensor:
        """Higher = sooner: float64 [nodes, places]."""
        centres = torch.arange(nodes) * max(1, places // nodes) % places
        apart = (torch.arange(places) - centres[:, None]).abs()
        distance = torch.minimum(apart, places - apart).double()
        if self.r == 0:
            return -distance
        return gumbel(distance, rng) - (1 - self.r) / self.r * (1 + distance).log()


@dataclass(frozen=True)
class SmallWorld:
    """Bipartite small world: every node of the larger side links to neighbouring ones of the smaller side; then each
    link moves to a random free position with probability β (BSW of CHTs, arXiv 2501.19107, as its code has it).

    Node j of n, of degree k, links from int(j · m/n - k/2) on. Degrees are equal but for one link. β = 0 is a
    lattice, β = 1 random. The default 0.25 is the authors'. Convolutions are matrices [out, in · taps]; depthwise
    ones get random positions, and are listed.
    """

    beta: float = 0.25  # the probability that a link moves

    def __post_init__(self) -> None:
        """Refuse what isn't a probability."""
        check_fraction("beta", self.beta)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers without links between inputs and outputs."""
        return not_bipartite(layer)

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """At least 1 on exactly ``allocation`` positions, random numbers below 1/2 elsewhere: float64 [*w]."""
        return _as_scores(layer, self._links, rng)

    def _links(self, nodes: int, places: int, links: int, rng: Generator) -> Tensor:
        """The mask, bool [nodes, places]: the smaller side is the nodes."""
        degrees = fixed_degrees(links, places, rng)
        first = (torch.arange(places) * nodes / places - degrees / 2).trunc().long()
        lattice = (torch.arange(nodes)[:, None] - first) % nodes < degrees
        stay = lattice & (uniform(lattice, rng) >= self.beta)
        return stay | take_top(uniform(lattice, rng), links - int(stay.sum()), ~stay)


def receptive_fields(r: float = 0.3, degrees: Degrees = "uniform") -> Policy:
    """Bipartite receptive fields (``brf``) at one density in every layer, as published."""
    return Policy(ReceptiveFields(r, degrees), Uniform())


def small_world(beta: float = 0.25) -> Policy:
    """A bipartite small world at one density in every layer, as published."""
    return Policy(SmallWorld(beta), Uniform())


def _as_scores(
    layer: LayerView, links: Callable[[int, int, int, Generator], Tensor], rng: Generator
) -> Tensor:
    """Scores of a mask that is made with the smaller side of the matrix as nodes: float64 [*w]."""
    matrix = layer.weight.flatten(1)
    rows, columns = matrix.shape
    if not layer.allocation:
        return uniform(layer.weight, rng) / 2
    if rows <= columns:
        mask = links(rows, columns, layer.allocation, rng)
    else:
        mask = links(columns, rows, layer.allocation, rng).T
    scores = mask.to(layer.weight.device).double() + uniform(matrix, rng) / 2
    return scores.view(layer.shape)
