"""Init by the magnitude of the initial weights."""

from dstbench.api import Policy
from dstbench_plugins.init.erk import ERK
from dstbench_plugins.prune.magnitude import Magnitude


def magnitude_init() -> Policy:
    """The largest initial |w| of each layer under ERK's allocation (shuffled blocks start this way)."""
    return Policy(Magnitude(), ERK())
