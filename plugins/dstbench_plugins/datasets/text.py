"""Text to predict the next token of: one's own by characters, Shakespeare as nanoGPT has it, and token files.

All are split as nanoGPT splits: the first int(0.9 n) to train, the rest to test. A validation split comes off the
end of what is trained on. An epoch is a declared number of ``windows`` of ``block`` tokens, at places drawn at random
with replacement; by default as many as the training text is long.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dstbench.api import DataUnavailable, Task, TaskData, Tokens, next_token
from dstbench.errors import BadInput
from dstbench_plugins.datasets import fables

Ids = npt.NDArray[Any]
_NEXT = next_token()
_SCANNED = 2**28  # bytes of a token file up to which all ids are looked at before anything is trained


@dataclass(frozen=True)
class Text:
    """A text file of one's own, UTF-8, by characters; the vocabulary is its characters, by code point.

    A trial's key holds these parameters as they are written, not the text: keep ``file`` relative to the data root,
    and state the text's ``digest``, by which another is refused; the error for a wrong one, such as ``digest: "?"``,
    says the right one.
    """

    file: str  # below the data root, or absolute
    block: int = 64  # characters that a model sees
    windows: int | None = None  # of an epoch
    validation: float = 0.05  # share of the training text that is held out, or from 1 on its characters
    digest: str | None = None  # the first 16 digits of the file's sha256

    task = _NEXT

    def __post_init__(self) -> None:
        """Refuse what no text allows. Raises BadInput naming the parameter."""
        if not self.file:
            raise BadInput("file: expected a text file, got ''")
        _check_sizes(self.block, self.windows, self.validation)

    def __call__(self, root: Path | None, download: bool) -> TaskData:
        """Read. Raises DataUnavailable: not there, no text, or another one than is meant."""
        path = Path(self.file)
        if not path.is_absolute():
            if root is None:
                raise DataUnavailable(
                    f"text: {self.file} is below a folder: say which with `--data-root DIR` or $DSTBENCH_DATA"
                )
            path = Path(root) / path
        content = _read(path)
        digest = hashlib.sha256(content).hexdigest()[:16]
        if self.digest is not None and digest != self.digest:
            raise DataUnavailable(f"text: {path} is another text than is meant: its digest is {digest!r}")
        ids, symbols = by_characters(_decoded(content, path))
        if symbols < 2:
            raise DataUnavailable(f"text: {path} has a single character, over and over: nothing to predict")
        return split(ids, symbols, self.block, self.windows, self.validation, str(path))

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters, as far as they say it."""
        return {"input_shape": (self.block,)} | ({"train_images": self.windows} if self.windows else {})


@dataclass(frozen=True)
class ShakespeareChar:
    """Tiny Shakespeare by characters (Karpathy, char-rnn): 1,115,394 of them, 65 different.

    nanoGPT's split: 1,003,854 to train, and its 111,540 "val" are what is tested on here. Nothing is held out of
    the first unless ``validation`` says so.
    """

    block: int = 64  # characters that a model sees
    windows: int | None = None  # of an epoch
    validation: float = 0.0  # share of the training text that is held out, or from 1 on its characters

    task = _NEXT

    def __post_init__(self) -> None:
        """Refuse what this text doesn't allow. Raises BadInput naming the parameter."""
        _check_sizes(self.block, self.windows, self.validation)

    def __call__(self, root: Path | None, download: bool) -> TaskData:
        """Read. Raises DataUnavailable: not there, or not this text."""
        ids, symbols = by_characters(_decoded(_shakespeare(root, download), Path(_FILES[0])))
        return split(ids, symbols, self.block, self.windows, self.validation, "shakespeare-char")

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        return _declared(_LENGTH, 65, self.block, self.windows, self.validation)


