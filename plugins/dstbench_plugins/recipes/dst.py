"""Dynamic sparse training: masks that move at a constant density, or near it.

Defaults are the papers' or their authors' code's. What is ours in all of them: a topology update follows the
weight step, counts are exact integers, and state of the optimizer is cleared wherever the mask changes.
"""

from typing import Any, Literal

from dstbench.api import Recipe

_ITOP_FLOOR = 0.005  # the drop fraction towards the end in the code of SNFS, which ITOP's follows


def set_(zeta: float = 0.3, delta_t: int = 100, unit: str = "steps", stop: float = 0.75) -> Recipe:
    """SET as in the RigL paper: the smallest |w| go, random ones come, per layer, with RigL's cosine: the fraction
    ``zeta`` of each layer at first, falling to none at ``stop`` of the training, every ``delta_t``."""
    schedule = {"name": "cosine", "alpha": zeta, "delta_t": delta_t, "unit": unit, "stop": stop}
    return Recipe(grow="random", schedule=schedule)


def set_author(zeta: float = 0.3, delta_t: int = 1, unit: str = "epochs") -> Recipe:
    """SET as its authors wrote it (arXiv 1707.04780): after every epoch the fraction ζ of the positive and ζ of
    the negative weights nearest to zero go and random ones come. Erdős–Rényi density, the output layer dense.

    Departures: the density is given rather than ε (20 in their code), and there is no update after the last
    epoch, since what it grew would never be trained.
    """
    return Recipe(
        init="er",
        prune="set",
        grow="random",
        schedule={"name": "constant", "zeta": zeta, "delta_t": delta_t, "unit": unit},
        dense_layers=("@classifier",),
    )


def rigl(alpha: float = 0.3, delta_t: int = 100, stop: float = 0.75) -> Recipe:
    """RigL (arXiv 1911.11134) with its defaults: every ``delta_t`` steps until ``stop`` of the training the fraction
    ``alpha``, falling as a cosine, of each layer's smallest |w| goes and as many of the largest |g| come. The update
    follows the weight step rather than replacing it."""
    return Recipe(schedule={"name": "cosine", "alpha": alpha, "delta_t": delta_t, "stop": stop})


def rigl_uniform(alpha: float = 0.3, delta_t: int = 100, stop: float = 0.75) -> Recipe:
    """RigL at uniform density, as in its paper: the first convolution stays dense and nothing compensates, so
    ResNet-50 at densities 0.2 and 0.1 holds 0.2003 and 0.1003 of all its weights."""
    return rigl(alpha, delta_t, stop).but(init="uniform", dense_layers=("@first_conv",))


def rigl_itop(alpha: float = 0.5, delta_t: int = 4000) -> Recipe:
    """RigL-ITOP (arXiv 2102.02887): RigL with long periods, so that weights mature before they are judged, over
    all of the training. ΔT is that of the authors' CIFAR and ImageNet runs."""
    return Recipe(schedule=_itop(alpha, delta_t))


def set_itop(alpha: float = 0.5, delta_t: int = 1500) -> Recipe:
    """SET-ITOP (arXiv 2102.02887): magnitude and random growth over all of the training; ΔT as in the authors'
    CIFAR runs.

    Their code prunes by sign with a defect that drops half of the weights whatever the rate; this is SET as
    in the RigL paper.
    """
    return Recipe(grow="random", schedule=_itop(alpha, delta_t))


def snfs(alpha: float = 0.5, delta_t: int = 1, unit: str = "epochs") -> Recipe:
    """SNFS (arXiv 1907.04840): once an epoch, but not after the last, each layer loses the same fraction of its
    weights, and momentum decides where and how many grow.

    Uniform density at the start, rate and its floor of 0.005 are those of the authors' code. Departures: the
    momentum is an average of its own, without weight decay; counts are apportioned exactly, where the paper
    corrects its rounding over the epochs; nearly dense layers have no pruning rate of their own.
    """
    return Recipe(
        init="uniform", grow={"name": "momentum", "share": "momentum"}, schedule=_itop(alpha, delta_t, unit)
    )


def dsr(fraction: float = 0.15, delta_t: int = 100) -> Recipe:
    """DSR (arXiv 1902.05967): global magnitude pruning; random growth, shared by the survivors, never where
    weights just were. From uniform density.

    What the paper adapts a threshold to is done exactly: ``fraction`` of the active weights go at an event.
    It keeps some layers dense (the first convolution; WRN's shortcuts and classifier; ResNet's downsampling),
    which no pattern fits in every model: here all are sparse unless ``dense_layers`` names them.
    """
    return Recipe(
        init="uniform",
        prune={"name": "magnitude", "share": "global"},
        grow={"name": "random", "exclude_dropped": True, "share": "survivors"},
        schedule={"name": "lengthening", "fraction": fraction, "delta_t": delta_t},
    )


def mest(
    lam: float = 1.0, mu: tuple[float, ...] = (0.2, 0.1, 0.0), delta_t: int = 5, unit: str = "epochs"
) -> Recipe:
    """MEST (arXiv 2110.14032) with elastic mutation (EM): every 5 epochs prune to d - μ by |w| + λ|g| and grow
    random weights back to d, layer by layer; μ, here a fraction of d, falls in steps at 90/160 and 120/160.

    In the authors' code λ is 0 by default, and the gradient is cleared before it is read, so that no λ has an
    effect; here the paper's criterion acts. Layers that their configurations leave dense are sparse here.
    """
    schedule = {"name": "elastic", "mu": list(mu), "delta_t": delta_t, "unit": unit}
    return Recipe(init="uniform", prune={"name": "mest", "lam": lam}, grow="random", schedule=schedule)


