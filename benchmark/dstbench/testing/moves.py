"""The check that matters most: through the engine, the mask moves. A static combination type-checks too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dstbench.api import InPlace, LayerView, Layout, Policy, Signal, Structure, Support
from dstbench.api.accumulators import Folding
from dstbench.core.engine.books import Goal
from dstbench.core.engine.budget import apportion
from dstbench.core.engine.random import generator
from dstbench.core.engine.structures import EngineStructure, Unstructured, as_structure, fitted
from dstbench.core.engine.update import Masks, initial_masks, update_masks
from dstbench.core.network.layers import Layer, maskable_layers
from dstbench.core.training.method import foldings_of
from dstbench.registration.registry import registry
from dstbench.testing.layers import folded
from dstbench.testing.problem import Findings, describe

_KEPT = 0.6  # what one update keeps: enough that the largest units can move


@dataclass(frozen=True)
class _Magnitude:
    """The plainest score that reads the weights."""

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        return layer.weight.abs()


_DEFAULT = Policy(_Magnitude(), InPlace())


def movement(
    *,
    init: Policy | None = None,
    structure: Structure | Layout | Support | None = None,
    prune: Policy | None = None,
    grow: Policy | None = None,
    density: float = 0.5,
    updates: int = 3,
) -> Findings:
    """Run a few topology updates of a small network and say what goes wrong.

    What isn't given is plain: random init, any mask, magnitude pruning, random growth in place.
    """
    layers = _network()
    wanted = as_structure(structure or Unstructured())
    structures = {name: fitted(wanted, layer.info)[0] for name, layer in layers.items()}
    n = round(density * sum(layer.info.numel for layer in layers.values()))
    try:
        first = init or Policy()
        masks, budget = initial_masks(layers, structures, first, n, seed=0, fields=_gradients(layers, first))
        yield from _legality(layers, structures, masks, "at init")
        changed = 0
        for step in range(1, updates + 1):
            before = masks
            masks, budget = _update(
                layers, structures, masks, budget, (prune or _DEFAULT, grow or Policy()), step
            )
            yield from _legality(layers, structures, masks, f"after update {step}")
            changed += sum(int((masks[name] != before[name]).sum()) for name in masks)
    except Exception as error:
        yield "engine", describe(error)
        return
    if not changed:
        yield "moves", f"{updates} topology updates at density {density} changed no mask at all"


def _network() -> dict[str, Layer]:
    """Layers of every common shape, with weights that don't depend on the global generator."""
    model = nn.ModuleDict(
        {
            "conv1": nn.Conv2d(3, 16, 3),
            "depthwise": nn.Conv2d(16, 16, 3, groups=16),
            "conv2": nn.Conv2d(16, 32, 1),
            "hidden": nn.Linear(32, 48),
            "classifier": nn.Linear(48, 10),
        }
    )
    draw = generator(0, "network", 0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    return maskable_layers(model)


def _gradients(layers: dict[str, Layer], init: Policy) -> dict[str, dict[str, Tensor]]:
    """What an init may ask for: dense gradients, everything being active before it, H g and accumulators."""
    dense = {
        name: torch.randn(layer.info.shape, generator=generator(1, name, 0)) for name, layer in layers.items()
    }
    kinds = {"grad": Signal.GRAD, "active_grad": Signal.ACTIVE_GRAD, "hessian": Signal.HESSIAN}
    made = {kind: dense for kind, signal in kinds.items() if signal in init.needs}
    for name, folding in foldings_of({"init": init}, registry()).items():
        made[name] = {layer: folded(folding, name, held.info, "full") for layer, held in layers.items()}
    return made


def _update(
    layers: dict[str, Layer],
    structures: dict[str, EngineStructure],
    masks: Masks,
    budget: dict[str, int],
    policies: tuple[Policy, Policy],
    step: int,
) -> tuple[Masks, dict[str, int]]:
    prune, grow = policies
    n = sum(budget.values())
    least = {name: min(structures[name].unit(layer.info), budget[name]) for name, layer in layers.items()}
    keep = max(round(_KEPT * n), sum(least.values()))
    kept = apportion({name: float(budget[name]) for name in budget}, keep, least, budget)
    foldings = foldings_of({"prune": prune, "grow": grow}, registry())
    views = {name: _view(layer, masks[name], budget[name], prune.needs | grow.needs, foldings, step)
             for name, layer in layers.items()}  # fmt: skip
    masks, budget, _ = update_masks(
        views,
        structures,
        prune,
        grow,
        Goal(keep, n, kept, dict(budget)),
        lambda name, role: generator(0, name, step, role),
    )
    return masks, budget


def _view(
    layer: Layer, mask: Tensor, budget: int, needs: Signal, foldings: Mapping[str, Folding], step: int
) -> LayerView:
    draw = generator(1, layer.info.name, step)
    grad, momentum = (torch.randn(layer.info.shape, generator=draw) for _ in range(2))
    return LayerView(
        layer.info,
        layer.weight.detach() * mask,
        mask,
        mask,
        active=budget,
        allocation=budget,
        progress=0.1 * step,
        grad=grad if Signal.GRAD in needs else None,
        active_grad=grad * mask if Signal.ACTIVE_GRAD in needs else None,
        momentum=momentum if Signal.MOMENTUM in needs else None,
        memory=momentum.sign() if Signal.MEMORY in needs else None,
        extra={name: folded(folding, name, layer.info, "half", step) for name, folding in foldings.items()},
    )


def _legality(
    layers: dict[str, Layer], structures: dict[str, EngineStructure], masks: Masks, when: str
) -> Findings:
    for name, mask in masks.items():
        if not structures[name].is_legal(layers[name].info, mask):
            yield "legal", f"layer {name!r} {list(mask.shape)}: the mask {when} isn't legal"
