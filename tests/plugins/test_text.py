"""Text data sets: nanoGPT's split and vocabulary, files of one's own, and what is said of those that are no text."""

from __future__ import annotations

import hashlib
import lzma

import numpy as np
import pytest

from dstbench.api import DataUnavailable
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench_plugins.datasets import text as module
from dstbench_plugins.datasets.text import Fables, ShakespeareChar, Text, TokenFiles, by_characters


def write(folder, content, name="mine.txt"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_the_vocabulary_is_sorted_by_code_point():
    ids, symbols = by_characters("b\na·bé\U0001f600")
    assert (ids.tolist(), symbols, ids.dtype.kind) == ([2, 0, 1, 3, 2, 4, 5], 6, "u")


def test_a_text_of_ones_own_is_split_as_nanogpt_splits(tmp_path):
    content = "abcdefghij" * 101 + "xyz"  # 1013 characters, of which int(911.7) train
    data = Text("mine.txt", block=8, windows=20, validation=0.1)(write(tmp_path, content), False)
    whole, symbols = by_characters(content)
    assert (data.num_classes, symbols, data.input_shape) == (13, 13, (8,))
    assert data.train.ids.tolist() == whole[: 911 - 91].tolist()
    assert data.validation.ids.tolist() == whole[911 - 91 : 911].tolist()
    assert data.test.ids.tolist() == whole[911:].tolist()
    assert (data.train.entries, len(data.test)) == (20, 101)


def test_windows_line_ends_and_marks_of_byte_order_change_nothing_silently(tmp_path):
    data = Text("mine.txt", block=4)(write(tmp_path, b"\xef\xbb\xbf" + b"ab\r\n" * 20), False)
    assert data.num_classes == 4  # the mark is none of the text; carriage returns are


def shakespeare(monkeypatch):
    """A text that the pinned one is replaced by."""
    content = ("".join(map(chr, range(40, 105))) * 20).encode()
    monkeypatch.setattr(module, "_SHA256", hashlib.sha256(content).hexdigest())
    return content


@pytest.mark.parametrize("packed", [False, True])
def test_shakespeare_is_the_pinned_file(tmp_path, monkeypatch, packed):
    content = shakespeare(monkeypatch)
    name = f"tinyshakespeare.txt{'.xz' * packed}"
    data = ShakespeareChar(windows=9)(
        write(tmp_path, lzma.compress(content) if packed else content, name), False
    )
    assert (data.num_classes, data.train.entries, len(data.validation)) == (65, 9, 0)
    assert (len(data.train), len(data.test)) == (1169, 129)
    write(tmp_path, lzma.compress(content[1:]) if packed else content[1:], name)
    with pytest.raises(DataUnavailable, match="found another text"):
        ShakespeareChar()(tmp_path, False)


def test_shakespeare_declares_nanogpts_numbers():
    assert ShakespeareChar().declared == {
        "train_images": 1_003_854 // 64,
        "validation_images": 0,
        "input_shape": (64,),
        "num_classes": 65,
    }
    with pytest.raises(DataUnavailable, match=r"--data-root DIR.*`--download` fetches it"):
        ShakespeareChar()(None, False)


def test_what_is_registered_is_what_is_there():
    metadata = registry().resolve("dataset", "fables").metadata
    data = Fables()(None, False)
    said = [metadata[f"{split}_images"] for split in ("train", "validation", "test")]
    assert said == [data.train.entries, len(data.validation), len(data.test)]
    assert (metadata["num_classes"], tuple(metadata["input_shape"])) == (data.num_classes, data.input_shape)
    assert Fables(windows=5).declared["train_images"] == 5
    assert Fables().declared["validation_images"] == len(data.validation)


def test_token_files_are_mapped_not_read(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    train, val = np.arange(500, dtype="<u2"), np.arange(40, dtype="<u2")
    train.tofile(folder / "train.bin")
    val.tofile(folder / "val.bin")
    (folder / "meta.pkl").write_bytes(b"never opened")
    corpus = TokenFiles("corpus", vocabulary=500, block=16, windows=4, validation=50)
    data = corpus(tmp_path, False)
    assert isinstance(data.train.ids, np.memmap)
    assert (len(data.train.ids), len(data.validation.ids), len(data.test)) == (450, 50, 39)
    assert [metric.key for metric in corpus.task.metrics] == ["loss", "perplexity"]
    with pytest.raises(DataUnavailable, match="has the id 499, expected ids below the vocabulary's 499"):
        TokenFiles("corpus", vocabulary=499)(tmp_path, False)
    (folder / "val.bin").write_bytes(b"odd")
    with pytest.raises(DataUnavailable, match="expected uint16 ids, got 3 bytes"):
        corpus(tmp_path, False)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"\xff\xfe", {}, r"not UTF-8: invalid start byte at byte 0"),
        (b"", {}, "is empty"),
        (b"a" * 100, {}, "has a single character"),
        (b"ab" * 50, {"digest": "?"}, "another text than is meant: its digest is '"),
    ],
)
def test_what_is_no_text(tmp_path, content, options, message):
    with pytest.raises(DataUnavailable, match=message):
        Text("mine.txt", **options)(write(tmp_path, content), False)


def test_parameters_that_no_text_allows(tmp_path):
    with pytest.raises(BadInput, match=r"block: expected fewer tokens than .* of 86"):
        Text("mine.txt", block=90)(write(tmp_path, "ab" * 50), False)
    for options, message in (
        ({"block": 0}, "block: expected at least 1, got 0"),
        ({"windows": 0}, "windows: expected at least 1, got 0"),
        ({"validation": 1.5}, "validation: expected a share"),
        ({"file": ""}, "file: expected a text file"),
    ):
        with pytest.raises(BadInput, match=message):
            Text(**{"file": "mine.txt", **options})
    with pytest.raises(DataUnavailable, match=r"looked for .*mine\.txt, can't be read"):
        Text("mine.txt")(tmp_path / "nowhere", False)
