"""Checks of structures and layouts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dstbench.api import LayerInfo, LayerView, Layout, Structure, Support
from dstbench.core.engine.structures import EngineStructure, Misfit, Partition, as_structure
from dstbench.errors import BadInput
from dstbench.testing.abilities import misspelt
from dstbench.testing.executions import execution_findings
from dstbench.testing.layers import LAYERS, rng
from dstbench.testing.problem import Findings, Problem, call_purely, describe, label, summarise
from dstbench.testing.supports import support_findings


def check_structure(structure: Structure | Layout | Support, name: str = "") -> list[Problem]:
    """Problems of a structure, or of a layout as the engine wraps it, on awkward layers.

    capacity >= unit >= 1; ``fill`` legal, within half a unit of n, a superset of what was kept (unless the
    structure retiles), at one unit, in between and full; ``shrink`` a subset near n (a structure that
    retiles may keep more); ``is_legal`` tells a scrambled mask; a support only ever shrinks, within its events;
    executions compute what masked dense does; all of it pure and deterministic.
    """
    return summarise(label(structure, name), _findings(structure))


def _findings(component: Structure | Layout | Support) -> Findings:
    yield from misspelt(component, "structure")
    try:
        structure = as_structure(component)
    except BadInput as error:
        yield "abilities", str(error)
        return
    if isinstance(component, Support):
        yield from support_findings(component)
    if isinstance(structure.structure, Partition):
        partition, misfit = structure.structure, structure.misfit
        broken = [finding for info in LAYERS for finding in _layout_findings(partition, misfit, info)]
        if broken:
            yield from broken
            return
    fitting = []
    for info in LAYERS:
        try:
            reason = structure.misfit(info)
        except Exception as error:
            yield "misfit", f"{_at(info)}: {describe(error)}"
            continue
        if reason is None:
            fitting.append(info)
        elif not (isinstance(reason, str) and reason):
            yield "misfit", f"{_at(info)}: expected None or a reason, got {reason!r}"
    if not fitting:
        yield "misfit", f"fits none of the {len(LAYERS)} layers it was tried on"
    for info in fitting:
        try:
            yield from _layer_findings(structure, info)
        except Exception as error:
            yield "runs", f"{_at(info)}: {describe(error)}"
    yield from _scrambled(structure, fitting)


def _at(info: LayerInfo) -> str:
    return f"layer {info.name!r} {list(info.shape)}"


def _layout_findings(partition: Partition, misfit: Misfit, info: LayerInfo) -> Findings:
    """The partition itself: what the engine would compute nonsense from."""
    where = _at(info)
    try:
        if misfit(info) is not None:
            return
        units, quota = partition.layout.units(info), partition.quota(info)
    except Exception as error:
        yield "layout", f"{where}: {describe(error)}"
        return
    if not isinstance(units, Tensor) or units.dtype != torch.int64 or tuple(units.shape) != info.shape:
        yield "layout", f"{where}: units must be int64 {list(info.shape)}, got {_kind(units)}"
        return
    count = int(units.max()) + 1
    if int(units.min()) < 0 or not bool((units.flatten().bincount(minlength=count) > 0).all()):
        yield "layout", f"{where}: units must be numbered from 0 without gaps"
        return
    if quota is None:
        return
    if _kind(quota.group) != f"torch.int64 [{count}]" or (quota.quota is not None and quota.quota < 1):
        yield (
            "layout",
            f"{where}: a quota needs the group of each unit, int64 [{count}], and a number >= 1 or None",
        )


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _layer_findings(structure: EngineStructure, info: LayerInfo) -> Findings:
    where = _at(info)
    unit, capacity = structure.unit(info), structure.capacity(info)
    if not (isinstance(unit, int) and isinstance(capacity, int) and 1 <= unit <= capacity <= info.numel):
        expected = f"expected 1 <= unit <= capacity <= {info.numel}"
        yield "sizes", f"{where}: {expected}, got unit {unit!r}, capacity {capacity!r}"
        return
    weight = torch.randn(info.shape, generator=rng(info, "weight"))
    distinct = torch.rand(info.shape, generator=rng(info, "scores"))
    between = [min(max(unit, capacity * k // 8), capacity) for k in (1, 4, 7)]
    targets = {
        "distinct scores": (distinct, sorted({unit, capacity, *between})),
        "all scores equal": (torch.zeros(info.shape), sorted({unit, between[1]})),
    }
    for kind, (values, sizes) in targets.items():
        yield from _updates(structure, info, weight, values, sizes, kind)
    for size in {unit, between[1], capacity}:
        mask, _ = _fill(structure, info, weight, torch.zeros(info.shape).bool(), distinct, size, "executions")
        if mask is not None:
            yield from execution_findings(structure, info, mask)
    if not structure.retiles:
        yield from _forbidden(structure, info, weight, distinct, capacity)


def _updates(
    structure: EngineStructure, info: LayerInfo, weight: Tensor, scores: Tensor, sizes: list[int], kind: str
) -> Findings:
    """From nothing to each size, and from there down to the smallest, the next smaller and the same."""
    for index, n in enumerate(sizes):
        start, findings = _fill(structure, info, weight, torch.zeros(info.shape).bool(), scores, n, kind)
        yield from findings
        if start is not None:
            for smaller in sorted({sizes[0], sizes[max(index - 1, 0)], n}):
                yield from _prune_and_grow(structure, info, weight, start, scores, smaller, kind)


def _prune_and_grow(
    structure: EngineStructure,
    info: LayerInfo,
    weight: Tensor,
    mask: Tensor,
    scores: Tensor,
    n: int,
    kind: str,
) -> Findings:
    """One update of a legal mask: shrink to n, fill to what was there."""
    count = int(mask.count_nonzero())
    where = f"{_at(info)}, {kind}, shrink from {count} to {n}"
    layer = _view(info, weight, mask, n)
    kept, impure = call_purely(
        lambda: structure.shrink(layer, scores, n), {"mask": mask, "scores": scores}, where
    )
    yield from impure
    if wrong := _not_a_mask(kept, info):
        yield "shrink", f"{where}: {wrong}"
        return
    left = int(kept.count_nonzero())
    if bool((kept & ~mask).any()):
        yield "shrink", f"{where}: activated {int((kept & ~mask).sum())} weights: it may only remove"
        return
    if left < n - structure.unit(info) / 2 or (left > n + structure.unit(info) / 2 and not structure.retiles):
        yield "shrink", f"{where}: kept {left}, more than half a unit of {structure.unit(info)} away"
    if not structure.retiles and left and not structure.is_legal(info, kept):
        yield "shrink", f"{where}: what it kept isn't legal"
    others = scores.flatten().flip(0).view(info.shape)  # what grows isn't what was there
    yield from _fill(structure, info, weight, kept, others, max(count, left), kind)[1]


def _fill(
    structure: EngineStructure,
    info: LayerInfo,
    weight: Tensor,
    kept: Tensor,
    scores: Tensor,
    n: int,
    kind: str,
) -> tuple[Tensor | None, Findings]:
    """Grow to n; returns the mask where it is one."""
    before = int(kept.count_nonzero())
    where = f"{_at(info)}, {kind}, fill from {before} to {n}"
    merged = structure.merge(kept, weight.abs() if before else None, scores, n)
    layer = _view(info, weight, kept, n)
    mask, impure = call_purely(
        lambda: structure.fill(layer, merged, n), {"mask": kept, "scores": merged}, where
    )
    findings = list(impure)
    if wrong := _not_a_mask(mask, info):
        return None, iter([*findings, ("fill", f"{where}: {wrong}")])
    count, unit = int(mask.count_nonzero()), structure.unit(info)
    if not structure.is_legal(info, mask):
        findings.append(("legal", f"{where}: the result isn't legal"))
    if abs(count - n) > unit / 2:
        findings.append(("budget", f"{where}: {count} are active, more than half a unit of {unit} away"))
    if not structure.retiles and bool((kept & ~mask).any()):
        lost = int((kept & ~mask).sum())
        findings.append(("kept", f"{where}: dropped {lost} kept weights without declaring retiles = True"))
    return mask, iter(findings)


def _forbidden(
    structure: EngineStructure, info: LayerInfo, weight: Tensor, scores: Tensor, capacity: int
) -> Findings:
    """Positions with a score of -inf stay inactive, whatever is asked for."""
    barred = torch.rand(info.shape, generator=rng(info, "barred")) < 0.3
    n = min(capacity, int((~barred).count_nonzero()))
    if n == 0 or structure.unit(info) > 1:  # a larger unit may be barred as a whole
        return
    layer = _view(info, weight, torch.zeros(info.shape).bool(), n)
    mask = structure.fill(layer, scores.masked_fill(barred, -torch.inf), n)
    if bool((mask & barred).any()):
        yield "forbidden", f"{_at(info)}: activated weights whose score is -inf"


def _scrambled(structure: EngineStructure, fitting: list[LayerInfo]) -> Findings:
    """``is_legal`` must be able to say no, unless every mask is legal (units of one, no quota)."""
    try:
        bound = [i for i in fitting if structure.unit(i) > 1 or structure.capacity(i) < i.numel]
        verdicts = [structure.is_legal(info, _random_mask(info, k)) for info in bound for k in range(4)]
        if any(info.numel >= 32 for info in bound) and all(verdicts):
            yield "legal", "is_legal accepts every random mask, although not every mask is legal"
    except Exception as error:
        yield "legal", f"is_legal {describe(error)}"


def _random_mask(info: LayerInfo, k: int) -> Tensor:
    return torch.rand(info.shape, generator=rng(info, f"scramble {k}")) < 0.5


def _view(info: LayerInfo, weight: Tensor, mask: Tensor, n: int) -> LayerView:
    return LayerView(info, weight, mask, mask.clone(), int(mask.count_nonzero()), n)


def _not_a_mask(mask: Any, info: LayerInfo) -> str | None:
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == info.shape:
        return None
    return f"expected torch.bool {list(info.shape)}, got {_kind(mask)}"
