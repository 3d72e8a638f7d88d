"""Checks of accumulators."""

from __future__ import annotations

from typing import Any

import torch

from dstbench.api import Accumulator, Clock, LayerInfo
from dstbench.api.accumulators import Folding
from dstbench.errors import BadInput
from dstbench.testing.abilities import misspelt
from dstbench.testing.layers import LAYERS, STATES, fed, on_device, tensors, view
from dstbench.testing.problem import Findings, Problem, call_purely, describe, label, summarise


def check_accumulator(accumulator: Accumulator, name: str = "") -> list[Problem]:
    """Problems of an accumulator on awkward layers: shape, dtype, device, NaN, purity, determinism, global RNG, and a
    total that it changes in place, which a step that is skipped would leave changed."""
    return summarise(label(accumulator, name), _findings(accumulator))


def _findings(accumulator: Any) -> Findings:
    yield from misspelt(accumulator, "accumulator")
    try:
        folding = Folding.of(accumulator, type(accumulator).__name__)
    except BadInput as error:
        yield "abilities", str(error)
        return
    for info in LAYERS:
        for state in STATES:
            yield from _on(folding, info, state)
    for device in ("cuda",) if torch.cuda.is_available() else ():
        for info in LAYERS:
            layer = on_device(fed(folding, view(info, "half", folding.needs)), device)
            try:
                folding.fold(folding.start(layer), layer, Clock(1, 10, 2), "it")
            except Exception as error:
                yield "device", f"layer {info.name!r} on {device}: {describe(error)}"


def _on(folding: Folding, info: LayerInfo, state: str) -> Findings:
    """Two steps on one layer, the second from the first one's total."""
    where = f"layer {info.name!r} {list(info.shape)}, {state}"
    layer = fed(folding, view(info, state, folding.needs))
    total = folding.start(layer)
    for step in (1, 2):
        inputs = {**tensors(layer), "total": total}
        try:
            made, impure = call_purely(
                lambda: folding.fold(total, layer, Clock(step, 10, 2), "it"),  # noqa: B023
                inputs,
                where,
            )
        except Exception as error:
            yield "runs", f"{where}: {describe(error)}"
            return
        yield from impure
        if made.data_ptr() in {tensor.data_ptr() for tensor in inputs.values()} and made.numel():
            yield "purity", f"{where}: returned one of its inputs: a total is a tensor of its own"
        if made.is_floating_point() and bool(made.isnan().any()):
            yield "NaN", f"{where}: {int(made.isnan().sum())} of {made.numel()} totals are NaN"
            return
        total = made
