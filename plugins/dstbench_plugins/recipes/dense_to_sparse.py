"""Networks that lose weights while they train."""

from dstbench.api import Recipe
from dstbench_plugins.schedule.alternating import RESNET50


def gmp(delta_t: int = 100, start: float = 0.3125, stop: float = 0.78125, initial: float = 1.0) -> Recipe:
    """Gradual magnitude pruning (arXiv 1710.01878) at uniform density, from dense or from density ``initial``.

    Start and stop are those of the RigL paper's comparison, steps 10,000 and 25,000 of 32,000 (there every
    1,000 steps, with the first convolution dense: ``dense_layers``).
    """
    return Recipe(
        init="uniform",
        schedule={"name": "cubic", "initial": initial, "delta_t": delta_t, "start": start, "stop": stop},
    )


def granet(initial: float = 0.5, regrow: float = 0.5, delta_t: int = 100) -> Recipe:
    """GraNet (arXiv 2106.10404): gradual pruning from half dense, with gradient regrowth at every update."""
    return Recipe(schedule={"name": "cubic", "initial": initial, "regrow": regrow, "delta_t": delta_t})


def lamp(delta_t: int = 100, start: float = 0.3125, stop: float = 0.78125) -> Recipe:
    """LAMP (arXiv 2010.07611): gradual pruning from dense by layer-adaptive magnitude, ranked over all layers.

    The paper prunes a trained network, 20 % of what is left a round, and trains on after each; here the density falls
    cubically within one training, as ``gmp``'s does, with its start and stop.
    """
    return gmp(delta_t, start, stop).but(prune={"name": "lamp", "share": "global"})


def acdc(phases: tuple[float, ...] = RESNET50) -> Recipe:
    """AC/DC (arXiv 2106.12379): sparse and dense phases by turns; a compression keeps the network's largest |w|.

    Half of the training is dense, and its FLOPs are charged so. As in the authors' configuration for ResNet-50 all
    layers take part, and nothing says how sparse each gets. Departure: at a decompression the momentum of what comes
    back is cleared, where they clear all of it.
    """
    return Recipe(
        init="dense",
        prune={"name": "magnitude", "share": "global"},
        grow="random",
        schedule={"name": "alternating", "phases": list(phases)},
    )


def wanda(delta_t: int = 100, start: float = 0.3125, stop: float = 0.78125, window: int = 1) -> Recipe:
    """Wanda (arXiv 2306.11695): gradual pruning from dense by |w|·‖X‖ within output rows.

    The authors prune a trained language model at once, and train no more; here the density falls cubically within one
    training, as ``gmp``'s does, with its start and stop, and the inputs are those of the last ``window`` steps.
    """
    return gmp(delta_t, start, stop).but(prune={"name": "wanda", "window": window})


def movement(delta_t: int = 100, start: float = 0.3125, stop: float = 0.78125) -> Recipe:
    """Movement pruning (arXiv 2005.07683): gradual pruning from dense by -Σ g·w, ranked over all layers.

    The paper fine-tunes a pretrained model, whose cubic schedule this is; departures are told at prune ``movement``.
    """
    return gmp(delta_t, start, stop).but(prune={"name": "movement", "share": "global"})
