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
    names them apart, in ``products``, and FLOPs hold them by conventions with ``products`` only."""

    per_mac: int  # operations of one multiply-accumulate
    per_output: int  # operations of one output element: bias and activation
    unit: str
    padded_stem: bool = False  # a stem counted at its padded input: see LayerCost.padded_outputs
    products: bool = (
        False  # those of two activations, too: attention's in full, not halved where it is causal
    )


CONVENTIONS: Mapping[str, Convention] = {
    "mac": Convention(1, 0, "multiply-accumulates"),
    "mac-attention": Convention(
        1, 0, "multiply-accumulates, attention's (tokens² in full) too", products=True
    ),
    "rigl": Convention(2, 1, "multiplications and additions, plus one an output"),  # RigL, appendix H
    "rigl-notebook": Convention(2, 1, "as rigl, a padded stem counted at its padded input", padded_stem=True),
}
"""``rigl-notebook`` is what the published ResNet-50 ratios (0.42x, 0.23x, 8.2e9 FLOPs) were counted with: RigL's
FLOP-counting notebook, over the layers of tensorflow/tpu's resnet50_keras. That model pads the image in a layer
of its own and its stem then runs without padding, but is counted as a "same" convolution over the padded image.

``mac-attention`` is the long form of papers about transformers, 6N + 12·L·d·T a trained token (PaLM, arXiv
2204.02311, appendix B), in multiply-accumulates, with N the weights that are multiplied with: the head, but neither
embeddings nor norms. SPDF's 2.5x (arXiv 2303.10464) follows from it. In networks without attention it is ``mac``."""


def usual(products: Mapping[str, int]) -> str:
    """The convention that ratios are shown by: of a network with these products of activations."""
    return "mac-attention" if any(products.values()) else "mac"


def distinct(products: Mapping[str, int]) -> tuple[str, ...]:
    """The conventions that may differ for a network with these products of activations."""
    return tuple(name for name, rule in CONVENTIONS.items() if any(products.values()) or not rule.products)


def get_convention(name: str) -> Convention:
    """A convention by name. Raises BadInput for an unknown one."""
    if name not in CONVENTIONS:
        raise BadInput(f"convention: unknown {name!r}{nearest(name, CONVENTIONS)}")
    return CONVENTIONS[name]
