"""What a reader wants to know before reading a table."""

from __future__ import annotations

from typing import Any

from dstbench.report.page_cells import gained
from dstbench.report.statistics import EVIDENCE
from dstbench.report.values import is_missing, show
from dstbench.results.table import LoadedResults

Row = dict[Any, Any]
Tile = dict[str, str]

_SPEED = "inference_throughput_ratio"


def facts(rows: list[Row], loaded: LoadedResults) -> list[Tile]:
    """How much went into the page."""

    def count(number: int, what: str) -> dict[str, str]:
        return {"value": f"{number:,}", "what": what if number == 1 else f"{what}s"}

    finished = sum(record["status"] == "ok" for record in loaded.records)
    counts = [
        {"value": f"{finished:,}", "what": f"of {len(loaded.records):,} trials finished"},
        count(len({row["method"] for row in rows if not row["control"]}), "method"),
        count(len({row["model"] for row in rows}), "model"),
        count(len({row["dataset"] for row in rows}), "data set"),
        count(len({record["trial"]["seed"] for record in loaded.records}), "seed"),
    ]
    return counts + ([count(len(loaded.rejected), "file") | {"what": "left out"}] if loaded.rejected else [])


def tiles(rows: list[Row]) -> list[Tile]:
    """The best, the cheapest and the fastest of one model on one data set."""
    sparse = [row for row in rows if not row["control"] and not is_missing(row["top1"])]
    if not sparse:
        return []
    best = max(sparse, key=lambda row: row["top1"])
    alone = "" if best["seeds"] >= EVIDENCE else ", one seed: no evidence that it is the best"
    shown = [_tile("Best sparse top-1", f"{best['top1']:.2f} %", _who(best) + alone)]
    if not is_missing(best["difference"]):
        points = f"{show('points', best['difference'])} points"
        shown.append(_tile("Its difference to dense, paired", points, _interval(best)))
    return [*shown, *_cheapest(sparse, best["top1"] - 1), *_fastest(sparse)]


def _cheapest(sparse: list[Row], enough: float) -> list[Tile]:
    near = [row for row in sparse if row["top1"] >= enough and not is_missing(row["training_flops_ratio"])]
    if not near:
        return []
    cheap = min(near, key=lambda row: row["training_flops_ratio"])
    value = f"{show('ratio', cheap['training_flops_ratio'])} FLOPs"
    return [_tile("Cheapest training within 1 point of it", value, _who(cheap))]


def _fastest(sparse: list[Row]) -> list[Tile]:
    """The fastest calm timing that is a gain; "no gain" where all are what timings of equal networks differ by."""
    timed = [row for row in sparse if not is_missing(row[_SPEED]) and row["contended"] is not True]
    if not timed:
        return []
    gains = [row for row in timed if gained(row, _SPEED)]
    fast = max(gains or timed, key=lambda row: row[_SPEED])
    value, what = show("ratio", fast[_SPEED]), "Fastest inference, measured"
    if not gains:
        return [_tile(what, "no gain", f"highest: {value}, {fast['inference_path']}")]
    return [_tile(what, value, f"{_who(fast)}, {fast['inference_path']}, {show('percent', fast['top1'])} %")]


def _tile(what: str, value: str, who: str) -> Tile:
    return {"what": what, "value": value, "who": who}


def _who(row: Row) -> str:
    return f"{row['method']} at density {row['density_requested']:g}"


def _interval(row: Row) -> str:
    if is_missing(row["difference_low"]):
        return "one seed: no interval"
    low, high = show("points", row["difference_low"]), show("points", row["difference_high"])
    return f"95 % interval {low} to {high}, {row['seeds']:.0f} seeds"
