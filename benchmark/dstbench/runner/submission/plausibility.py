"""What no check can prove, held against what else the record says: times, speeds, memory and versions.

A cheat who changes all of it together isn't noticed: these stay *reported*, whatever a result's tier is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dstbench.results.measure_table import TIMED
from dstbench.results.printable import shown
from dstbench.results.record import Record
from dstbench.runner.matrix.trial_spec import TrialSpec

REPORTED_FIELDS = (
    "measures.seconds", "measures.peak_memory", "measures.throughput", "provenance: times, commit, versions, machine",
)  # fmt: skip
"""What only the machine of the training knew."""
PACE = 3.0
"""So many times as fast as its own measured training speed nothing trains: other work beside the timing, at most."""
RATIO = 3.0
"""The median of ratios may be so far from the ratio of medians, where other work came and went."""
_COMMIT = re.compile(r"[0-9a-f]{7,64}\+?")
_VERSIONS = re.compile(r"torch (?P<torch>\S+), Python (?P<python>\S+)")

Found = tuple[str, str, str]  # field, what it should be, what it is


def implausible(
    record: Record, trial: TrialSpec, curve: Sequence[Mapping[str, Any]], per_input: int | None = 1
) -> Iterator[Found]:
    """What of a finished trial's record the rest of it contradicts.

    per_input: what its task counts of one input, such as tokens, of which speeds are told; None where that isn't
    known.
    """
    measures, provenance = record["measures"], record["provenance"]
    yield from _times(measures, provenance, curve)
    yield from _versions(measures, provenance)
    yield from _machine(measures, provenance, trial)
    for timed in TIMED:
        yield from _speed(measures.get("throughput") or {}, timed, per_input)
    yield from _pace(measures, trial, per_input)


def _times(
    measures: Mapping[str, Any], provenance: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]
) -> Iterator[Found]:
    """Times are UTC, past, and long enough apart; a training's seconds only grow."""
    known = {name: at for name in ("began", "started", "finished") if (at := instant(provenance.get(name)))}
    for name, at in known.items():
        if at.utcoffset() != timedelta(0):
            yield f"provenance.{name}", "a time in UTC", shown(provenance[name])
        elif at > datetime.now(UTC) + timedelta(days=1):
            yield f"provenance.{name}", "a time that has been", shown(provenance[name])
    seconds = measures.get("seconds")
    if {
        "began",
        "finished",
    } <= known.keys() and seconds is not None:  # it may have been stopped and gone on with
        between = (known["finished"] - known["began"]).total_seconds()
        if between < seconds - 1:
            yield "measures.seconds", f"at most the {between:g} s from start to end", shown(seconds)
    told = [line["seconds"] for line in curve if isinstance(line.get("seconds"), int | float)]
    if told != sorted(told):
        yield "curve.jsonl: seconds", "more after each epoch", shown(told)


def _versions(measures: Mapping[str, Any], provenance: Mapping[str, Any]) -> Iterator[Found]:
    """A distribution has one version, wherever it is named."""
    plugins = provenance.get("plugins")
    said = {**(plugins if isinstance(plugins, Mapping) else {})}
    if provenance.get("dstbench") is not None:
        if said.get("dstbench", provenance["dstbench"]) != provenance["dstbench"]:
            yield "provenance.dstbench", shown(said["dstbench"]), shown(provenance["dstbench"])
        said["dstbench"] = provenance["dstbench"]
    parts = provenance.get("components")
    for kind, part in parts.items() if isinstance(parts, Mapping) else ():
        if not isinstance(part, Mapping):
            continue
        name, version = part.get("distribution"), part.get("distribution_version")
        if version is not None and said.get(name, version) != version:
            yield f"provenance.components.{kind}.distribution_version", shown(said[name]), shown(version)
    timed = _VERSIONS.fullmatch(str((measures.get("throughput") or {}).get("versions")))
    for name in ("torch", "python") if timed else ():
        there = provenance.get(name)
        if there is not None and timed and not _same_version(timed[name], str(there)):
            yield f"provenance.{name}", f"{timed[name]}, with which it was timed", shown(there)
    commit = provenance.get("commit")
    if commit is not None and not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
        yield "provenance.commit", "a commit's hexadecimal digits", shown(commit)