def mest_ems(
    lam: float = 1.0, mu: tuple[float, ...] = (0.5, 0.25, 0.0), delta_t: int = 5, unit: str = "epochs"
) -> Recipe:
    """MEST with elastic mutation and a soft memory bound (EM&S): as ``mest``, but prune to d and grow to d + μ,
    so that training runs above d until 120/160; μ is that of the authors' script."""
    soft = {"name": "elastic", "mu": list(mu), "soft": True, "delta_t": delta_t, "unit": unit}
    return mest(lam).but(schedule=soft)


def _itop(alpha: float, delta_t: int, unit: str = "steps") -> dict[str, Any]:
    """A cosine over the whole training that ends at a floor, in steps or epochs."""
    return {
        "name": "cosine",
        "alpha": alpha,
        "delta_t": delta_t,
        "unit": unit,
        "stop": 1.0,
        "floor": _ITOP_FLOOR,
    }


def block_rigl(block_size: int = 16, alpha: float = 0.3, delta_t: int = 100, stop: float = 0.75) -> Recipe:
    """RigL over contiguous blocks: a block goes by its mean |w| and comes by its mean |g|, the gradient averaged over
    ranks first. What shuffled blocks have to beat."""
    return rigl(alpha, delta_t, stop).but(structure={"name": "block", "block_size": block_size})


def channel_rigl(alpha: float = 0.3, delta_t: int = 100, stop: float = 0.75) -> Recipe:
    """RigL over output channels: a row goes by its mean |w| and comes by its mean |g|."""
    return rigl(alpha, delta_t, stop).but(structure="channel")


def deep_r(
    alpha: float = 1e-5,
    noise: float = 1e-5,
    delta_t: int = 1,
    init: Literal["er", "uniform", "erk"] = "er",
) -> Recipe:
    """Deep R (arXiv 1711.05136): every position has a sign for good; whatever crosses zero dies, and as many random
    ones wake in the same layer, what just died among them, at every step.

    Defaults of drift and noise are those of the authors' code, which trains 784-300-100-10 by plain SGD, at rate 0.5
    (0.8 of it after each epoch) and batches of 10, with 1, 3 and 30 % of its layers; here Erdős–Rényi divides the
    density. ``delta_t`` above 1, ours, lets weights cross zero between updates. Departures are told at values
    ``deep-r``.
    """
    return Recipe(
        init=init,
        prune="deep-r",
        grow="random",
        schedule={"name": "constant", "zeta": 0.0, "delta_t": delta_t},
        values={"name": "deep-r", "alpha": alpha, "noise": noise},
    )


def top_kast(
    beyond: float = 1.0,
    explore: float = 0.1,
    delta_t: int = 1000,
    penalty: float = 1e-4,
    power: float = 2.0,
    densities: Literal["uniform", "erk", "er"] = "uniform",
) -> Recipe:
    """Top-KAST (arXiv 2106.03517): forward by each layer's largest |θ|, D of its weights; D(1 + ``beyond``) train,
    and all keep their values. Both sets are drawn up anew at every step while exploring, then every ``delta_t``.

    ``explore`` is the share of the training that explores; with ``beyond`` and ΔT it is a published copy's, for the
    paper's text wasn't to be had. ``penalty`` and ``power`` are λ and p of values ``top-kast``; ``densities`` divides
    D among layers. A step costs forward and input gradient at D and the weight gradient at D(1 + ``beyond``), and is
    charged so. All values are stored, dense. Departures are told at schedule ``top-kast`` and values ``top-kast``.
    """
    return Recipe(
        init={"name": "magnitude", "share": densities},
        prune="magnitude",
        grow="magnitude",
        schedule={"name": "top-kast", "beyond": beyond, "explore": explore, "delta_t": delta_t},
        values={"name": "top-kast", "weight": penalty, "power": power},
    )


def gse(
    gamma: float = 1.0, alpha: float = 0.2, delta_t: int = 1000, stop: float = 0.6, by: str = "uniform"
) -> Recipe:
    """Guided stochastic exploration (arXiv 2401.06898): Erdős–Rényi densities at first, magnitude pruning and guided
    growth ranked over the whole network, every 1,000 steps until epoch 120 of 200: the fraction ``alpha``
    of the active weights at first, falling as a cosine, from ⌊``gamma`` · active⌋ candidates. ``by``: how positions
    are drawn.

    Departures are told at growth ``gse``; the authors read the gradient of several batches, here of one.
    """
    return Recipe(
        init="er",
        prune={"name": "magnitude", "share": "global"},
        grow={"name": "gse", "gamma": gamma, "by": by, "share": "global"},
        schedule={"name": "cosine", "alpha": alpha, "delta_t": delta_t, "stop": stop},
    )


def east(
    multiplier: float = 3.0,
    cycles: int = 2,
    length: float = 0.2,
    delta_t: int = 100,
    late_delta_t: int = 4000,
) -> Recipe:
    """The cyclic densities of EAST (arXiv 2411.13545): twice the density rises to three times its value and falls
    back, Erdős–Rényi-kernel densities solved anew at each update; weights grow by |g|, then go by |w|. RigL every
    4,000 steps follows.

    Numbers are those of a copy of the authors' code, told at schedule ``cyclic``. The paper's other two tricks change
    the network, dynamic ReLUs at first and weights that layers share, and aren't part of this.
    """
    schedule = {"multiplier": multiplier, "cycles": cycles, "length": length, "delta_t": delta_t}
    return Recipe(schedule={"name": "cyclic", **schedule, "late_delta_t": late_delta_t})
