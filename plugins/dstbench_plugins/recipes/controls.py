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


def synflow(rounds: int = 100) -> Recipe:
    """SynFlow (arXiv 2006.05467): the weights of largest |w·∂R/∂w| after 100 rounds on ones, for good; see init
    ``synflow``."""
    return Recipe(init={"name": "synflow", "rounds": rounds}, schedule="never")


def grasp(batches: int = 1) -> Recipe:
    """GraSP (arXiv 2002.07376): the weights of largest w·(H g) at the first batches, for good; see init ``grasp``."""
    return Recipe(init={"name": "grasp", "batches": batches}, schedule="never")


def snip_it(rounds: int = 60, batches: int = 1) -> Recipe:
    """Iterative SNIP (arXiv 2006.09081): |g·w| of what is left, over and over, for good; see init ``snip-it``."""
    return Recipe(init={"name": "snip-it", "rounds": rounds, "batches": batches}, schedule="never")


def force(rounds: int = 60, batches: int = 1) -> Recipe:
    """FORCE (arXiv 2006.09081): |g·w| of all weights at what is left, over and over, for good; see init ``force``."""
    return Recipe(init={"name": "force", "rounds": rounds, "batches": batches}, schedule="never")


def one_shot() -> Recipe:
    """One-shot magnitude pruning (arXiv 1506.02626): the largest |w| of the weights that training starts from, over
    the whole network, for good; what is left is tuned. For a matrix with ``start``: fresh weights say little.

    Departure: once. The paper prunes and tunes several times, by thresholds of each layer.
    """
    return Recipe(init={"name": "magnitude", "share": "global"}, schedule="never")
