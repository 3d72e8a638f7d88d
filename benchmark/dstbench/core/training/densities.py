"""The density of every layer, without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from dstbench.api import Infeasible, Policy, Spec
from dstbench.core.engine.allocation import check_density
from dstbench.core.engine.structures import Unstructured, as_structure
from dstbench.core.engine.update import initial_budget
from dstbench.core.network.ownership import budgeted_layers
from dstbench.core.training.method import build_policy
from dstbench.errors import BadInput

if TYPE_CHECKING:
    from dstbench.registration.registry import Registry


def densities(
    model: nn.Module,
    density: float,
    init: Spec | Policy = "erk",
    dense_layers: Sequence[str] = (),
    registry: Registry | None = None,
) -> dict[str, float]:
    """The density of every maskable layer, without masking anything.

    Their weights sum to exactly ``round(density * N)`` over the layers that ``dense_layers`` doesn't leave
    out. Raises BadInput for a density outside (0, 1], an unknown init or one that reads gradients, Infeasible
    where no allocation exists.
    """

    layers, _ = budgeted_layers(model, dense_layers)
    infos = {name: layer.info for name, layer in layers.items()}
    structures = dict.fromkeys(layers, as_structure(Unstructured()))
    n = round(check_density(density) * sum(info.numel for info in infos.values()))
    policy = build_policy("init", init, registry)
    if policy.needs or policy.accumulators:
        raise BadInput(
            f"init: {policy} reads gradients, which only a training has: its densities are those of a "
            "Sparsifier's summary() after the first step"
        )
    try:
        budget = initial_budget(layers, structures, policy, n)
    except Infeasible as error:
        raise Infeasible(f"density {density:g}: {error}") from None
    return {name: budget[name] / info.numel for name, info in infos.items()}
