"""Theoretical cost: FLOPs by named conventions, parameters, bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from dstbench.core.cost.conventions import Convention, distinct, get_convention, usual
from dstbench.core.cost.layers import LayerCost, Workload, layer_costs, workload
from dstbench.core.cost.widths import Kept, kept_parts, kept_parts_of, removal_by_masks, shrink
from dstbench.core.network.inputs import Inputs, zero_input
from dstbench.core.network.layers import unwrap
from dstbench.core.storage.condensed_layer import expanded, is_condensed
from dstbench.errors import BadInput, nearest


@dataclass(frozen=True)
class Cost:
    """What a network costs for one sample, or for the example it was counted with, by a named convention."""

    convention: str
    inference_flops: float
    training_flops: float  # forward, input gradient and weight gradient: 3x inference
    hardware_flops: float  # of the dense network left when removable channels are gone
    dense_inference_flops: float
    parameters: int  # all of them
    active_parameters: int  # without the inactive weights
    bits: int  # 32 a active weight, 1 a mask entry of a sparse layer, 32 a output channel (bias, norm folded)
    macs: int  # dense multiply-accumulates
    weights: int  # of all convolutions and linear layers
    layers: Mapping[str, float] = field(repr=False, default_factory=dict)  # inference FLOPs of each weight
    # Of ``layers``, weights of no maskable layer, such as recurrent ones: dense unless a density is given for them.
    others: tuple[str, ...] = ()
    # Operator -> multiply-accumulates of two activations, as in attention: in no other figure here but, by
    # conventions that count them, in FLOPs, where ``product_flops`` says how much of them they are.
    products: Mapping[str, int] = field(repr=False, default_factory=dict)
    product_flops: float = 0.0
    unused: tuple[str, ...] = ()  # layers that the input doesn't reach, which cost nothing

    @property
    def all_macs(self) -> int:
        """Dense multiply-accumulates with the products of activations: half of what torch's counter says."""
        return self.macs + sum(self.products.values())

    @property
    def inference_ratio(self) -> float:
        """Inference FLOPs, sparse over dense."""
        return self.inference_flops / self.dense_inference_flops


def flops(
    costs: Mapping[str, LayerCost], density: Mapping[str, float], convention: str = "mac"
) -> dict[str, float]:
    """Inference FLOPs of each layer at the given densities; a layer without one is dense."""
    rule, counted = get_convention(convention), {}
    for name, layer in costs.items():
        macs, outputs = layer.counts(rule)
        counted[name] = rule.per_mac * macs * density.get(name, 1.0) + rule.per_output * outputs
    return counted


def product_flops(products: Mapping[str, int], rule: Convention) -> int:
    """Inference FLOPs of products of two activations: 0 by conventions that don't count them."""
    return rule.per_mac * sum(products.values()) if rule.products else 0


@dataclass(frozen=True)
class Counted:
    """What a model multiplies and what is left of it, before any convention says what that costs."""

    workload: Workload
    density: Mapping[str, float]  # of weights that aren't dense
    kept: Mapping[str, Kept]  # of layers that shrink when removable channels go
    parameters: int
    live: float | None = None  # the share of hidden channels with a weight on both sides; None without masks

    @property
    def costs(self) -> Mapping[str, LayerCost]:
        """Of all weights that are multiplied with, dense."""
        return self.workload.costs

    @property
    def conventions(self) -> tuple[str, ...]:
        """Those that may tell different things of this network."""
        return distinct(self.workload.products)

    def cost(self, convention: str | None = None) -> Cost:
        """By a named convention; by none, with attention where there is any. Raises BadInput for an unknown one."""
        convention = convention or usual(self.workload.products)
        between = product_flops(self.workload.products, get_convention(convention))
        costs, layers = self.costs, self.workload.layers
        per_layer = flops(costs, self.density, convention)
        active = {n: round(self.density.get(n, 1.0) * weight.weights) for n, weight in costs.items()}
        inference = sum(per_layer.values()) + between
        inactive = sum(weight.weights - active[n] for n, weight in costs.items())
        return Cost(
            convention=convention,
            inference_flops=inference,
            training_flops=3 * inference,
            hardware_flops=sum(flops(shrink(costs, self.kept), {}, convention).values()) + between,
            dense_inference_flops=sum(flops(costs, {}, convention).values()) + between,
            parameters=self.parameters,
            active_parameters=self.parameters - inactive,
            bits=sum(_bits(weight, active[n]) for n, weight in costs.items()),
            macs=sum(weight.macs for weight in costs.values()),
            weights=sum(layer.weights for layer in layers.values()),
            layers=per_layer,
            others=tuple(self.workload.others),
            products=self.workload.products,
            product_flops=between,
            unused=self.workload.unused,
        )


