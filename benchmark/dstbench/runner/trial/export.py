"""From a trial's result to a file with its network, checked to compute what the masked model computes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dstbench import __version__
from dstbench.accel.compact import compact, masked_copy
from dstbench.accel.export import Network, get_format
from dstbench.accel.portable import portable
from dstbench.core.cost.cost import cost
from dstbench.core.engine.structures import as_structure
from dstbench.core.network.outputs import Comparison, comparison, tolerance
from dstbench.errors import BadInput, in_a_line
from dstbench.registration.registry import Registry
from dstbench.results.files import make_folder
from dstbench.results.record import FILE, Record, Rejected, read_record, record_files
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.trained import Trained, load_trained

TOLERANCE = 1e-5
"""What outputs may differ by, relative to the largest, in float32: other kernels add in another order."""
_TRACED, _CHECKED = 2, 5  # inputs in a batch: another number than was traced shows that any will do


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares with the masked model. Sizes are in bytes."""

    file: Path
    format: str
    path: (
        str  # "compacted", "row groups (…)", "masked-dense", "dense" without masks; "weights" of safetensors
    )
    check: Comparison  # of the file's outputs with the masked model's, on made-up inputs
    outputs: tuple[int, ...]  # shape
    size: int  # of the file
    dense_size: int  # of all the full model's parameters and buffers
    theoretical_size: (
        float  # of active weights, masks and one vector of output channels a layer: ``cost().bits``
    )

    @property
    def difference(self) -> float:
        """The largest between outputs, relative to the largest output."""
        return self.check.difference

    @property
    def ok(self) -> bool:
        """Whether the file computes the masked model's function."""
        return self.check.ok


def export(
    result: str | Path,
    format: str,
    out: str | Path | None = None,
    *,
    results: str | Path = "results",
    registry: Registry | None = None,
) -> Exported:
    """Write a trial's network to ``out`` (default: the beginning of its key, in the current folder).

    result: the trial's folder, its ``result.json``, or the beginning of its key in the folder ``results``.
    format: "pt2", "onnx" or "safetensors". Where the structure removes whole rows, pt2 and onnx hold the
    compacted network; where groups of rows read few channels, as balanced shuffled blocks do, those compute with
    what they read. Raises BadInput for a result without a network, and for a format that can't be written.
    """
    chosen = get_format(format)
    folder = find(result, Path(results))
    record = finished(folder)
    trained = load_trained(TrialSpec.from_json(record["trial"]), folder, registry)
    network, path = _network(trained, describe(record, trained))
    file = Path(out) if out is not None else Path(f"{record['key'][:12]}.{format}")
    _written(lambda: chosen.write(network, file), file)
    inputs, _ = trained.example(_CHECKED)
    with torch.no_grad():
        outputs, expected = chosen.load(network, file)(inputs), network.masked(inputs)
    theory = cost(trained.model, trained.masks, trained.input_shape, example_input=trained.sample)
    return Exported(
        file,
        format,
        path if chosen.runs else "weights",
        comparison(outputs, expected, tolerance(TOLERANCE, network.masked, inputs, expected)),
        tuple(outputs.shape),
        file.stat().st_size,
        sum(value.nbytes for value in trained.dense().state_dict().values()),
        theory.bits / 8,
    )


def _written(write: Callable[[], None], file: Path) -> None:
    """Have a file written. Raises BadInput, naming it, where that can't be; nothing half-written is left."""
    if file.is_dir():
        raise BadInput(f"out: expected a file to write, got the folder '{file}'")
    try:
        make_folder(file.parent)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".export-"):
            pass  # before minutes are spent on what can't be written
        if file.exists():
            with file.open("ab"):
                pass
    except OSError as error:
        raise BadInput(f"out: '{file}' can't be written: {error.strerror}") from error
    there = file.exists()
    try:
        write()
    except Exception as error:  # each library has its own
        if not there:
            file.unlink(missing_ok=True)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise BadInput(f"out: '{file}' can't be written: {in_a_line(error)}") from error
        raise


def find(result: str | Path, results: Path) -> Path:
    """The folder of the trial that ``result`` names. Raises BadInput where there isn't exactly one."""
    path = Path(result)
    if path.name == FILE and path.is_file():
        return path.parent
    if (path / FILE).is_file():
        return path
    folders = [file.parent for file in record_files(results) if file.parent.name.startswith(str(result))]
    if len(folders) == 1:
        return folders[0]
    matching = ", ".join(folder.name[:16] for folder in folders[:5]) or "none"
    raise BadInput(
        f"RESULT: expected a trial's folder, its {FILE} or the beginning of one trial's key in {results}, "
        f"got {str(result)!r}; matching: {matching}"
    )


def finished(folder: Path) -> Record:
    record = read_record(folder)
    if isinstance(record, Rejected):
        raise BadInput(f"RESULT: {record}")
    if record["status"] != "ok":
        raise BadInput(
            f"RESULT: {folder}: expected a finished trial, got one that is {record['status']}: {record['reason']}"
        )
    return record


def _network(trained: Trained, about: Mapping[str, str]) -> tuple[Network, str]:
    """The network as it is exported, and the path that it runs on."""
    (example, _), masked = trained.example(_TRACED), masked_copy(trained.model, trained.masks).eval()
    if not trained.masks:
        running, path = masked, "dense"
    elif as_structure(trained.structure).whole_rows:
        running, path = compact(trained.model, trained.masks, example), "compacted"
    else:
        running, grouped = portable(masked, trained.masks)
        path = f"row groups ({grouped} of {len(trained.masks)} layers)" if grouped else "masked-dense"
    return Network(masked, running, trained.masks, example, about), path


def describe(record: Mapping[str, Any], trained: Trained) -> dict[str, str]:
    """The trial in a file's metadata: texts, JSON where they aren't plain."""
    trial = record["trial"]
    return {
        "dstbench": __version__,
        "key": record["key"],
        "label": record["label"],
        "model": json.dumps(trial["model"]),
        "dataset": json.dumps(trial["dataset"]),
        "recipe": json.dumps(trial["recipe"]),
        "density": str(trial["density"]),
        "input_shape": json.dumps(trained.input_shape),
        "num_classes": str(trained.num_classes),
    }
