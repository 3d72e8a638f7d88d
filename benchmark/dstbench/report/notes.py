"""What the reader of a leaderboard has to know: how figures are made, and from what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from dstbench.report.scores import capital
from dstbench.results.printable import counted
from dstbench.results.ranking import TOP1, Ranking, ranking_of
from dstbench.results.record import Record

Entry = tuple[str, str]

_FIELDS = (
    ("dstbench", "dstbench"), ("commit", "commit"), ("python", "Python"), ("torch", "torch"),
    ("torchvision", "torchvision"), ("timm", "timm"), ("accelerate", "accelerate"), ("platform", "platform"),
    ("cpu", "CPU"), ("cores", "cores"), ("memory", "memory"), ("gpu", "GPU"), ("tuning", "tuning"),
)  # fmt: skip

_NONE: tuple[Any, ...] = (None, "", {}, [])

_CONVENTIONS = {
    "mac": "mac: multiply–accumulates of convolutions and linear layers; norms, activations, biases and "
    "pooling left out",
    "mac-attention": "mac-attention: multiply–accumulates of convolutions, linear layers and attention, whose "
    "products are counted for all pairs of tokens and are never sparse; norms, activations, biases, pooling and "
    "embeddings left out",
}


def reading(records: Sequence[Record]) -> list[Entry]:
    """How means, intervals, ranks, FLOPs and speeds on the page came about, and what wasn't measured."""
    finished = [record["measures"] for record in records if record["status"] == "ok"]
    named = finished or [record["measures"] for record in records if record["measures"]]
    metrics = list(dict.fromkeys(map(ranking_of, named))) or [TOP1]
    below = "".join(
        f" {capital(metric.name)} below dense's is better." for metric in metrics if metric.sign < 0
    )
    return [
        *((metric.name, _metric(metric)) for metric in metrics),
        *(
            [("perplexity", _EXPONENTIAL)]
            if any("perplexity" in (m.get("metrics") or ()) for m in finished)
            else []
        ),
        (
            "intervals",
            "95 % Student-t intervals of the mean over seeds (n − 1 degrees of freedom); none for one seed. "
            "Speed: not an interval of the mean but the quartiles over timing rounds, averaged over seeds.",
        ),
        (
            "Δ dense",
            "Paired by seed with the dense control of the same model, data and training, in the metric's own sense: "
            f"{_and(metric.unit_of_differences for metric in metrics)}.{below} p values: paired t-test, "
            "Holm-corrected over a model and data set, never below three seeds.",
        ),
        (
            "ranks",
            "Mean rank over complete blocks (model × data set × density) of the methods that every block ranks, "
            "among themselves. Controls and disturbed timings have none; nor has the speed of masked-dense "
            "networks, which differ from dense by timing noise alone.",
        ),
        (
            "one seed",
            "Rows with n = 1 stand in order of the metric but have no rank: differences between single seeds are no "
            "evidence that one method is better.",
        ),
        (
            "FLOPs",
            "Theory, against dense; training integrated over the real masks, dense gradients that growth "
            f"needed included. Convention: {_conventions(records)}.",
        ),
        (
            "speed",
            f"Measured against dense, side by side in one process. {_timed(records)} masked-dense computes "
            "every zero, so about 1× is the most it can show, whatever the FLOPs say. Training speed is that of "
            "the steps between topology updates; the updates are not in it.",
        ),
        (
            "missing",
            "A dash is a figure that was not measured; it is never a zero. Trials that failed or were skipped "
            "stay in the table with their reason.",
        ),
    ]


def _metric(metric: Ranking) -> str:
    what = (
        "Test accuracy in percent"
        if metric is TOP1
        else f"{metric.title}, {metric.direction}: on the test split"
    )
    return f"{what} after the final epoch, mean over seeds. Nothing is selected on test data."


_EXPONENTIAL = "e to the loss: means and intervals of it are those of losses, exponentiated."


def _and(words: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(words))


