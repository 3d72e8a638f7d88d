"""Networks that lose weights while they train."""

from dstbench.api import Recipe


def gmp(delta_t: int = 100, start: float = 0.3125, stop: float = 0.78125) -> Recipe:
    """Gradual magnitude pruning (arXiv 1710.01878) at uniform density, from dense.

    Start and stop are those of the RigL paper's comparison, steps 10,000 and 25,000 of 32,000 (there every
    1,000 steps, with the first convolution dense: ``dense_layers``).
    """
    return Recipe(
        init="uniform", schedule={"name": "cubic", "delta_t": delta_t, "start": start, "stop": stop}
    )


def granet(initial: float = 0.5, regrow: float = 0.5, delta_t: int = 100) -> Recipe:
    """GraNet (arXiv 2106.10404): gradual pruning from half dense, with gradient regrowth at every update."""
    return Recipe(schedule={"name": "cubic", "initial": initial, "regrow": regrow, "delta_t": delta_t})
