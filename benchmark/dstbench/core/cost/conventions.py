"""How operations are counted: FLOPs by named conventions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dstbench.errors import BadInput, nearest


@dataclass(frozen=True)
class Convention:
    """How operations are counted of every product of a weight (a parameter or buffer) with activations:
    convolutions, linear layers, packed projections, recurrent weights, fixed filters. Norms, activations and pooling
    are never counted. Products of two activations, as inside attention, are no weight's and never sparse: ``Cost``
    names them apart, in ``products``, and no FLOPs hold them."""

    per_mac: int  # operations of one multiply-accumulate
    per_output: int  # operations of one output element: bias and activation
    unit: str
    padded_stem: bool = False  # a stem counted at its padded input: see LayerCost.padded_outputs


CONVENTIONS: Mapping[str, Convention] = {
    "mac": Convention(1, 0, "multiply-accumulates"),
    "rigl": Convention(2, 1, "multiplications and additions, plus one an output"),  # RigL, appendix H
    "rigl-notebook": Convention(2, 1, "as rigl, a padded stem counted at its padded input", padded_stem=True),
}
"""``rigl-notebook`` is what the published ResNet-50 ratios (0.42x, 0.23x, 8.2e9 FLOPs) were counted with: RigL's
FLOP-counting notebook, over the layers of tensorflow/tpu's resnet50_keras. That model pads the image in a layer
of its own and its stem then runs without padding, but is counted as a "same" convolution over the padded image."""


def get_convention(name: str) -> Convention:
    """A convention by name. Raises BadInput for an unknown one."""
    if name not in CONVENTIONS:
        raise BadInput(f"convention: unknown {name!r}{nearest(name, CONVENTIONS)}")
    return CONVENTIONS[name]