@dataclass(frozen=True)
class Fables:
    """A made-up text by characters that needs no file: sentences of a small grammar, always the same ones.

    Small enough for a network of minutes, with spelling, words and agreement to learn; no measure of English.
    """

    block: int = 32  # characters that a model sees
    windows: int | None = None  # of an epoch
    validation: float = 0.1  # share of the training text that is held out, or from 1 on its characters

    task = _NEXT

    def __post_init__(self) -> None:
        """Refuse what this text doesn't allow. Raises BadInput naming the parameter."""
        _check_sizes(self.block, self.windows, self.validation)

    def __call__(self, root: Path | None, download: bool) -> TaskData:
        """Write the text; needs neither a folder nor a download."""
        ids, symbols = by_characters(fables.text())
        return split(ids, symbols, self.block, self.windows, self.validation, "fables")

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        return _declared(fables.LENGTH, fables.SYMBOLS, self.block, self.windows, self.validation)


@dataclass(frozen=True)
class TokenFiles:
    """A tokenised corpus in nanoGPT's layout: ``FOLDER/train.bin`` and ``FOLDER/val.bin``, uint16 in little-endian
    order, mapped from disk and never read as a whole. What is tested on is val.bin.

    ``vocabulary`` is that of the tokenizer, GPT-2's by default; ids beyond it are refused. A trial's key holds these
    parameters, not the tokens.
    """

    folder: str  # below the data root, or absolute
    vocabulary: int = 50257
    block: int = 256  # tokens that a model sees
    windows: int | None = None  # of an epoch
    validation: float = 0.0005  # share of train.bin that is held out, or from 1 on its tokens
    tokens_per_character: float | None = None  # of the corpus: what bits per character are reckoned with

    def __post_init__(self) -> None:
        """Refuse what no corpus allows. Raises BadInput naming the parameter."""
        if not self.folder:
            raise BadInput("folder: expected a folder, got ''")
        if not 2 <= self.vocabulary <= 2**16:
            raise BadInput(
                f"vocabulary: expected 2 to {2**16} ids, which uint16 holds, got {self.vocabulary}"
            )
        if self.tokens_per_character is not None and not 0 < self.tokens_per_character < 100:
            raise BadInput(
                f"tokens_per_character: expected a number above 0, got {self.tokens_per_character:g}"
            )
        _check_sizes(self.block, self.windows, self.validation)

    @cached_property
    def task(self) -> Task:
        """The next token."""
        return next_token(self.tokens_per_character)

    def __call__(self, root: Path | None, download: bool) -> TaskData:
        """Map the files. Raises DataUnavailable: not there, or no ids of this vocabulary."""
        base = Path(self.folder)
        if not base.is_absolute():
            if root is None:
                raise DataUnavailable(
                    f"tokens: {self.folder} is read from below a folder: say which with `--data-root DIR` or "
                    "$DSTBENCH_DATA"
                )
            base = Path(root) / base
        train, test = (self._mapped(base / name) for name in ("train.bin", "val.bin"))
        return _parts(train, test, self.vocabulary, self.block, self.windows, self.validation, str(base))

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters, as far as they say it."""
        known = {"input_shape": (self.block,), "num_classes": self.vocabulary}
        return known | ({"train_images": self.windows} if self.windows else {})

    def _mapped(self, path: Path) -> Ids:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataUnavailable(
                f"tokens: looked for {path}, not there ({error.strerror}); nanoGPT's prepare.py writes train.bin and "
                "val.bin"
            ) from error
        if size % 2 or not size:
            raise DataUnavailable(f"tokens: {path}: expected uint16 ids, got {size} bytes")
        ids: Ids = np.memmap(path, dtype="<u2", mode="r")
        if size <= _SCANNED and int(ids.max()) >= self.vocabulary:
            raise DataUnavailable(
                f"tokens: {path} has the id {int(ids.max())}, expected ids below the vocabulary's {self.vocabulary}"
            )
        return ids


def by_characters(text: str) -> tuple[Ids, int]:
    """Each character's place among the different ones, by code point; and how many different ones there are."""
    symbols, places = np.unique(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"), return_inverse=True)
    return places.astype(np.min_scalar_type(max(0, len(symbols) - 1))), len(symbols)


def split(
    ids: Ids, vocabulary: int, block: int, windows: int | None, validation: float, title: str
) -> TaskData:
    """The first int(0.9 n) to train, less what is held out, and the rest to test. Raises BadInput for a text that is
    too short for windows of ``block``."""
    border = int(0.9 * len(ids))
    return _parts(ids[:border], ids[border:], vocabulary, block, windows, validation, title)


def _parts(
    train: Ids, test: Ids, vocabulary: int, block: int, windows: int | None, validation: float, title: str
) -> TaskData:
    held = _held(len(train), validation)
    rest, held_out = train[: len(train) - held], train[len(train) - held :]
    if len(rest) <= block or len(test) < 2:
        raise BadInput(
            f"block: expected fewer tokens than {title} has to train on, and 2 to test on; got {block} of "
            f"{len(rest)}, and {len(test)}"
        )
    if len(held_out) == 1:
        raise BadInput(f"validation: expected none or at least 2 tokens of {title}, got 1")

    def tokens(part: Ids) -> Tokens:
        return Tokens(part, block, windows or len(rest) // block, vocabulary)

    return TaskData(tokens(rest), tokens(held_out), tokens(test), (block,), vocabulary)


def _held(length: int, validation: float) -> int:
    return int(validation) if validation >= 1 else int(validation * length)


def _declared(
    length: int, vocabulary: int, block: int, windows: int | None, validation: float
) -> dict[str, Any]:
    train = int(0.9 * length)
    held = _held(train, validation)
    rest = train - held
    return {
        "train_images": windows or rest // block,
        "validation_images": max(0, held - 1),  # the tokens that have one before them
        "input_shape": (block,),
        "num_classes": vocabulary,
    }


def _check_sizes(block: int, windows: int | None, validation: float) -> None:
    if block < 1:
        raise BadInput(f"block: expected at least 1, got {block}")
    if windows is not None and windows < 1:
        raise BadInput(f"windows: expected at least 1, got {windows}")
    if not (0 <= validation < 1 or (validation >= 1 and validation == int(validation))):
        raise BadInput(
            f"validation: expected a share from 0 to below 1, or a whole number of tokens, got {validation:g}"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataUnavailable(f"text: looked for {path}, can't be read ({error.strerror})") from error


def _decoded(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataUnavailable(f"text: {path} is not UTF-8: {error.reason} at byte {error.start}") from error
    if not text:
        raise DataUnavailable(f"text: {path} is empty")
    return text


_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_LENGTH = 1_115_394
_FILES = ("shakespeare-char/input.txt", "shakespeare_char/input.txt", "tinyshakespeare.txt", "input.txt")


def _shakespeare(root: Path | None, download: bool) -> bytes:
    """The pinned file, plain or packed by xz. Raises DataUnavailable."""
    if root is None:
        raise DataUnavailable(
            "shakespeare-char is read from a folder: say which with `--data-root DIR` or $DSTBENCH_DATA "
            f"(it should hold {_FILES[0]}; `--download` fetches it there)"
        )
    others = []
    for name in (*_FILES, *(f"{name}.xz" for name in _FILES)):
        path = Path(root) / name
        if path.is_file():
            content = _unpacked(path)
            if hashlib.sha256(content).hexdigest() == _SHA256:
                return content
            others.append(str(path))
    if download:
        return _downloaded(Path(root) / _FILES[0])
    seen = (
        f"found another text ({', '.join(others)}; expected sha256 {_SHA256[:16]}…)"
        if others
        else "found nothing"
    )
    raise DataUnavailable(
        f"shakespeare-char: looked for {_FILES[0]}, or {_FILES[2]}.xz, in the data root {root}, {seen}; `--download` "
        "fetches it into `--data-root`"
    )


def _unpacked(path: Path) -> bytes:
    content = _read(path)
    if path.suffix != ".xz":
        return content
    try:
        return lzma.decompress(content)
    except lzma.LZMAError as error:
        raise DataUnavailable(f"shakespeare-char: {path} can't be unpacked: {error}") from error


def _downloaded(path: Path) -> bytes:
    try:
        with urllib.request.urlopen(_URL, timeout=60) as answer:
            content: bytes = answer.read()
    except OSError as error:
        raise DataUnavailable(f"shakespeare-char: the download failed: {error} ({_URL})") from error
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise DataUnavailable(f"shakespeare-char: {_URL} is another text than the one meant: not kept")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.write_bytes(content)
    fresh.replace(path)
    return content