def provenance(records: Sequence[Record]) -> list[Entry]:
    """Versions, hardware, commits, data fingerprints and dates of the records; differing values with counts."""
    entries = [(title, _values(_short(name, record) for record in records)) for name, title in _FIELDS]
    entries = [(title, text) for title, text in entries if text]
    plugins: Counter[str] = Counter()
    for record in records:
        plugins.update(f"{name} {version}" for name, version in _items(record["provenance"].get("plugins")))
    if plugins:
        entries.append(("plugins", ", ".join(sorted(plugins))))
    return [*entries, *_data(records), *_dates(records)]


def provenance_of(record: Record) -> list[Entry]:
    """What one record says of where it comes from, without its times: versions, machine, commit, components, data."""
    made = record["provenance"]
    entries = [
        (title, _text(value)) for name, title in _FIELDS if (value := _short(name, record)) not in _NONE
    ]
    for title, name, field in (("plugins", "plugins", None), ("components", "components", "version")):
        parts = [
            (key, part.get(field) if isinstance(part, dict) else part) for key, part in _items(made.get(name))
        ]
        if parts:
            entries.append(
                (title, ", ".join(f"{key} {_text(value)}" for key, value in sorted(parts, key=str)))
            )
    if mark := made.get("dataset_fingerprint"):
        entries.append(("data (sha256)", str(mark)[:16]))
    return entries


def _short(name: str, record: Record) -> Any:
    """A field of one record's provenance; a commit by its first twelve digits (and "+" where it was changed)."""
    value = record["provenance"].get(name)
    if name != "commit" or not isinstance(value, str):
        return value
    return f"{value[:12]}{'+' if value.endswith('+') else ''}"


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _values(values: Iterable[Any]) -> str:
    """The different values, most frequent first, with counts where there are several."""
    counts: Counter[str] = Counter()
    for value, count in _counted(values):
        counts[_text(value)] += count
    if len(counts) == 1:
        return next(iter(counts))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{value} ({counted(count, 'trial')})" for value, count in ordered)


def _counted(values: Iterable[Any]) -> Iterable[tuple[Any, int]]:
    """How often each is there, but for what is missing; what can't be hashed once for each time."""
    plain = Counter[tuple[type, Any]]()
    for value in values:
        if isinstance(value, str | int | float):
            plain[type(value), value] += 1
        elif value not in _NONE:
            yield value, 1
    yield from ((value, count) for (_, value), count in plain.items() if value not in _NONE)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, int | float) and value >= 2**30:
        return f"{value / 2**30:.1f} GiB"
    return str(value)


def _data(records: Sequence[Record]) -> list[Entry]:
    prints: dict[str, set[str]] = {}
    for record in records:
        if mark := record["provenance"].get("dataset_fingerprint"):
            prints.setdefault(str(record["trial"]["dataset"].get("name")), set()).add(str(mark)[:16])
    texts = [f"{name} {' and '.join(sorted(marks))}" for name, marks in sorted(prints.items())]
    return [("data (sha256)", "; ".join(texts))] if texts else []


def _dates(records: Sequence[Record]) -> list[Entry]:
    """First start to last end of the trials themselves: never the moment the page is made."""
    started = sorted(str(at) for record in records if (at := record["provenance"].get("started")))
    finished = sorted(str(at) for record in records if (at := record["provenance"].get("finished")))
    return [("trials ran", f"{started[0]} to {finished[-1]}")] if started and finished else []


def _conventions(records: Sequence[Record]) -> str:
    names = sorted({name for record in records if (name := record["measures"].get("convention"))})
    return "; ".join(_CONVENTIONS.get(name, name) for name in names) or "not recorded"


def _timed(records: Sequence[Record]) -> str:
    finished = [record for record in records if record["status"] == "ok"]
    speeds = [speed for record in finished if (speed := record["measures"].get("throughput"))]
    contended = sum(bool(speed.get("contended")) for speed in speeds)
    text = f"Measured for {len(speeds)} of {len(finished)} finished trials."
    if speeds and all("layout" in (speed.get("inference") or {}) for speed in speeds):
        text += " Both sides lie in memory as suits them better: channels last or not."
    return f"{text} {contended} disturbed by other work: shown, not ranked." if contended else text
