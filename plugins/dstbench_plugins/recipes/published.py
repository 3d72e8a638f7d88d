"""Published methods as named choices of components. No special cases: each is what its parts are."""

from dstbench.api import Recipe, Spec


def dense() -> Recipe:
    """No sparsity at all."""
    return Recipe(dense=True, schedule="never")


def small_dense() -> Recipe:
    """A narrower dense model with as many parameters as the sparse one has active ones."""
    return Recipe(narrow=True, schedule="never")


def static(init: str = "erk", structure: Spec = "unstructured") -> Recipe:
    """Random sparse from the start, never updated: what moving the masks has to beat, in each structure."""
    return Recipe(init=init, structure=structure, grow="random", schedule="never")


def snip() -> Recipe:
    """SNIP (arXiv 1810.02340): the weights of largest |g·w| at the first batch, over the whole network, for good."""
    return Recipe(init="snip", schedule="never")


def set_(
    zeta: float = 0.3, delta_t: int = 100, unit: str = "steps", stop: float = 0.75, init: str = "erk"
) -> Recipe:
    """SET as in the RigL paper: the smallest |w| go, random ones come, per layer, with RigL's cosine."""
    schedule = {"name": "cosine", "alpha": zeta, "delta_t": delta_t, "unit": unit, "stop": stop}
    return Recipe(init=init, grow="random", schedule=schedule)


def rigl(alpha: float = 0.3, delta_t: int = 100, stop: float = 0.75, init: str = "erk") -> Recipe:
    """RigL (arXiv 1911.11134) with its defaults. The update follows the weight step rather than replacing it."""
    return Recipe(init=init, schedule={"name": "cosine", "alpha": alpha, "delta_t": delta_t, "stop": stop})


def snfs(alpha: float = 0.5, delta_t: int = 1, unit: str = "epochs", init: str = "uniform") -> Recipe:
    """SNFS (arXiv 1907.04840): once an epoch, but not after the last, each layer loses the same fraction of its
    weights, and momentum decides where and how many grow.

    Uniform density at the start, rate and its floor of 0.005 are those of the authors' code. Departures: the
    momentum is an average of its own, without weight decay; counts are apportioned exactly, where the paper
    corrects its rounding over the epochs; nearly dense layers have no pruning rate of their own.
    """
    schedule = {
        "name": "cosine",
        "alpha": alpha,
        "delta_t": delta_t,
        "unit": unit,
        "stop": 1.0,
        "floor": 0.005,
    }
    return Recipe(init=init, grow={"name": "momentum", "share": "momentum"}, schedule=schedule)


def dsr(fraction: float = 0.15, delta_t: int = 100, dense_layers: tuple[str, ...] = ()) -> Recipe:
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
        dense_layers=dense_layers,
    )


def mest(lam: float = 1.0, extra: float = 0.05, delta_t: int = 100) -> Recipe:
    """MEST (arXiv 2110.14032) with a soft memory bound (EM&S); here μ falls as a half cosine, not in steps."""
    return Recipe(
        prune={"name": "mest", "lam": lam},
        grow="random",
        schedule={"name": "soft_memory", "extra": extra, "delta_t": delta_t},
    )


def gmp(delta_t: int = 100, start: float = 0.0, stop: float = 0.75) -> Recipe:
    """Gradual magnitude pruning (arXiv 1710.01878) at uniform density, from dense."""
    return Recipe(
        init="uniform", schedule={"name": "cubic", "delta_t": delta_t, "start": start, "stop": stop}
    )


def granet(initial: float = 0.5, regrow: float = 0.5, delta_t: int = 100) -> Recipe:
    """GraNet (arXiv 2106.10404): gradual pruning from half dense, with gradient regrowth at every update."""
    return Recipe(schedule={"name": "cubic", "initial": initial, "regrow": regrow, "delta_t": delta_t})


def dsb(block_size: int = 16, delta_t: int = 100) -> Recipe:
    """Dynamic shuffled blocks as published: RigL over blocks of scattered rows and columns, pruned by weight."""
    return Recipe(
        init="magnitude",
        structure={"name": "shuffled_block", "block_size": block_size, "drop": "weight"},
        schedule={"name": "cosine", "delta_t": delta_t},
    )


def ssb(block_size: int = 16) -> Recipe:
    """Static shuffled blocks: extraction once, at the start."""
    return dsb(block_size).but(schedule="never")


def dsb_16() -> Recipe:
    """Dynamic shuffled blocks of 16."""
    return dsb(16)


def dsb_32() -> Recipe:
    """Dynamic shuffled blocks of 32."""
    return dsb(32)


def dsb_64() -> Recipe:
    """Dynamic shuffled blocks of 64."""
    return dsb(64)


def ssb_16() -> Recipe:
    """Static shuffled blocks of 16."""
    return ssb(16)


def ssb_32() -> Recipe:
    """Static shuffled blocks of 32."""
    return ssb(32)


def ssb_64() -> Recipe:
    """Static shuffled blocks of 64."""
    return ssb(64)
