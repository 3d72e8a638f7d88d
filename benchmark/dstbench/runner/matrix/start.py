"""What a training starts from: a file of weights, or pretrained ones by name. Torch-free until entries are read.

Weights are safetensors, plain or sparse as ``dstbench export`` writes them: nothing in a file is ever run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dstbench.errors import BadInput, nearest
from dstbench.results.printable import shown
from dstbench.runner.matrix.validation import Frozen

EXAMPLE = "{path: weights.safetensors}, timm:NAME or hf:OWNER/NAME"
_HUBS = ("timm:", "hf:")
_WEIGHTS = "model.safetensors"
"""What a repository of the Hub calls them."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name in a state dict -> shape."""


class Start(Frozen):
    """Weights that every trial starts from, before it has masks. A file is known by its content, not by its path."""

    name: str | None = Field(default=None, max_length=200)  # timm:NAME or hf:OWNER/NAME[/FILE]
    path: str | None = None  # of a safetensors file, from the current folder or $DSTBENCH_DATA
    head: Literal["keep", "fresh"] = "keep"  # fresh: the classifier stays as it was initialised
    revision: str | None = Field(default=None, max_length=200)  # of what is named: a commit, tag or branch
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None  # of the file

    @model_validator(mode="after")
    def _one_source(self) -> Start:
        if (self.name is None) == (self.path is None):
            raise ValueError(f"expected a name or a path, such as {EXAMPLE}")
        if self.name is not None and not self.name.startswith(_HUBS):
            raise ValueError(f"name: expected {EXAMPLE}, got {shown(self.name)}")
        if self.revision is not None and self.path is not None:
            raise ValueError("revision: a file has none; sha256 says which it is")
        return self

    @property
    def source(self) -> str:
        """As people call it: a name, or a file's own."""
        return self.name or Path(self.path or "").name

    @property
    def identity(self) -> dict[str, Any]:
        """What a trial's key holds of it: the content of a file, wherever it is."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"path"})


def written(value: Any) -> Any:
    """A start as a matrix file may have it: a name alone stands for ``{name: ...}``."""
    return {"name": value} if isinstance(value, str) else value


def changed(start: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A start as it is written with some settings changed; of another source the old one's sha256 says nothing."""
    other = {"name", "path", "revision", "sha256"} if changes.keys() & {"name", "path"} else set()
    return {**{name: value for name, value in start.items() if name not in other}, **changes}


def pinned(start: Start) -> Start:
    """With what makes it one thing: a file's sha256, the whole name of timm's weights.

    Raises BadInput where the file isn't there, is none of safetensors or another than ``sha256`` says, and for a
    name that timm has no safetensors of.
    """
    if start.path is not None:
        file = located(start.path)
        entries_of(file)
        return start.model_copy(update={"sha256": checked_digest(file, start)})
    name = str(start.name)
    repository_of(name)
    return start.model_copy(update={"name": f"timm:{timm_weights(name).name}"}) if is_timm(name) else start


def is_timm(name: str | None) -> bool:
    """Whether it names weights of timm's."""
    return name is not None and name.startswith("timm:")


# files


def located(path: str, root: Path | None = None) -> Path:
    """Where a file is: from the current folder, below ``root``, or below ``$DSTBENCH_DATA``. Raises BadInput."""
    given = Path(path).expanduser()
    roots = [*([root] if root else []), *(Path(data) for data in [os.environ.get("DSTBENCH_DATA")] if data)]
    places = [given, *(folder / given for folder in roots)]
    if (file := next((place for place in places if place.is_file()), None)) is not None:
        return file
    if any(place.is_dir() for place in places):
        raise BadInput(
            f"start.path: {path} is a folder: expected a safetensors file, as `dstbench export KEY --format "
            "safetensors` writes of a trial"
        )
    raise BadInput(f"start.path: expected a safetensors file, got none at {', '.join(map(str, places))}")


