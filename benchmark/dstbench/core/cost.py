"""Theoretical cost: FLOPs by named conventions, parameters, bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dstbench.core.layers import maskable_layers
from dstbench.errors import BadInput, nearest


@dataclass(frozen=True)
class Convention:
    """How operations of convolutions and linear layers are counted. Norms, activations, pooling and the
    products inside attention are never counted."""

    per_mac: int  # operations of one multiply-accumulate
    per_output: int  # operations of one output element: bias and activation
    unit: str


CONVENTIONS: Mapping[str, Convention] = {
    "mac": Convention(1, 0, "multiply-accumulates"),
    "rigl": Convention(2, 1, "multiplications and additions, plus one a output"),  # RigL, appendix H
}


@dataclass(frozen=True)
class LayerCost:
    """One layer at one input."""

    macs: int  # dense multiply-accumulates for one sample
    outputs: int  # output elements for one sample
    weights: int
    rows: int  # output channels: each is charged one 32-bit bias


@dataclass(frozen=True)
class Cost:
    """What a network costs for one sample, by a named convention."""

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
    layers: Mapping[str, float] = field(repr=False, default_factory=dict)  # inference FLOPs of each

    @property
    def inference_ratio(self) -> float:
        """Sparse over dense."""
        return self.inference_flops / self.dense_inference_flops


def layer_costs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, LayerCost]:
    """Trace one zero image [1, *input_shape] through the model. A layer that runs twice is charged twice.

    Raises BadInput if the model can't take that shape.
    """
    layers = maskable_layers(model)
    outputs, macs = dict.fromkeys(layers, 0), dict.fromkeys(layers, 0)
    names = {id(layer.module): name for name, layer in layers.items()}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[id(module)]
        info = layers[name].info
        outputs[name] += output.numel()
        # Every output row meets its part of the weight; in a transposed convolution every *input* row does.
        moving = inputs[0] if info.kind == "conv_transpose" else output
        macs[name] += moving.numel() * (info.numel // info.shape[0])

    handles = [layer.module.register_forward_hook(count) for layer in layers.values()]
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *input_shape, device=device))
    except (
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
        AssertionError,
    ) as error:  # models check as they like
        raise BadInput(
            f"input_shape: {type(model).__name__} can't take {tuple(input_shape)}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    costs = {}
    for name, layer in layers.items():
        rows = int(getattr(layer.module, "out_channels", layer.info.shape[0]))
        costs[name] = LayerCost(macs[name], outputs[name], layer.info.numel, rows)
    return costs


def flops(
    costs: Mapping[str, LayerCost], density: Mapping[str, float], convention: str = "mac"
) -> dict[str, float]:
    """Inference FLOPs of each layer at the given densities; a layer without one is dense."""
    rule = get_convention(convention)
    return {
        name: rule.per_mac * layer.macs * density.get(name, 1.0) + rule.per_output * layer.outputs
        for name, layer in costs.items()
    }


def get_convention(name: str) -> Convention:
    """A convention by name. Raises BadInput for an unknown one."""
    if name not in CONVENTIONS:
        raise BadInput(f"convention: unknown {name!r}{nearest(name, CONVENTIONS)}")
    return CONVENTIONS[name]


def cost(
    model: nn.Module,
    masks_or_densities: Mapping[str, Tensor | float] | None = None,
    input_shape: Sequence[int] = (3, 32, 32),
    convention: str = "mac",
) -> Cost:
    """The theoretical cost of one sample.

    masks_or_densities: layer name -> bool mask [*w] or density; layers left out are dense.
    input_shape: channels, height, width. Raises BadInput for an unknown layer, shape or convention.
    """
    from dstbench.core.graph import removable_macs

    if not isinstance(masks_or_densities, Mapping | None):
        raise BadInput(
            f"masks_or_densities: expected {{layer name: mask or density}}, got {masks_or_densities!r}"
        )
    if not isinstance(input_shape, Sequence):
        raise BadInput(f"input_shape: expected channels, height and width, got {input_shape!r}")
    costs = layer_costs(model, input_shape)
    given = dict(masks_or_densities or {})
    for name in given:
        if name not in costs:
            raise BadInput(f"masks_or_densities: no layer {name!r}{nearest(name, costs)}")
    masks = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    density = {n: _density(n, value, costs[n].weights) for n, value in given.items()}
    active = {n: round(density.get(n, 1.0) * layer.weights) for n, layer in costs.items()}
    per_layer = flops(costs, density, convention)
    dense = flops(costs, {}, convention)
    shrunk = removable_macs(model, masks, costs) if masks else {}
    hardware = flops(costs, {n: shrunk[n] / costs[n].macs for n in shrunk if costs[n].macs}, convention)
    parameters = sum(p.numel() for p in model.parameters())
    inactive = sum(costs[n].weights - count for n, count in active.items())
    return Cost(
        convention=convention,
        inference_flops=sum(per_layer.values()),
        training_flops=3 * sum(per_layer.values()),
        hardware_flops=sum(hardware.values()),
        dense_inference_flops=sum(dense.values()),
        parameters=parameters,
        active_parameters=parameters - inactive,
        bits=sum(_bits(layer, active[n]) for n, layer in costs.items()),
        macs=sum(layer.macs for layer in costs.values()),
        weights=sum(layer.weights for layer in costs.values()),
        layers=per_layer,
    )


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


@dataclass
class TrainingMeter:
    """Training FLOPs added up over the real mask trajectory.

    A sample costs 3 f_S (forward, input gradient, weight gradient); a step whose growth needs the dense
    gradient costs 2 f_S + f_D. A dense step costs 3 f_D.
    """

    costs: Mapping[str, LayerCost]
    convention: str = "mac"
    sparse: float = 0.0
    dense: float = 0.0

    def __post_init__(self) -> None:
        """The dense forward, once."""
        self._dense_forward = sum(flops(self.costs, {}, self.convention).values())
        self._key: tuple[int, ...] = ()
        self._forward = self._dense_forward

    def add(self, active: Mapping[str, int], samples: int, dense_gradient: bool) -> None:
        """One applied step over ``samples`` images with these active weights a layer."""
        key = tuple(active.values())
        if key != self._key:
            density = {name: count / self.costs[name].weights for name, count in active.items()}
            self._key, self._forward = key, sum(flops(self.costs, density, self.convention).values())
        weight_gradient = self._dense_forward if dense_gradient else self._forward
        self.sparse += samples * (2 * self._forward + weight_gradient)
        self.dense += samples * 3 * self._dense_forward

    def state_dict(self) -> dict[str, float]:
        """What was added up so far."""
        return {"sparse": self.sparse, "dense": self.dense}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from there."""
        self.sparse, self.dense = state["sparse"], state["dense"]
