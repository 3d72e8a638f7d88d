"""Weights that a training starts from, put into its network before there are masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dstbench.accel.export import load_export
from dstbench.api import DataUnavailable
from dstbench.errors import BadInput, in_a_line
from dstbench.runner.matrix.start import (
    Start,
    checked_digest,
    entries_of,
    is_timm,
    located,
    repository_of,
)
from dstbench.runner.matrix.start_fit import Needed, check_fit, needed_by, timm_network


@dataclass(frozen=True)
class Fetched:
    """A file of weights that is here, and which it is."""

    file: Path
    sha256: str
    revision: str | None = None  # of a repository: the commit


@dataclass(frozen=True)
class Started:
    """What a network was started from."""

    fetched: Fetched
    fresh: tuple[str, ...]  # entries that stayed as they were initialised
    adapted: tuple[str, ...]  # that timm made fit images of another size or number of channels

    def provenance(self) -> dict[str, Any]:
        """For a record."""
        revision = {} if self.fetched.revision is None else {"revision": self.fetched.revision}
        adapted = {"adapted": [*self.adapted]} if self.adapted else {}
        return {"sha256": self.fetched.sha256, **revision, "fresh": [*self.fresh], **adapted}


def fetched(start: Start, root: Path | None, download: bool) -> Fetched:
    """The file of weights: where it is, from the Hub's cache, or downloaded into that. Raises BadInput where it is
    another than ``sha256`` says, DataUnavailable where it isn't here and mustn't be downloaded, or can't be."""
    if start.path is not None:
        file = located(start.path, root)
        return Fetched(file, checked_digest(file, start))
    repository, filename = repository_of(str(start.name))
    file = _from_hub(start, repository, filename, download)
    commit = file.parts[-2 - filename.count("/")]  # snapshots/COMMIT/FILE
    return Fetched(file, checked_digest(file, start), commit)


def _from_hub(start: Start, repository: str, filename: str, download: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            hf_hub_download(repository, filename, revision=start.revision, local_files_only=not download)
        )
    except LocalEntryNotFoundError as error:
        reason = in_a_line(error) if download else "it isn't in the Hugging Face cache; --download fetches it"
        raise DataUnavailable(f"start: {start.source}: {filename} of {repository}: {reason}") from error
    except Exception as error:  # whatever network, hub and file system come up with
        raise DataUnavailable(
            f"start: {start.source}: {filename} of {repository} can't be had: {in_a_line(error)}"
        ) from error


def load_start(start: Start, model: nn.Module, name: str, shape: tuple[int, ...], here: Fetched) -> Started:
    """Fill a network with the weights of a file; the classifier stays as it is where ``start.head`` is fresh.

    name: of the network, for messages. shape: of its inputs. Floats are converted to the network's precision.
    Raises BadInput, naming the entries, where they aren't of this network or not finite.
    """
    needed = needed_by(model)
    own = entries_of(here.file)
    donor = timm_network(start, shape, here.file).state_dict() if is_timm(start.name) else None
    check_fit(own if donor is None else _shapes(donor), needed, start, name)
    content = _read(here.file, own) if donor is None else donor
    skipped = needed.head if start.head == "fresh" else frozenset()
    state = model.state_dict()
    given = {entry: content[entry] for entry in state if entry in content and entry not in skipped}
    for entry, value in given.items():
        _check_values(start, entry, value, state[entry])
    model.load_state_dict(given, strict=False)
    fresh = tuple(entry for entry in state if entry not in given and not _is_filled(entry, given, needed))
    adapted = tuple(entry for entry, value in given.items() if own.get(entry, value.shape) != value.shape)
    return Started(here, fresh, adapted)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of a state dict's entries."""
    return {name: tuple(value.shape) for name, value in state.items()}


def _read(file: Path, entries: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, sparse ones dense."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(file, "pt") as opened:
        sparse = "sparse" in (opened.metadata() or {})
    try:
        content = load_export(file) if sparse else load_file(file)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(
            f"start: {file}: its sparse entries can't be put together: {in_a_line(error)}"
        ) from error
    return {name: content[name] for name in entries}


def _check_values(start: Start, entry: str, value: Tensor, like: Tensor) -> None:
    if value.is_floating_point() != like.is_floating_point():
        raise BadInput(f"start: {start.source}: {entry}: expected {like.dtype}, got {value.dtype}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        count = int((~value.isfinite()).sum())
        raise BadInput(f"start: {start.source}: {entry}: {count} values aren't finite")


def _is_filled(entry: str, given: Mapping[str, Tensor], needed: Needed) -> bool:
    """Whether an entry got its values under another name of the same tensor."""
    first = needed.tied.get(entry, entry)
    return any(needed.tied.get(other, other) == first for other in given)
