"""Uniform+ allocation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dstbench.api import Infeasible, LayerView


@dataclass(frozen=True)
class UniformPlus:
    """The first convolution dense, the classifier at no less than ``classifier``, one density for the rest
    (Gale et al., arXiv 1902.09574).

    The rest pays for both, so the network keeps its density. Raises Infeasible, with the figures, where
    nothing would be left for the rest: ResNet-50 at density 0.01.
    """

    uses_candidates: ClassVar[bool] = False
    classifier: float = 0.2  # its least density

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """The weights of each layer: N_l of the first, max(0.2, D) N_l of the classifier, else their share."""
        size = {name: layer.info.numel for name, layer in layers.items()}
        density = n / sum(size.values())
        fixed = {name: float(size[name]) for name, layer in layers.items() if layer.info.first_conv}
        fixed |= {
            name: max(self.classifier, density) * size[name]
            for name, layer in layers.items()
            if layer.info.classifier and name not in fixed
        }
        rest = sum(size[name] for name in layers if name not in fixed)
        left = n - sum(fixed.values())
        if rest and left <= 0:
            taken = ", ".join(f"{count:.0f} for {name!r}" for name, count in fixed.items())
            raise Infeasible(f"uniform_plus: of {n} weights {taken}: none left for {rest} of other layers")
        return {name: fixed[name] if name in fixed else left / rest * size[name] for name in layers}
