"""SRigL: RigL with a constant fan-in."""

from dstbench.api import Recipe


def srigl(alpha: float = 0.3, delta_t: int = 100, stop: float = 0.75, gamma: float = 0.3) -> Recipe:
    """SRigL (arXiv 2305.02299): RigL where every neuron has equally many weights, and neurons with too few
    salient ones are ablated.

    Layer-wide |w| prunes, |gradient| grows row by row, with RigL's cosine, ΔT and T_end at 75 %. The classifier
    is sparse too but loses no row. It departs as its structure ``fan_in`` does, and in one more thing: every
    layer gets its ERK density, the first one too. ``gamma=0`` is constant fan-in without ablation.
    """
    return Recipe(
        structure={"name": "fan_in", "gamma": gamma},
        schedule={"name": "cosine", "alpha": alpha, "delta_t": delta_t, "stop": stop},
    )
