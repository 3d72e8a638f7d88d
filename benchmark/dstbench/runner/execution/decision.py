"""Which of its candidates a tuned trial is, from the records of its tuning trials alone: whoever asks, wherever,
comes to the same, and nothing else is kept."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from dstbench.results.record import FILE, Record, Rejected, folder_of, read_trial
from dstbench.results.steady import steadily
from dstbench.results.tuning import TUNED, Tuning, tuning_from
from dstbench.runner.matrix.planned import Tuned

_RANKED_BY = ("metric", "score_validation", "top1_validation")
_Stamp = tuple[str, int, int, int]  # path, inode, size, time of the last change


def decided(results: Path, tuned: Tuned) -> Tuning | None:
    """What the tuning trials came to; None while one has no record, or one that is to be replaced. A record that
    can't be trusted counts as a failure."""
    stamps: list[tuple[_Stamp, ...]] = []
    for keys in tuned.trials:
        known = [_stamp(folder_of(results, key)) for key in keys]
        if None in known:
            return None
        stamps.append(tuple(stamp for stamp in known if stamp is not None))
    try:
        records = [[_outcome(stamp) for stamp in of_one] for of_one in stamps]
    except OSError:  # which may pass
        return None
    for of_one in records:
        if any(isinstance(record, dict) and record["checksum"] in tuned.replaced for record in of_one):
            return None
    return tuning_from(tuned.settings, records, tuned.mine)


def says(record: Record, tuning: Tuning) -> bool:
    """Whether a record says so of its settings, or nothing that would be wrong."""
    said = record["provenance"].get(TUNED)
    return bool(said == tuning.to_json()) or (said is None and not tuning.is_mine)


def nothing_trained(tuning: Tuning) -> tuple[str, str] | None:
    """The status of a trial for which no candidate finished, and why; None where something was chosen. What is
    impossible with every candidate is skipped."""
    if tuning.chosen is not None:
        return None
    ends = "; ".join(f"{one.text}: {', '.join(dict.fromkeys(one.failed))}" for one in tuning.candidates)
    impossible = all(end.startswith("skipped:") for one in tuning.candidates for end in one.failed)
    return (
        "skipped" if impossible else "failed",
        f"tuning: every candidate failed, so none was chosen ({ends})",
    )


@lru_cache(2**14)
def _outcome(stamp: _Stamp) -> Record | Rejected:
    """What a record says that a choice depends on. Raises OSError where it can't be read."""
    record = read_trial(Path(stamp[0]))
    if isinstance(record, Rejected):
        if record.unread:
            raise OSError(record.reason)
        return record
    measures = {name: value for name, value in record["measures"].items() if name in _RANKED_BY}
    return {**{name: record[name] for name in ("status", "reason", "checksum")}, "measures": measures}


def _stamp(folder: Path) -> _Stamp | None:
    """Changes whenever a record is written; None where there is none."""
    file = folder / FILE
    try:
        status = steadily(file.stat)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return str(file), status.st_ino, status.st_size, status.st_mtime_ns
