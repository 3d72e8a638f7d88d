"""Cannistraci-Hebb training: which links come is decided by the network's topology alone."""

from typing import Any, Literal

from dstbench.api import Recipe


def chts(
    alpha: float = 0.1,
    delta_t: int = 100,
    stop: float = 0.75,
    unit: Literal["steps", "epochs"] = "steps",
    decay: bool = True,
    variant: Literal["ch2", "ch3"] = "ch2",
    soft: bool = True,
    end: float = 9.0,
    r: float = 0.3,
    degrees: Literal["fixed", "uniform"] = "uniform",
    percolates: bool = False,
) -> Recipe:
    """CHTs (arXiv 2501.19107): local receptive fields at uniform density, soft removal by magnitude, soft growth
    where the local communities of the bipartite network promise links.

    Defaults are those of the authors' command for LLaMA: α = 0.1 falling as a cosine until 0.75, every 100 steps,
    temperatures 1 to 9, r = 0.3. Their perceptrons move a constant 0.3 (``decay`` off) after every epoch and have
    temperatures to 3. Sampled growth is the paper's; the released command for LLaMA takes the best scores instead:
    ``soft`` off does so, and leaves removal by chance. The classifier stays dense, as the heads and last layers
    of the paper. ``percolates``, off here, is the paper's network percolation: see ``soft-magnitude``. Departures
    are told at ``brf``, ``soft-magnitude`` and ``ch2-l3n``.
    """
    schedule: dict[str, Any] = (
        {"name": "cosine", "alpha": alpha} if decay else {"name": "constant", "zeta": alpha}
    )
    return Recipe(
        init={"name": "brf", "r": r, "degrees": degrees},
        prune={"name": "soft-magnitude", "end": end, "stop": stop, **percolating(percolates)},
        grow={"name": "ch3-l3n", "variant": variant, "soft": soft},
        schedule={**schedule, "delta_t": delta_t, "unit": unit, "stop": stop},
        dense_layers=("@classifier",),
    )


def percolating(percolates: bool) -> dict[str, bool]:
    """What a prune is told beside its name: nothing, unless asked."""
    return {"percolates": True} if percolates else {}


def with_values(recipe: Recipe, restart: int) -> Recipe:
    """A recipe with the weights of CHTs' paper: SWI at the start, where weights grow the value that they last had,
    and learning rates that rise anew over ``restart`` steps behind each update."""
    return recipe.but(
        values={"name": "swi", "grown": "last", "restart": {"name": "lr_restart", "n": restart}}
    )


def chts_values(restart: int = 20, alpha: float = 0.1, delta_t: int = 100, stop: float = 0.75) -> Recipe:
    """CHTs (arXiv 2501.19107) with what its paper says of weights, which ``chts`` leaves out: SWI at the start, the
    value that it last had for what grows (appendix J), and a restart of the learning rate over 20 steps."""
    return with_values(chts(alpha, delta_t, stop), restart)


def chtss_values(restart: int = 20, initial: float = 0.5, delta_t: int = 100, stop: float = 0.8) -> Recipe:
    """CHTss (arXiv 2501.19107) with what its paper says of weights: see ``chts-values``."""
    return with_values(chtss(initial, delta_t=delta_t, stop=stop), restart)


def chtss(
    initial: float = 0.5,
    zeta: float = 0.1,
    k: float = 6.0,
    delta_t: int = 100,
    stop: float = 0.8,
    unit: Literal["steps", "epochs"] = "steps",
    prune: Literal["soft-magnitude", "soft-ri", "magnitude", "ri"] = "soft-magnitude",
    variant: Literal["ch2", "ch3"] = "ch2",
    r: float = 0.3,
    degrees: Literal["fixed", "uniform"] = "uniform",
    percolates: bool = False,
) -> Recipe:
    """CHTss (arXiv 2501.19107): CHTs while the density falls along a sigmoid from ``initial``.

    Defaults are those of the authors' command for LLaMA. In the paper a first pass prunes to the new density by
    relative importance and a second removes and regrows, by chance; here one update does both, by one score. Of its
    four ``prune`` scores soft magnitude does best on Multi30k (32.79 BLEU; soft RI 31.86, RI 32.20, magnitude 31.15);
    ``percolates`` goes with the soft ones.
    """
    return chts(variant=variant, r=r, degrees=degrees).but(
        prune={"name": prune, **percolating(percolates)},
        schedule={
            "name": "sigmoid",
            "initial": initial,
            "k": k,
            "delta_t": delta_t,
            "stop": stop,
            "unit": unit,
            "regrow": zeta,
        },
    )
