"""What moving masks has to beat: no sparsity, a smaller network, and masks that never move."""

from dstbench.api import Recipe


def dense() -> Recipe:
    """No sparsity at all."""
    return Recipe(dense=True, schedule="never")


def small_dense() -> Recipe:
    """A narrower dense model with as many parameters as the sparse one has active ones."""
    return Recipe(narrow=True, schedule="never")


def static() -> Recipe:
    """Random sparse from the start by ERK, never updated: what moving the masks has to beat. Change ``init`` or
    ``structure`` for the control of another allocation or structure."""
    return Recipe(grow="random", schedule="never")


def snip() -> Recipe:
    """SNIP (arXiv 1810.02340): the weights of largest |g·w| at the first batch, over the whole network, for good."""
    return Recipe(init="snip", schedule="never")


def one_shot() -> Recipe:
    """One-shot magnitude pruning (arXiv 1506.02626): the largest |w| of the weights that training starts from, over
    the whole network, for good; what is left is tuned. For a matrix with ``start``: fresh weights say little.

    Departure: once. The paper prunes and tunes several times, by thresholds of each layer.
    """
    return Recipe(init={"name": "magnitude", "share": "global"}, schedule="never")
