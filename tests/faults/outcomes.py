"""What came of a results folder, for two of them to be compared: nothing is left out but what is measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dstbench.report.formats import board_text
from dstbench.report.page import write_leaderboards
from dstbench.results.curve_file import CURVE
from dstbench.results.record import Rejected, folder_of, read_record, search, write_record
from dstbench.results.table import read

_MEASURED = {"seconds", "peak_memory", "throughput"}
_WHEN_AND_WHERE = {"started", "finished", "hostname", "host", "node", "pid"}


def outcome(results: Path) -> dict[str, tuple[object, ...]]:
    """What came of each trial: status, measures, curve, weights and masks; times and sizes of processes left out."""
    trials: dict[str, tuple[object, ...]] = {}
    for path in search(results) if results.exists() else ():
        assert isinstance(path, Path), path
        record = read_record(path)
        if isinstance(record, Rejected) and not path.exists():
            continue  # it is being tried again
        assert isinstance(record, dict), record
        assert record["key"] not in trials
        measures = {name: v for name, v in record["measures"].items() if name not in _MEASURED}
        state = path.parent / "state.pt"
        weights = _content(state) if state.exists() else None
        curve = tuple(map(_point, _lines(path.parent / CURVE)))
        trials[record["key"]] = record["status"], json.dumps(measures, sort_keys=True), curve, weights
    return trials


def boards(results: Path, folder: Path) -> dict[str, bytes]:
    """Every file that boards of a results folder consist of, and their JSON, made of its records without what is
    measured: times, speed, the machine. ``folder`` is for what is made."""
    neutral = folder / "results"
    for record in read(results).records:
        measures = {name: 0.0 if name == "seconds" else v for name, v in record["measures"].items()}
        for name in _MEASURED - {"seconds"}:
            measures.pop(name, None)
        origin = {name: v for name, v in record["provenance"].items() if name not in _WHEN_AND_WHERE}
        write_record(
            {**record, "measures": measures, "provenance": origin}, folder_of(neutral, record["key"])
        )
    written = write_leaderboards(neutral, folder / "boards")
    assert not written.rejected
    files = {path.name: path.read_bytes() for path in written.files}
    loaded = read(neutral)
    return files | {f"{name}.json": board_text(loaded, name, "json").encode() for name in written.tables}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _point(line: str) -> str:
    """A line of a curve without its time; what isn't JSON as it is."""
    point = json.loads(line)
    if not isinstance(point, dict):
        return line
    return json.dumps({name: value for name, value in point.items() if name not in _MEASURED}, sort_keys=True)


def _content(state: Path) -> str:
    """A hash of the tensors in a file."""
    import torch

    saved, digest = torch.load(state, weights_only=True), hashlib.sha256()
    for part in ("model", "masks"):
        for name, value in sorted(saved[part].items()):
            digest.update(name.encode())
            digest.update(value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode())
    return digest.hexdigest()
