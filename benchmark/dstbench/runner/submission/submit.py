"""From a finished trial to what is handed in: its record, its curve, and its sparse checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dstbench.core.cost.cost import cost
from dstbench.errors import BadInput
from dstbench.registration.registry import Registry
from dstbench.results.files import make_folder
from dstbench.results.record import FILE, folder_of, read_trial, record_files, write_record
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.submission import weights
from dstbench.runner.trial.export import describe, find, finished
from dstbench.runner.trial.running import CURVE
from dstbench.runner.trial.trained import load_trained


@dataclass(frozen=True)
class Submitted:
    """One result as it was handed in. Sizes of the checkpoint are in bytes."""

    key: str
    label: str
    folder: Path
    size: int
    dense_size: int  # of all the full model's parameters and buffers
    theoretical_size: float  # ``cost().bits``


def submit(
    results: Iterable[str | Path],
    out: str | Path,
    *,
    within: str | Path = "results",
    registry: Registry | None = None,
) -> tuple[Submitted, ...]:
    """Write results to ``out`` as a results folder: in each trial's folder its record, curve and checkpoint.

    results: each a trial's folder, its ``result.json``, the beginning of its key in the folder ``within``, or a
    results folder, of which every finished trial is taken. A result that is there already is written anew. Raises
    BadInput for one that has no network, and where ``out`` holds another record of the trial.
    """
    target = Path(out)
    make_folder(target)
    return tuple(
        _submitted(folder, target, registry) for name in results for folder in _folders(name, Path(within))
    )


def _folders(name: str | Path, within: Path) -> list[Path]:
    """The trials that a name means."""
    path = Path(name)
    if path.is_dir() and not (path / FILE).exists():
        folders = [file.parent for file in record_files(path)]
        ended = [folder for folder in folders if _is_finished(folder)]
        if not ended:
            raise BadInput(
                f"RESULT: {path}: expected a finished trial in it, got {len(folders)} records, none is ok"
            )
        return ended
    return [find(name, within)]


def _is_finished(folder: Path) -> bool:
    record = read_trial(folder)
    return isinstance(record, dict) and record["status"] == "ok"


def _submitted(source: Path, out: Path, registry: Registry | None) -> Submitted:
    record = finished(source)
    trained = load_trained(TrialSpec.from_json(record["trial"]), source, registry)
    folder = folder_of(out, record["key"])
    if folder.exists():
        there = read_trial(folder)
        if not isinstance(there, dict) or there["checksum"] != record["checksum"]:
            raise BadInput(f"--out: {folder} holds another result of trial {record['key'][:12]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".submit-") as scratch:
        ready = Path(scratch) / folder.name
        ready.mkdir(mode=0o755)
        write_record(record, ready)
        if (source / CURVE).is_file():
            shutil.copyfile(source / CURVE, ready / CURVE)
        weights.write(trained.model, trained.masks, describe(record, trained), ready / weights.FILE)
        if folder.exists():
            shutil.rmtree(folder)
        ready.rename(folder)
    theory = cost(trained.model, trained.masks, trained.input_shape, example_input=trained.sample)
    return Submitted(
        record["key"],
        record["label"],
        folder,
        (folder / weights.FILE).stat().st_size,
        sum(value.nbytes for value in trained.dense().state_dict().values()),
        theory.bits / 8,
    )
