"""Batches: what a step sees, whoever asks and wherever it runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dstbench.api import Augment, ImageData, Split
from dstbench.errors import BadInput
from dstbench.runner.trial.batches import Batches, evaluation_batches, fingerprint

PLAIN = {"mean": (0.0,), "std": (1 / 255,)}  # normalises a pixel to its own value


def numbered(n, size=4):
    """Images whose every pixel is the image's own number, which is its label too."""
    labels = torch.arange(n)
    images = labels.to(torch.uint8)[:, None, None, None].expand(n, 1, size, size).contiguous()
    return Split(images, labels)


def noise(n, channels=3, height=6, width=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, channels, height, width), generator=rng, dtype=torch.uint8)
    return Split(images, torch.arange(n))


def batches(split, batch_size=4, augment=None, **options):
    channels = split.images.shape[1]
    options = {"mean": (0.0,) * channels, "std": (1 / 255,) * channels, "seed": 0, "device": "cpu"} | options
    return Batches(split, batch_size, augment=augment, **options)


def test_every_image_comes_once_with_its_label():
    seen = []
    loader = batches(numbered(22), drop_last=False)
    for images, labels in loader.epoch(0):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert torch.allclose(images, labels[:, None, None, None].expand_as(images).float(), atol=1e-4)
        seen += labels.tolist()
    assert sorted(seen) == list(range(22))
    assert seen != sorted(seen)
    assert len(loader) == 6


def test_the_incomplete_batch_is_dropped():
    loader = batches(numbered(22))
    assert [len(labels) for _, labels in loader.epoch(0)] == [4] * 5
    assert len(loader) == 5


def labels_of(loader, epoch):
    return torch.cat([labels for _, labels in loader.epoch(epoch)])


def test_seed_and_epoch_decide_the_order():
    loader = batches(numbered(40))
    first = labels_of(loader, 0)
    assert torch.equal(first, labels_of(loader, 0))
    assert torch.equal(first, labels_of(batches(numbered(40)), 0))
    assert not torch.equal(first, labels_of(loader, 1))
    assert not torch.equal(first, labels_of(batches(numbered(40), seed=1), 0))
    # hashing keeps (seed, epoch) pairs with the same sum or product apart
    assert not torch.equal(labels_of(loader, 1), labels_of(batches(numbered(40), seed=1), 0))


def test_global_random_state_is_neither_read_nor_moved():
    split, augment = noise(12), Augment(padding=2, flip=True)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = [images for images, _ in batches(split, augment=augment).epoch(3)]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    two = [images for images, _ in batches(split, augment=augment).epoch(3)]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_are_windows_of_the_padded_image(mode, flip):
    """Every image that comes out is one of the windows that torch's own padding gives, or its mirror."""
    padding, split = 3, noise(60, height=8, width=9)  # 2p < width - 1: else reflected mirrors coincide
    seen = set()
    for images, labels in batches(split, augment=Augment(padding, mode, flip)).epoch(0):
        for image, label in zip(images, labels, strict=True):
            padded = F.pad(split.images[label].float()[None], (padding,) * 4, mode=mode)[0]
            windows = padded.unfold(1, 8, 1).unfold(2, 9, 1).movedim(0, 2).flatten(0, 1)
            found = [
                (place, mirrored)
                for mirrored in (False, True)
                for place, window in enumerate(windows.flip(3) if mirrored else windows)
                if torch.allclose(window, image, atol=1e-3)
            ]
            assert len(found) == 1
            seen.add(found[0])
    assert len({place for place, _ in seen}) > 25  # of 49 places, 60 draws
    assert {mirrored for _, mirrored in seen} == ({False, True} if flip else {False})


def test_no_augmentation_gives_the_pixels():
    split = noise(8)
    for augment in (None, Augment()):
        for images, labels in batches(split, augment=augment).epoch(0):
            assert torch.allclose(images, split.images[labels].float(), atol=1e-4)


def test_flips_do_not_change_order_or_crops():
    split = noise(40)
    plain, flipped = (
        list(batches(split, augment=Augment(1, "reflect", flip)).epoch(0)) for flip in (False, True)
    )
    for (one, labels), (two, same) in zip(plain, flipped, strict=True):
        assert torch.equal(labels, same)
        kept = [torch.equal(a, b) for a, b in zip(one, two, strict=True)]
        turned = [torch.equal(a.flip(2), b) for a, b in zip(one, two, strict=True)]
        assert all(k != t for k, t in zip(kept, turned, strict=True))


