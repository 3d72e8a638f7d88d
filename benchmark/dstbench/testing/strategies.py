"""Checks of scores, shares and policies."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dstbench.api import Infeasible, LayerInfo, LayerView, Policy, Score, Share, Signal
from dstbench.api.accumulators import Folding
from dstbench.core.training.method import foldings_of
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.testing.abilities import misspelt
from dstbench.testing.layers import LAYERS, STATES, on_device, rng, tensors, view
from dstbench.testing.problem import Findings, Problem, call_purely, describe, global_seed, label, summarise

_NO_SIGNALS = "; a signal that `needs` doesn't declare is None"


def check_score(score: Score, name: str = "", *, signals: bool = True) -> list[Problem]:
    """Problems of a score on awkward layers: shape, dtype, device, NaN, purity, determinism, global RNG.

    ``signals=False`` checks it in the role of an init, before there is any mask or momentum.
    """
    return summarise(label(score, name), _score_findings(score, signals))


def check_share(share: Share, name: str = "", *, signals: bool = True) -> list[Problem]:
    """Problems of a share: a finite weight >= 0 for each layer, purity, determinism, global RNG."""
    return summarise(label(share, name), _share_findings(share, signals))


def check_policy(policy: Policy, name: str = "", *, signals: bool = True) -> list[Problem]:
    """Problems of both parts of a policy."""
    of_score = check_score(policy.score, name, signals=signals)
    return of_score + check_share(policy.share, name, signals=signals)


Asked = tuple[Signal, dict[str, Folding]]  # the signals and accumulators that a strategy asks for


def _declared(
    part: Any, kind: Literal["score", "share"], signals: bool
) -> Generator[tuple[str, str], None, Asked | None]:
    """Yield what is wrong with a strategy's declarations; return what it asks for, None if it can't be checked with
    any."""
    yield from misspelt(part, kind)
    try:
        policy = Policy(score=part) if kind == "score" else Policy(share=part)
        needs, foldings = policy.needs, foldings_of({kind: policy}, registry())
    except BadInput as error:
        yield "abilities", str(error)
        return None
    if needs & (Signal.MOMENTUM | Signal.MEMORY) and not signals:
        yield "needs", f"asks for {needs}: an init runs before there is any momentum or memory"
        return None
    if Signal.HESSIAN in needs and (signals or not policy.rounds.count):
        yield "needs", f"asks for {needs}, which only an init with rounds has"
        return None
    return needs, foldings


def _score_findings(score: Score, signals: bool) -> Findings:
    asked = yield from _declared(score, "score", signals)
    if asked is None:
        return
    states = STATES if signals else ("empty",)
    fitting = yield from _fitting(score)
    for info in fitting:
        for state in states:
            layer = view(info, state, *asked)
            where = f"layer {info.name!r} {list(info.shape)}, {state}"
            try:
                result, impure = call_purely(lambda: _scored(score, layer), tensors(layer), where)  # noqa: B023
            except Exception as error:
                yield "runs", f"{where}: {describe(error)}{'' if asked[0] else _NO_SIGNALS}"
                continue
            yield from impure
            yield from _score_result(result, layer, where)
    yield from _elsewhere(score, asked, states[0], fitting)


def _fitting(score: Score) -> Generator[tuple[str, str], None, list[LayerInfo]]:
    """Yield what is wrong with the reasons of a score that can't rank some layers; return those that it can."""
    fitting = []
    for info in LAYERS:
        try:
            reason = Policy(score=score).misfit(info)
        except Exception as error:
            yield "misfit", f"layer {info.name!r} {list(info.shape)}: {describe(error)}"
            continue
        if reason is None:
            fitting.append(info)
        elif not (isinstance(reason, str) and reason):
            yield (
                "misfit",
                f"layer {info.name!r} {list(info.shape)}: expected None or a reason, got {reason!r}",
            )
    if not fitting:
        yield "misfit", f"fits none of the {len(LAYERS)} layers it was tried on"
    return fitting


