"""Initial masks from rounds of scoring: each round's network is masked by what the round before kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from dstbench.api import Clock, LayerView, Signal, StrategyError
from dstbench.core.engine.allocation import view_fields
from dstbench.core.engine.books import Books
from dstbench.core.engine.finiteness import not_finite_of
from dstbench.core.engine.update import Masks
from dstbench.core.network.inputs import Inputs
from dstbench.core.training.calibration import Calibration, Rehearsal
from dstbench.core.training.folding import Foldings
from dstbench.core.training.rules import Rules
from dstbench.errors import NotFinite

Fields = dict[str, dict[str, Tensor]]


def rehearsal_of(
    model: nn.Module, rules: Rules, calibration: Calibration | None, example: Inputs | None
) -> Rehearsal | None:
    """What an init with rounds looks at; None where the init has none. Raises BadInput where it lacks something."""
    method = rules.method
    if method.dense or not method.init.rounds.count:
        return None
    init, names = method.init, list(rules.layers)
    return Rehearsal(
        model, names, init.rounds, init.needs, method.calibrated, calibration, example, rules.seed
    )  # fmt: skip


def rehearsed(rules: Rules, rehearsal: Rehearsal, density: float) -> tuple[Masks, Books]:
    """Initial masks and books after all rounds. density: of the last one.

    Raises NotFinite where signals aren't, StrategyError where no gradient reaches any weight."""
    init, rounds = rules.method.init, rehearsal.rounds
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in rules.layers.items()}
    books = None
    for number in range(1, rounds.count + 1):
        fields = _looked(rules, rehearsal, masks, number)
        if odd := not_finite_of(fields):
            raise NotFinite(f"init {init!r}, round {number}: {odd}: no initial mask")
        if init.needs and not any(bool(value.any()) for value in fields.get("grad", {}).values()):
            raise StrategyError(f"init {init!r}, round {number}: no gradient reaches any weight")
        survivors = None if rounds.regain or number == 1 else masks
        last = number == rounds.count
        wanted = density if last else rounds.density_at(number, density)
        masks, books = rules.initial(wanted, fields, survivors, most=not last)
    assert books is not None
    return masks, books


def _looked(rules: Rules, rehearsal: Rehearsal, masks: Masks, number: int) -> Fields:
    """The signals that the init reads in a round: gradients are means over its batches, accumulators fold them."""
    needs = rules.method.init.needs
    asked = {"grad": Signal.GRAD, "active_grad": Signal.ACTIVE_GRAD, "hessian": Signal.HESSIAN}
    sums: Fields = {}
    foldings, device = Foldings(rehearsal.foldings), next(iter(masks.values())).device
    for count, signals in enumerate(rehearsal.looks(masks, number), start=1):
        for kind, values in signals.items():
            if asked[kind] in needs or kind == "grad":
                held = sums.get(kind)
                sums[kind] = {n: v if held is None else held[n] + v for n, v in values.items()}
        views = {}
        for name, folding in foldings.foldings.items():
            fields: dict[str, Mapping[str, Tensor]] = dict(signals)
            if folding.entry is not None:
                fields["seen"] = rehearsal.activity.everywhere(name, list(masks), device)
            views[name] = _views(rules, masks, fields)
        foldings.prepare(list(views), views, Clock(count, rehearsal.rounds.batches))
        foldings.commit()
    made = {
        kind: {n: v / rehearsal.rounds.batches for n, v in values.items()} for kind, values in sums.items()
    }
    totals = foldings.read(masks)
    for name, of in totals.items():
        fits = rehearsal.foldings[name].fits
        lacking = next((n for n in masks if n not in of and fits(rules.layers[n].info)), None)
        if lacking is not None:
            raise StrategyError(f"layer {lacking!r} was given nothing, which accumulator {name!r} needs")
    return made | totals


def _views(rules: Rules, masks: Masks, fields: Mapping[str, Mapping[str, Tensor]]) -> dict[str, LayerView]:
    """The layers for which all of these fields are there."""
    names = [name for name in masks if all(name in values for values in fields.values())]
    views = {}
    for name in names:
        layer, mask = rules.layers[name], masks[name]
        held = int(mask.count_nonzero())
        view = LayerView(layer.info, layer.weight.detach(), mask, mask, held, held)
        views[name] = replace(view, **view_fields({kind: values[name] for kind, values in fields.items()}))
    return views