def test_normalisation():
    split = noise(4)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    ((images, labels),) = batches(split, mean=mean, std=std).epoch(0)
    pixels = split.images[labels] / 255
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(images, expected, atol=1e-5)
    ((whole, _),) = evaluation_batches(split, 4, mean, std, "cpu")
    assert torch.allclose(whole[labels], expected, atol=1e-5)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_together_see_what_one_process_sees(world, drop_last):
    split, augment = noise(44), Augment(2, "constant", flip=True)
    options = {"augment": augment, "drop_last": drop_last}
    ranks = [list(batches(split, 4, rank=rank, world=world, **options).epoch(5)) for rank in range(world)]
    single = list(batches(split, 4 * world, **options).epoch(5))
    assert len(single) == len(ranks[0])
    for (images, labels), *parts in zip(single, *ranks, strict=True):
        assert len({len(part) for _, part in parts}) == 1
        joined = torch.cat([part for part, _ in parts])
        # a last batch that doesn't divide by the ranks loses the remainder
        assert len(labels) - len(joined) < world
        assert torch.equal(joined, images[: len(joined)])
        assert torch.equal(torch.cat([part for _, part in parts]), labels[: len(joined)])
    seen = torch.cat([labels for rank in ranks for _, labels in rank])
    assert len(seen.unique()) == len(seen)


def test_evaluation_is_in_order_and_complete():
    split = numbered(10)
    parts = list(evaluation_batches(split, 4, PLAIN["mean"], PLAIN["std"], "cpu"))
    assert [len(labels) for _, labels in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([labels for _, labels in parts]), split.labels)


def test_fewer_images_than_a_batch_is_an_error():
    message = "batch_size: 23 is more than the 22 training images: no whole batch; choose at most 22"
    with pytest.raises(BadInput, match=message):
        batches(numbered(22), 23)
    with pytest.raises(BadInput, match=r"batch_size: 12 on each of 2 ranks .* choose at most 11"):
        batches(numbered(22), 12, world=2)
    assert [len(labels) for _, labels in batches(numbered(22), 23, drop_last=False).epoch(0)] == [22]


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batch_size_must_be_positive(batch_size):
    with pytest.raises(BadInput, match=f"batch_size: expected at least 1, got {batch_size}"):
        batches(numbered(4), batch_size)
    with pytest.raises(BadInput, match="batch_size: expected at least 1"):
        next(evaluation_batches(numbered(4), batch_size, PLAIN["mean"], PLAIN["std"], "cpu"))


@pytest.mark.parametrize(("mode", "limit"), [("reflect", 4), ("constant", 5)])
def test_padding_must_fit_the_image(mode, limit):
    split = noise(4)  # 6 by 5 pixels
    assert batches(split, augment=Augment(limit, mode))
    for padding in (-1, limit + 1):
        message = f"padding: expected 0 to {limit} for images of 6x5 with mode '{mode}', got {padding}"
        with pytest.raises(BadInput, match=message):
            batches(split, augment=Augment(padding, mode))


def test_an_unknown_padding_mode_is_named():
    with pytest.raises(BadInput, match="padding mode: no 'reflekt'; did you mean 'reflect'"):
        batches(noise(4), augment=Augment(2, "reflekt"))


def test_mean_and_std_must_fit_the_channels():
    with pytest.raises(ValueError, match="expected 3 means and deviations, got 1 and 1"):
        batches(noise(4), **PLAIN)


def test_rank_must_be_below_world():
    with pytest.raises(ValueError, match="expected 0 <= rank < world = 2, got 2"):
        batches(numbered(8), rank=2, world=2)


def test_images_are_left_as_they_were():
    split = noise(9)
    before = split.images.clone()
    for _ in batches(split, augment=Augment(2, "constant", flip=True)).epoch(0):
        pass
    assert torch.equal(split.images, before)


def image_data(train, validation, test):
    return ImageData(train, validation, test, num_classes=9, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_fingerprint_tells_apart_whatever_differs():
    a, b, c = noise(5, seed=1), noise(4, seed=2), noise(4, seed=3)
    relabelled = Split(a.images, a.labels.flip(0))
    reshaped = [Split(s.images.transpose(2, 3).reshape(len(s), 3, 5, 6), s.labels) for s in (a, b, c)]
    prints = {
        fingerprint(image_data(*parts))
        for parts in [(a, b, c), (a, c, b), (relabelled, b, c), (b, a, c), reshaped]
    }
    assert len(prints) == 5
    assert fingerprint(image_data(a, b, c)) in prints
    assert all(len(digits) == 64 for digits in prints)
    # views with other strides hold the same pixels
    strided = Split(a.images.transpose(2, 3).contiguous().transpose(2, 3), a.labels)
    assert fingerprint(image_data(strided, b, c)) == fingerprint(image_data(a, b, c))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gets_the_same_batches():
    split, augment = noise(40), Augment(2, "reflect", flip=True)
    for (one, labels), (two, same) in zip(
        batches(split, augment=augment).epoch(0),
        batches(split, augment=augment, device="cuda").epoch(0),
        strict=True,
    ):
        assert torch.equal(labels, same.cpu())
        assert torch.allclose(one, two.cpu(), atol=1e-4)
