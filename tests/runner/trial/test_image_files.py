"""Batches from files: the pixels that memory would give, whoever reads them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import PILToTensor

from dstbench.api import Augment, Files, ImageData, Split
from dstbench.errors import BadInput
from dstbench.runner.trial.batches import Batches, evaluation_batches, fingerprint

CHANNELS = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}


class Noisy:
    """A transform that draws from every global generator there is."""

    def __call__(self, image):
        drawn = [random.random(), np.random.rand(), float(torch.rand(()))]
        return PILToTensor()(image) // 2 + torch.tensor([int(127 * d) for d in drawn])[:, None, None].byte()


@pytest.fixture
def pixels():
    return torch.randint(256, (22, 3, 8, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def files(pixels, tmp_path):
    names = tuple(f"{i % 3}/{i}.png" for i in range(len(pixels)))
    for name, image in zip(names, pixels, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    return Files(tmp_path, names, torch.arange(len(pixels)), (3, 8, 9), PILToTensor())


def noisy(files):
    return Files(files.root, files.names, files.labels, files.shape, Noisy())


def batches(split, workers=0, seed=0, augment=None, **options):
    return Batches(split, 4, seed=seed, augment=augment, device="cpu", workers=workers, **CHANNELS, **options)


def same(one, two):
    one, two = list(one), list(two)
    return len(one) == len(two) and all(
        torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(one, two, strict=True)
    )


def test_files_give_the_batches_that_memory_gives(files, pixels):
    memory = Split(pixels, files.labels)
    augment = Augment(2, "reflect", flip=True)
    for epoch in (0, 1):
        assert same(
            batches(files, augment=augment).epoch(epoch), batches(memory, augment=augment).epoch(epoch)
        )
    ranked = {"augment": augment, "rank": 1, "world": 2}
    assert same(batches(files, **ranked).epoch(3), batches(memory, **ranked).epoch(3))
    options = (5, *CHANNELS.values(), "cpu")
    assert same(evaluation_batches(files, *options), evaluation_batches(memory, *options))


def test_pixels_follow_from_seed_and_epoch_whatever_the_number_of_workers(files):
    alone, several = batches(noisy(files)), batches(noisy(files), workers=2)
    first = list(alone.epoch(0))
    assert same(first, several.epoch(0))
    assert same(alone.epoch(1), several.epoch(1))  # by the same workers as epoch 0
    assert same(several.epoch(0), first)  # whatever was read before
    assert not same(first, alone.epoch(1))
    assert not same(first, batches(noisy(files), seed=1).epoch(0))


def test_a_pass_that_was_left_does_not_show_in_the_next(files):
    loader = batches(noisy(files), workers=2)
    next(loader.epoch(0))
    assert same(loader.epoch(1), batches(noisy(files)).epoch(1))


def test_evaluation_is_the_same_by_any_number_of_workers(files):
    one, two = (
        evaluation_batches(files, 4, *CHANNELS.values(), "cpu", workers=workers) for workers in (0, 2)
    )
    assert same(one, two)


def test_global_random_state_is_neither_read_nor_moved(files):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    one = list(batches(noisy(files)).epoch(0))
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    assert same(one, batches(noisy(files)).epoch(0))


def test_one_channel_reads_grey(files):
    grey = Files(files.root, files.names, files.labels, (1, 8, 9), PILToTensor())
    ((images, _),) = evaluation_batches(grey, 22, (0.0,), (1 / 255,), "cpu")
    first = np.asarray(Image.open(files.root / files.names[0]).convert("L"))
    assert torch.allclose(images[0, 0], torch.tensor(first).float(), atol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_no_image_is_named(files, workers):
    whole = (files.root / files.names[7]).read_bytes()
    for content in (b"not an image", whole[: len(whole) // 2], whole[:40] + bytes(len(whole) - 40)):
        (files.root / files.names[7]).write_bytes(content)
        with pytest.raises(BadInput) as error:
            list(batches(files, workers=workers).epoch(0))
        # the whole of the row's reason: nothing of processes that read, and of their tracebacks
        expected = f"{files.root / files.names[7]}: expected an image, but it can't be read"
        assert str(error.value).startswith(expected)
        assert "\n" not in str(error.value)


def test_a_transform_that_gives_another_shape_is_named(files):
    wrong = Files(files.root, files.names, files.labels, (3, 8, 8), files.transform)
    with pytest.raises(BadInput, match=r"expected uint8 \(3, 8, 8\) after the transform, got .*\(3, 8, 9\)"):
        list(batches(wrong).epoch(0))


def test_names_and_labels_belong_together(files):
    with pytest.raises(ValueError, match=r"labels: expected int64 \[22\], got torch.int64 \[21\]|\(21,\)"):
        Files(files.root, files.names, files.labels[:21], files.shape, files.transform)


def test_the_fingerprint_sees_names_sizes_and_labels(files):
    def of(split):
        return fingerprint(ImageData(split, files, files, 22, **CHANNELS))

    whole = of(files)
    relabelled = Files(files.root, files.names, files.labels.flip(0), files.shape, files.transform)
    reordered = Files(files.root, files.names[::-1], files.labels, files.shape, files.transform)
    assert len({whole, of(relabelled), of(reordered)}) == 3
    path = files.root / files.names[0]
    path.write_bytes(path.read_bytes() + b"\0")
    assert of(files) != whole


def test_the_fingerprint_does_not_depend_on_where_the_files_are(files, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("copy") / "set"
    files.root.rename(elsewhere)
    moved = Files(elsewhere, files.names, files.labels, files.shape, files.transform)
    before = fingerprint(ImageData(moved, moved, moved, 22, **CHANNELS))
    elsewhere.rename(files.root)
    assert fingerprint(ImageData(files, files, files, 22, **CHANNELS)) == before
