"""Effects and groups as JSON values: every figure, in the metric's own sense, and the sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dstbench.report.evidence.effects import Effect, Effects, Family
from dstbench.report.evidence.groups import Against, Groups
from dstbench.report.evidence.tried import Block, Repetition
from dstbench.report.evidence.words import (
    Sentence,
    effect_sentences,
    ends_in_its_sense,
    group_sentences,
    in_its_sense,
)
from dstbench.results.ranking import Ranking


def effects_json(found: Sequence[Effects]) -> list[dict[str, Any]]:
    """JSON values: every figure, and the sentences."""
    return [_effects_json(one) for one in found]


def _effects_json(one: Effects) -> dict[str, Any]:
    metric = one.experiment.metric
    lost = ((r, cell, end) for r, ends in one.experiment.missing.items() for cell, end in ends.items())
    return {
        "setting": one.experiment.setting,
        "factors": {factor.kind: list(factor.levels) for factor in one.factors},
        "repetitions": [_where(r) for r in one.used],
        "not_used": [_where(r) for r in one.unused],
        "missing": [{**_where(r), "combination": list(cell), "status": end} for r, cell, end in lost],
        "never_tried": [list(cell) for cell in one.experiment.empty],
        "not_part_of_it": list(one.experiment.aside),
        "metric": metric.title,
        "better": metric.better,
        "mean": in_its_sense(one.mean, metric),
        "explained": one.explained,
        "inestimable": list(one.inestimable),
        "main": _family(one.main, metric),
        "differences": _family(one.differences, metric),
        "interactions": _family(one.interactions, metric),
        "variance": [vars(part) for part in one.variance],
        "means": [
            {"combination": list(mean.cell), **_measured(mean.gain, metric), "n": mean.n}
            for mean in one.means
        ],
        "sentences": _said(effect_sentences(one)),
    }


def _measured(gain: float | None, metric: Ranking) -> dict[str, float | None]:
    """A mean as it was measured, under the metric's name."""
    return {metric.key: None if gain is None else metric.sign * gain}


def _family(family: Family, metric: Ranking) -> dict[str, Any]:
    effects = [
        {**vars(effect), **_sensed(effect, metric), "levels": list(effect.levels), "told": effect.told}
        for effect in family.effects
    ]
    return {"confidence_each": family.confidence, "effects": effects}


def _sensed(effect: Effect, metric: Ranking) -> dict[str, float | None]:
    low, high = ends_in_its_sense(effect.low, effect.high, metric)
    return {"mean": in_its_sense(effect.mean, metric), "low": low, "high": high}


def groups_json(
    found: Sequence[Groups], rows: Sequence[Sequence[Against]], baseline: str | None
) -> list[dict[str, Any]]:
    """JSON values: ranks, tests of all pairs (null where there is none), bars, seeds needed, and the sentences."""
    return [
        {
            "blocks": [_place(block) for block in one.blocks],
            "complete": [_where(r) for r in one.complete],
            "metric": one.metric.title,
            "better": one.metric.better,
            "methods": [
                {"name": m.name, "rank": m.rank, **_measured(m.gain, one.metric), "n": m.n}
                for m in one.methods
            ],
            "not_ranked": list(one.apart),
            "friedman": one.friedman and vars(one.friedman),
            "test": one.test,
            "pairs": list(_pairs(one)),
            "bars": [[one.methods[place].name for place in bar] for bar in one.bars],
            "more_bars": one.more_bars,
            "deviation": one.deviation,
            "seeds_needed": {"difference": one.difference, "for": [vars(need) for need in one.needs]},
            "baseline": baseline,
            "against": [_against(row, one.metric) for row in differences],
            "sentences": _said(group_sentences(one)),
        }
        for one, differences in zip(found, rows, strict=True)
    ]


def _against(row: Against, metric: Ranking) -> dict[str, Any]:
    low, high = ends_in_its_sense(row.low, row.high, metric)
    sensed = {"difference": in_its_sense(row.difference, metric), "low": low, "high": high}
    return {**vars(row), **sensed, "verdict": row.verdict}


def _pairs(one: Groups) -> Iterable[dict[str, Any]]:
    told = set(one.told)
    pairs = one.pairs
    columns = (pairs.first, pairs.second, pairs.n, pairs.mean, pairs.deviation, pairs.p, pairs.p_holm)
    for first, second, n, *figures in zip(*(column.tolist() for column in columns), strict=True):
        mean, deviation, p, p_holm = (
            None if figure != figure else figure for figure in figures
        )  # NaN isn't JSON
        names = {"method": one.methods[first].name, "against": one.methods[second].name}
        test = {
            "n": n,
            "difference": in_its_sense(mean, one.metric),
            "deviation": deviation,
            "p": p,
            "p_holm": p_holm,
        }
        yield {**names, **test, "told_apart": (first, second) in told}


def _place(block: Block) -> dict[str, Any]:
    return block._asdict()


def _where(repetition: Repetition) -> dict[str, Any]:
    return {**_place(repetition.block), "seed": repetition.seed}


def _said(sentences: Sequence[Sentence]) -> list[str]:
    return [f"{topic}: {text}" for topic, text in sentences]
