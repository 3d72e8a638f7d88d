"""What verifying a row's trials came to, figure by figure: the label that stands beside each in the row's details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dstbench.results.measure_table import MEASURES
from dstbench.results.record import Record
from dstbench.results.verdicts import CHECKS, TOLD

_READ_FROM: Mapping[str, tuple[str, ...]] = {
    "density_parameters": ("active_parameters", "parameters", "convention"),
    "score": ("score", "top1"),
    "metric": ("metric",),
    "better": ("metric",),
    "score_validation": ("score_validation", "top1_validation"),
    "perplexity": ("metrics",),
    "bits_per_character": ("metrics",),
    "loss": ("loss", "metrics"),
    **dict.fromkeys(
        ("channel_excess_80", "channel_excess_50", "channel_gini", "channel_dead"), ("channels",)
    ),
}
"""Of measures that aren't a field of their own, the fields of a record that say them: the first that is there."""


def fields_of(measure: str) -> tuple[str, ...]:
    """The fields of a record's measures that a column of the boards is made of."""
    row = MEASURES[measure]
    if row.inverse_of:
        return fields_of(row.inverse_of)
    return ("throughput",) if row.timed else _READ_FROM.get(measure, (measure,))


def labels_of(records: Sequence[Record], checks: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Measure -> the least that is known of it over the seeds that finished: ``reported``, or how it was made again.

    checks: ``LoadedResults.checks``. What no record has is left out, and so is what boards make of several trials.
    """
    labels: dict[str, str] = {}
    for record in (record for record in records if record["status"] == "ok"):
        measures, how = record["measures"], checks.get(record["key"], {})
        for measure in MEASURES.keys() - {"density_requested"}:  # that is the trial's own, and in its key
            said = next((name for name in fields_of(measure) if measures.get(name) is not None), None)
            if said is not None:
                label = how.get(f"measures.{said}", TOLD)
                labels[measure] = min(label, labels.get(measure, label), key=CHECKS.index)
    return labels