def _same_version(one: str, other: str) -> bool:
    """Builds of one version, such as ``2.8.0+cu128`` and ``2.8.0``, are the same."""
    return one.partition("+")[0] == other.partition("+")[0]


def _machine(measures: Mapping[str, Any], provenance: Mapping[str, Any], trial: TrialSpec) -> Iterator[Found]:
    """Threads are those of the trial, a GPU was there where one was timed, and memory held the weights."""
    threads, speeds = provenance.get("threads"), measures.get("throughput") or {}
    if threads is not None and threads != trial.training.threads:
        yield "provenance.threads", shown(trial.training.threads), shown(threads)
    if str(speeds.get("device") or "cpu").startswith("cuda") and not provenance.get("gpu"):
        yield "provenance.gpu", "the one on which it was timed", shown(provenance.get("gpu"))
    least, peak = 2 * (measures.get("parameters") or 0), measures.get("peak_memory")
    if peak is not None and 0 < peak < least:
        yield "measures.peak_memory", f"at least the {least:,} bytes of the weights", shown(peak)
    asked = trial.measure
    for name in ("rounds", "batch_size"):
        wanted = getattr(asked, name, None)
        if speeds.get(name) is not None and wanted is not None and speeds[name] != wanted:
            yield f"measures.throughput.{name}", f"{wanted}, of the trial's measure", shown(speeds[name])


def _speed(speeds: Mapping[str, Any], timed: str, per_input: int | None) -> Iterator[Found]:
    """A measurement's latency, rate, ratio and quartiles say the same."""
    speed, where = speeds.get(timed) or {}, f"measures.throughput.{timed}"
    inputs: Any = 1 if timed == "single" else speeds.get("batch_size")
    batch: Any = None if None in (inputs, per_input) else inputs * per_input
    rate: Any = speed.get("images_per_second")
    latency: Any = speed.get("latency_median")
    made: Any = speed.get("rounds")
    most: Any = speeds.get("rounds")
    if None not in (made, most) and not 1 <= made <= most:
        yield f"{where}.rounds", f"1 to {most}, as many as were asked for", shown(made)
    if None not in (rate, latency, batch) and not math.isclose(rate * latency, batch, rel_tol=1e-6):
        yield (
            f"{where}.images_per_second",
            f"{batch / latency:.6g}, {batch} samples by their latency",
            shown(rate),
        )
    for name in ("ratio", "latency"):
        low: Any = speed.get(f"{name}_low")
        high: Any = speed.get(f"{name}_high")
        middle: Any = speed.get(name) if name == "ratio" else latency
        if None not in (low, middle, high) and not low <= middle <= high:
            yield f"{where}.{name}", f"between its quartiles {low:.6g} and {high:.6g}", shown(middle)
    dense: Any = speed.get("dense_images_per_second")
    ratio: Any = speed.get("ratio")
    known = None not in (rate, dense, ratio) and dense and ratio
    calm = not speeds.get("contended")  # other work may have come in any one round: shown, not ranked
    if known and calm and not 1 / RATIO <= rate / dense / ratio <= RATIO:
        yield f"{where}.ratio", f"about {rate / dense:.3g}, of the two rates", shown(ratio)


def _pace(measures: Mapping[str, Any], trial: TrialSpec, per_input: int | None) -> Iterator[Found]:
    """The training took about as long as its measured speed says, or longer: data, updates and evaluations count."""
    speeds = measures.get("throughput") or {}
    if speeds.get("contended"):  # slower than the training was by as much as other work took
        return
    speed = (speeds.get("train") or {}).get("images_per_second")
    seconds, steps = measures.get("seconds"), measures.get("steps")
    if not (speed and steps and per_input) or seconds is None:
        return
    samples = steps * trial.training.batch_size * trial.training.gradient_accumulation * per_input
    if seconds * speed * PACE < samples:
        yield (
            "measures.seconds",
            f"about {samples / speed:.3g} by the measured training speed, or more",
            shown(seconds),
        )


def instant(text: Any) -> datetime | None:
    """A record's time, in UTC where it names no zone; None where it is none."""
    try:
        at = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