def reachable(start: Start) -> dict[str, Any]:
    """A start as JSON that means the same to a process in another folder: where its file is, if that was given from
    the current one. A file below the data root stays so, for that is elsewhere on other machines."""
    said = start.model_dump(mode="json", exclude_defaults=True)
    if start.path is not None and (given := Path(start.path).expanduser()).is_file():
        said["path"] = str(given.absolute())
    return said


def checked_digest(file: Path, start: Start) -> str:
    """sha256, hex, of a file. Raises BadInput where it is another than ``start`` says."""
    status = file.stat()
    came = _digest(file, status.st_size, status.st_mtime_ns)
    if start.sha256 not in (None, came):
        raise BadInput(f"start.sha256: {file} is another file: expected {start.sha256}, got {came}")
    return came


@lru_cache(64)
def _digest(file: Path, size: int, changed: int) -> str:
    """Of a file that has this size and was changed then: every trial asks."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def entries_of(file: Path) -> Shapes:
    """The entries of a state dict in a safetensors file, of sparse ones as if they were dense; no value is read.

    Raises BadInput for any other file: pickles, which would have to be run, among them.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
            sparse = json.loads((opened.metadata() or {}).get("sparse", "{}"))
            dense = {name: tuple(int(size) for size in shape) for name, shape in sparse.items()}
    except (OSError, SafetensorError, AttributeError, TypeError, ValueError, RecursionError) as error:
        hint = "" if not _is_torchs(file) else _CONVERT
        raise BadInput(f"start: {file}: can't be read as safetensors: {error}{hint}") from error
    parts = {f"{name}.{part}" for name in dense for part in ("values", "gaps", "bits")}
    return {**{name: shape for name, shape in shapes.items() if name not in parts}, **dense}


_CONVERT = (
    "; it looks like a file of torch.save, a pickle, which is never loaded: of a trial `dstbench export KEY --format "
    "safetensors` writes one, and safetensors.torch.save_file any state dict"
)


def _is_torchs(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(2) in (b"PK", b"\x80\x02", b"\x80\x04")
    except OSError:
        return False


# names


@dataclass(frozen=True)
class TimmWeights:
    """Pretrained weights of timm's, as its own list has them."""

    name: str  # architecture.tag
    architecture: str
    classes: int  # that they were trained on; 0 without a classifier
    repository: str  # on the Hugging Face Hub


def timm_weights(name: str) -> TimmWeights:
    """What timm knows of ``timm:NAME``, with the default tag where there is none. Raises BadInput."""
    import timm

    short = name.removeprefix("timm:")
    known = timm.list_pretrained()
    try:
        config: Any = timm.get_pretrained_cfg(short)
    except RuntimeError:  # an architecture that has no such tag
        config = None
    whole = short if config is None or "." in short or not config.tag else f"{short}.{config.tag}"
    if config is None or whole not in known:
        raise BadInput(f"start: timm has no pretrained weights {short!r}{nearest(short, known)}")
    filename = config.hf_hub_filename or _WEIGHTS
    if not config.hf_hub_id or not filename.endswith(".safetensors"):
        raise BadInput(f"start: timm has {whole!r} as no safetensors file, and pickles are never loaded")
    return TimmWeights(whole, whole.partition(".")[0], int(config.num_classes), str(config.hf_hub_id))


def repository_of(name: str) -> tuple[str, str]:
    """Repository and file of ``timm:NAME`` or ``hf:OWNER/NAME[/FILE]`` on the Hugging Face Hub. Raises BadInput."""
    if is_timm(name):
        return timm_weights(name).repository, _WEIGHTS
    owner, _, rest = name.removeprefix("hf:").partition("/")
    short, _, filename = rest.partition("/")
    filename = filename or _WEIGHTS
    if not owner or not short or not filename.endswith(".safetensors"):
        raise BadInput(
            f"start: expected hf:OWNER/NAME or hf:OWNER/NAME/FILE.safetensors, got {name!r}: pickles are never loaded"
        )
    return f"{owner}/{short}", filename