def counted(
    model: nn.Module,
    masks_or_densities: Mapping[str, Tensor | float] | None = None,
    input_shape: Sequence[int] = (3, 32, 32),
    *,
    example_input: Inputs | None = None,
    work: Workload | None = None,
) -> Counted:
    """Run once, to ask for the cost by several conventions. Arguments and errors are those of ``cost``.

    work: what ``workload`` said of a model of the same architecture at the same input; then nothing is run for it.
    """
    if not isinstance(masks_or_densities, Mapping | None):
        raise BadInput(
            f"masks_or_densities: expected {{layer name: mask or density}}, got {masks_or_densities!r}"
        )
    model = unwrap(model)
    model = expanded(model) if is_condensed(model) else model
    work = work or workload(model, input_shape, example_input=example_input)
    given, costs = dict(masks_or_densities or {}), work.costs
    for name in given:
        if name not in costs:
            raise BadInput(f"masks_or_densities: no layer {name!r}{nearest(name, costs)}")
    density = {n: _density(n, value, costs[n].weights) for n, value in given.items()}
    masks = {
        name: value for name, value in given.items() if isinstance(value, Tensor) and name in work.layers
    }
    example = zero_input(model, input_shape) if example_input is None else example_input
    removal = removal_by_masks(model, masks, example) if masks else None
    kept = {} if removal is None else kept_parts_of(removal)
    live = None if removal is None else removal.live
    return Counted(work, density, kept, sum(p.numel() for p in model.parameters()), live)


def cost(
    model: nn.Module,
    masks_or_densities: Mapping[str, Tensor | float] | None = None,
    input_shape: Sequence[int] = (3, 32, 32),
    convention: str = "mac",
    *,
    example_input: Inputs | None = None,
) -> Cost:
    """The theoretical cost of one sample: of every product with a weight that runs, whatever calls it; by the
    convention ``mac-attention`` of attention's products of activations, too.

    masks_or_densities: layer name -> bool mask [*w] or density; layers left out are dense. Where products read
    parts of a weight, each part is taken to be as dense as the whole.
    input_shape: channels, height, width of a zero sample in the model's dtype. example_input: what the model is
    called with in its place, a tensor, a tuple of positional or a dict of keyword arguments; it is counted as it
    is, so give a batch of one.
    A warning names layers that don't run. Raises BadInput for an unknown layer, shape or convention, and where a
    layer runs but what it multiplies can't be seen.

    ResNet-50's published 0.24x at 90 % with ERK, both lines also without weights (``torch.device("meta")``)::

        densities = dstbench.densities(resnet50, 0.1, init="erk")
        dstbench.cost(resnet50, densities, (3, 224, 224), convention="rigl-notebook").inference_ratio
    """
    get_convention(convention)
    return counted(model, masks_or_densities, input_shape, example_input=example_input).cost(convention)


@dataclass(frozen=True)
class WidthCost:
    """A network with fewer channels, beside the one that it was cut from."""

    costs: Mapping[str, LayerCost]
    dense: Mapping[str, LayerCost]

    @property
    def macs_ratio(self) -> float:
        """Hardware-supported FLOPs: multiply-accumulates of what is left, unstructured zeros counted, over all."""
        left, all_of_them = (sum(c.macs for c in costs.values()) for costs in (self.costs, self.dense))
        return left / all_of_them


def width_cost(
    model: nn.Module,
    rows: Mapping[str, float],
    input_shape: Sequence[int] = (3, 32, 32),
    *,
    example_input: Inputs | None = None,
) -> WidthCost:
    """The cost of the dense network left when layers keep only so many output rows: Chase's hardware-supported
    FLOPs (arXiv 2305.19454), from the widths of a run rather than from the fraction it was asked to remove.

    rows: layer name -> output rows that stay; ``widths(model, masks)`` gives a run's. Errors are
    those of ``kept_parts`` and ``layer_costs``.
    """
    dense = layer_costs(model, input_shape, example_input=example_input)
    example = zero_input(unwrap(model), input_shape) if example_input is None else example_input
    return WidthCost(shrink(dense, kept_parts(model, rows, example)), dense)


def _density(name: str, value: Tensor | float, weights: int) -> float:
    if isinstance(value, Tensor):
        if value.numel() != weights:
            raise BadInput(
                f"masks_or_densities: layer {name!r} has {weights} weights, its mask {value.numel()}"
            )
        return int(value.count_nonzero()) / weights
    if not 0 <= value <= 1:
        raise BadInput(f"masks_or_densities: layer {name!r}: expected a density in [0, 1], got {value}")
    return float(value)


def _bits(layer: LayerCost, active: int) -> int:
    return 32 * active + (layer.weights if active < layer.weights else 0) + 32 * layer.rows