def _elsewhere(score: Score, asked: Asked, state: str, fitting: list[LayerInfo]) -> Findings:
    """Scores belong on the weight's device. The meta device shows it without a GPU, if a score runs there."""
    for device in ("meta", "cuda") if torch.cuda.is_available() else ("meta",):
        for info in fitting:
            layer = on_device(view(info, state, *asked), device)
            try:
                with global_seed(1):
                    result = _scored(score, layer)
            except Exception as error:
                if device != "meta":  # there, whatever depends on values fails, rightly
                    yield "device", f"layer {info.name!r} on {device}: {describe(error)}"
                continue
            if isinstance(result, Tensor) and result.device != layer.weight.device:
                expected = f"expected {device}, the weight's, got {result.device}"
                yield "device", f"layer {info.name!r} on {device}: {expected}"


def _scored(score: Score, layer: LayerView) -> Tensor:
    with torch.no_grad():
        return score(layer, rng(layer.info))


def _score_result(result: Any, layer: LayerView, where: str) -> Findings:
    if not isinstance(result, Tensor):
        yield "type", f"{where}: expected a tensor, got {type(result).__name__}"
        return
    if result.shape != layer.weight.shape:
        yield "shape", f"{where}: expected {list(layer.shape)}, got {list(result.shape)}"
    if result.device != layer.weight.device:
        yield "device", f"{where}: expected {layer.weight.device}, got {result.device}"
    elif not result.is_floating_point():
        yield "dtype", f"{where}: expected a floating dtype, got {result.dtype}"
    elif bool(result.isnan().any()):
        yield "NaN", f"{where}: {int(result.isnan().sum())} of {result.numel()} scores are NaN"


def _share_findings(share: Share, signals: bool) -> Findings:
    asked = yield from _declared(share, "share", signals)
    if asked is None:
        return
    for state in STATES if signals else ("empty",):
        for growing in (True, False) if signals else (True,):
            layers = {info.name: view(info, state, *asked) for info in LAYERS}
            candidates = _candidates(share, layers, growing)
            free = sum(int((layer.mask != growing).sum()) for layer in layers.values())
            for n in sorted({1, max(1, free // 3)}):
                where = f"{state} layers, {'growing' if growing else 'pruning'} {n}"
                yield from _share_once(share, layers, candidates, n, where)


def _candidates(share: Share, layers: Mapping[str, LayerView], growing: bool) -> dict[str, Tensor]:
    """Scores of the positions that may be taken: ties and zeros included, empty for layers without any."""
    if not Policy(share=share).uses_candidates:
        return {}
    return {
        name: layer.weight[~layer.mask if growing else layer.mask].abs() * (1 if growing else -1)
        for name, layer in layers.items()
    }


def _share_once(
    share: Share, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int, where: str
) -> Findings:
    inputs = {f"{name}.{k}": v for name, layer in layers.items() for k, v in tensors(layer).items()}
    inputs |= {f"candidates of {name}": values for name, values in candidates.items()}
    try:
        result, impure = call_purely(lambda: share(dict(layers), dict(candidates), n), inputs, where)
    except Exception as error:
        if not (isinstance(error, Infeasible) and n == 1):  # so few may be too few for an allocation
            yield "runs", f"{where}: {describe(error)}"
        return
    yield from impure
    if not isinstance(result, Mapping) or set(result) != set(layers):
        got = sorted(result) if isinstance(result, Mapping) else type(result).__name__
        yield "layers", f"{where}: expected a weight for each of {sorted(layers)}, got {got}"
        return
    for name, weight in result.items():
        try:
            value = float(weight)
        except (TypeError, ValueError):
            yield "weights", f"{where}, layer {name!r}: expected a number, got {weight!r}"
            continue
        if not (math.isfinite(value) and value >= 0):
            yield "weights", f"{where}, layer {name!r}: expected a finite number >= 0, got {value}"
