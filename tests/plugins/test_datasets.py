"""Built-in data sets: disjoint stratified splits, honest errors, and the real files where they are given."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dstbench.api import Augment, DataUnavailable
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench_plugins.datasets.digits import Digits
from dstbench_plugins.datasets.splits import hold_out
from dstbench_plugins.datasets.synthetic import Synthetic
from dstbench_plugins.datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST

ROOT = os.environ.get("DSTBENCH_TEST_DATA")
real_data = pytest.mark.skipif(
    ROOT is None, reason="DSTBENCH_TEST_DATA names no folder with CIFAR-10 and MNIST"
)


def splits(data):
    return data.train, data.validation, data.test


def rows(split):
    """Each image's bytes: an identity that no index bookkeeping can fake."""
    return [image.tobytes() for image in split.images.numpy()]


@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=60), data=st.data())
def test_hold_out_is_a_stratified_partition(labels, data):
    labels = torch.tensor(labels)
    count = data.draw(st.integers(0, len(labels) - 1))
    rest, held = hold_out(labels, count)
    assert len(held) == count
    assert torch.equal(torch.cat([rest, held]).sort().values, torch.arange(len(labels)))
    for label in range(5):
        members = int((labels == label).sum())
        share = int((labels[held] == label).sum())
        assert abs(share - members * count / len(labels)) < 1
        # the last ones of the class are held out
        mine = (labels == label).nonzero().flatten()
        assert torch.equal(held[labels[held] == label], mine[members - share :])


@pytest.mark.parametrize("count", [-1, 5, 6])
def test_hold_out_leaves_something_to_train_on(count):
    with pytest.raises(BadInput, match=f"validation: expected a number between 0 and 4, got {count}"):
        hold_out(torch.zeros(5, dtype=torch.int64), count)


def test_digits_are_split_once_and_for_all():
    data = Digits()(None, False)
    assert [len(split) for split in splits(data)] == [1258, 180, 359]
    assert data.input_shape == (1, 8, 8)
    for split in splits(data):
        counts = torch.bincount(split.labels)
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 0.1 * counts.max()
    again = Digits()(Path("ignored"), True)
    assert all(torch.equal(a.images, b.images) for a, b in zip(splits(data), splits(again), strict=True))


def test_digits_splits_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    every = [row for split in splits(Digits()(None, False)) for row in rows(split)]
    original = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    assert sorted(every) == sorted(image.tobytes() for image in original)
    assert len(set(every)) == len(every)  # no scan occurs twice, so no scan is in two splits


def test_digits_labels_belong_to_their_scans():
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    truth = {image.tobytes(): label for image, label in zip(pixels, digits.target, strict=True)}
    for split in splits(Digits()(None, False)):
        assert [truth[row] for row in rows(split)] == split.labels.tolist()


@pytest.mark.parametrize(
    "data", [Digits()(None, False), Synthetic()(None, False)], ids=["digits", "synthetic"]
)
def test_declared_statistics_are_those_of_the_pixels(data):
    pixels = data.train.images.double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (data.mean, data.std))
    assert torch.allclose(pixels.mean((0, 2, 3)), mean, atol=0.03)
    assert torch.allclose(pixels.std((0, 2, 3)), std, atol=0.03)


def test_synthetic_labels_can_be_learnt():
    data = Synthetic(images=400, size=16, classes=5)(None, False)
    train, test = data.train.images.float(), data.test.images.float()
    centres = torch.stack([train[data.train.labels == label].mean(0) for label in range(5)])
    nearest = torch.cdist(test.flatten(1), centres.flatten(1)).argmin(1)
    assert (nearest == data.test.labels).float().mean() > 0.95
    assert set(data.test.labels.tolist()) == set(range(5))


def test_synthetic_follows_its_seed_and_its_sizes():
    small = Synthetic(images=12, channels=2, size=9, classes=3, seed=1)
    one, same, other = small(None, False), small(None, False), Synthetic(12, 2, 9, 3, seed=2)(None, False)
    assert torch.equal(one.test.images, same.test.images)
    assert not torch.equal(one.test.images, other.test.images)
    assert [len(split) for split in splits(one)] == [12, 3, 3]
    assert one.input_shape == (2, 9, 9)
    every = [row for split in splits(one) for row in rows(split)]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": 9}, "images: expected at least 10, got 9"),
        ({"channels": 0}, "channels: expected at least 1, got 0"),
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"classes": 1}, "classes: expected at least 2, got 1"),
    ],
)
def test_synthetic_refuses_sizes_that_make_no_data_set(fields, message):
    with pytest.raises(BadInput, match=message):
        Synthetic(**fields)


@pytest.mark.parametrize(
    ("factory", "fields", "message"),
    [
        (MNIST, {"validation": -1}, "validation: expected 0 to 59999 for MNIST, got -1"),
        (FashionMNIST, {"validation": 60_000}, "validation: expected 0 to 59999 for FashionMNIST, got 60000"),
        (CIFAR10, {"preset": "riggl"}, "preset: no 'riggl'; did you mean 'rigl'"),
        (CIFAR100, {"preset": "rigl"}, "preset: no 'rigl'; known: chase, dsb, itop, mest, plain"),
        (CIFAR10, {"padding": 32}, "padding: expected 0 to 31 for CIFAR10, got 32"),
        (CIFAR100, {"padding": -1}, "padding: expected 0 to 31 for CIFAR100, got -1"),
    ],
)
def test_bad_numbers_are_refused_before_any_file_is_read(factory, fields, message):
    with pytest.raises(BadInput, match=message):
        factory(**fields)


@pytest.mark.parametrize("factory", [MNIST(), FashionMNIST(), CIFAR10(), CIFAR100()])
def test_no_root_asks_for_one(factory):
    with pytest.raises(DataUnavailable, match="say which with `--data-root DIR`"):
        factory(None, False)


@pytest.mark.parametrize(
    ("factory", "folder"),
    [
        (MNIST(), "MNIST/raw"),
        (FashionMNIST(), "FashionMNIST/raw"),
        (CIFAR10(), "cifar-10-batches-py"),
        (CIFAR100(), "cifar-100-python"),
    ],
)
def test_missing_files_are_named(factory, folder, tmp_path):
    with pytest.raises(DataUnavailable) as error:
        factory(tmp_path, False)
    message = str(error.value)
    assert f"looked for {folder} in the data root {tmp_path}, found nothing" in message
    assert "`--download` fetches it into `--data-root`" in message
    assert "download=True" not in message  # torchvision's advice to its own caller
    assert list(tmp_path.iterdir()) == []


def test_altered_files_are_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not a batch")
    with pytest.raises(DataUnavailable, match=r"found it but could not use it .*corrupted"):
        CIFAR10()(tmp_path, False)


def test_files_cut_short_are_named(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataUnavailable, match=r"MNIST: .* found it but could not use it"):
        MNIST(validation=10)(tmp_path, False)


def test_a_failing_download_is_named(tmp_path, monkeypatch):
    def offline(self):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", offline)
    with pytest.raises(DataUnavailable, match=r"\(no route to host\); the download failed"):
        CIFAR10()(tmp_path, True)


def test_mnist_files_are_read_and_split(tmp_path):
    train, test = write_idx(tmp_path / "MNIST" / "raw")
    data = MNIST(validation=10)(tmp_path, False)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
    assert data.input_shape == (1, 28, 28)
    assert data.augment == Augment()
    assert sorted(rows(data.train) + rows(data.validation)) == sorted(i.tobytes() for i in train)
    assert rows(data.test) == [image.tobytes() for image in test]
    assert torch.bincount(data.validation.labels, minlength=10).tolist() == [1] * 10
    with pytest.raises(BadInput, match="validation: expected a number between 0 and 39, got 40"):
        MNIST(validation=40)(tmp_path, False)
    published = MNIST(validation=0)(tmp_path, False)
    assert (len(published.train), len(published.validation)) == (40, 0)
    assert published.validation.images.shape == (0, 1, 28, 28)


@pytest.fixture
def unchecked(monkeypatch):
    """torchvision takes files of the right format whatever their checksums."""
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.CIFAR10._load_meta", lambda self: None)


@pytest.mark.parametrize(("factory", "fine"), [(CIFAR10, False), (CIFAR100, True)])
def test_cifar_files_are_read_and_split(factory, fine, tmp_path, unchecked):
    train, test = write_cifar(tmp_path, fine)
    data = factory(validation=10, padding_mode="constant", flip=False)(tmp_path, False)
    assert data.input_shape == (3, 32, 32)
    assert data.augment == Augment(padding=4, mode="constant", flip=False)
    assert sorted(rows(data.train) + rows(data.validation)) == sorted(i.tobytes() for i in train)
    assert rows(data.test) == [image.tobytes() for image in test]
    assert data.test.labels.tolist() == [n % 10 for n in range(len(test))]


REFLECT, BLACK = Augment(4, "reflect", flip=True), Augment(4, "constant", flip=True)
SMALL_STD, STD_100 = (0.2023, 0.1994, 0.2010), (0.2673, 0.2564, 0.2762)


@pytest.mark.parametrize(
    ("factory", "preset", "augment", "std"),
    [
        (CIFAR10, None, REFLECT, (0.2470, 0.2435, 0.2616)),
        (CIFAR10, "chase", REFLECT, SMALL_STD),
        (CIFAR10, "dsb", BLACK, SMALL_STD),
        (CIFAR10, "itop", REFLECT, SMALL_STD),
        (CIFAR10, "mest", BLACK, SMALL_STD),
        (CIFAR10, "plain", Augment(), (0.2470, 0.2435, 0.2616)),
        (CIFAR10, "rigl", REFLECT, (0.2470, 0.2435, 0.2616)),
        (CIFAR10, "snfs", REFLECT, SMALL_STD),
        (CIFAR100, None, BLACK, STD_100),
        (CIFAR100, "chase", BLACK, STD_100),
        (CIFAR100, "plain", Augment(), STD_100),
    ],
)
def test_presets_are_the_papers(factory, preset, augment, std, tmp_path, unchecked):
    write_cifar(tmp_path, fine=factory is CIFAR100)
    data = factory(validation=10, preset=preset)(tmp_path, False)
    assert (data.augment, data.std) == (augment, std)
    assert data.mean == pytest.approx(
        (0.4914, 0.4822, 0.4465) if factory is CIFAR10 else (0.5071, 0.4865, 0.4409), abs=2e-4
    )


def test_what_is_set_beside_a_preset_comes_first(tmp_path, unchecked):
    write_cifar(tmp_path, fine=False)
    mixed = CIFAR10(validation=10, preset="plain", padding=4, flip=True)(tmp_path, False)
    assert mixed.augment == Augment(4, "constant", flip=True)
    assert CIFAR10(validation=10, preset="dsb", flip=False)(tmp_path, False).augment == Augment(4, "constant")


@real_data
def test_the_smaller_deviations_are_means_over_images():
    """Where .2023 .1994 .2010 come from: they aren't the deviations of all pixels."""
    data = CIFAR10(validation=0)(Path(ROOT), False)
    each = (data.train.images.float() / 255).flatten(2).std(2).mean(0)
    assert torch.allclose(each, torch.tensor(SMALL_STD), atol=1e-4)


def test_a_registered_preset_is_one_and_the_other_way_round():
    from dstbench_plugins.datasets import presets

    tables = {
        "cifar10": presets.CIFAR10_PRESETS,
        "cifar100": presets.CIFAR100_PRESETS,
        "tiny-imagenet": presets.TINY_IMAGENET_PRESETS,
    }
    for name, component in registry()["dataset"].items():
        assert component.metadata.get("presets", ()) == tuple(sorted(tables.get(name, ())))


def test_presets_leave_the_keys_of_older_trials_alone():
    found = registry()
    assert found.normalise("dataset", "cifar10") == {"name": "cifar10"}
    assert found.normalise("dataset", {"name": "cifar10", "preset": None}) == {"name": "cifar10"}
    assert found.normalise("dataset", {"name": "cifar10", "preset": "rigl"}) == {
        "name": "cifar10",
        "preset": "rigl",
    }


def write_idx(folder):
    """MNIST's file format: 40 training and 20 test images of random pixels, labels in turn."""
    folder.mkdir(parents=True)
    rng, made = np.random.default_rng(0), []
    for name, n in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        header = b"\0\0\x08\x03" + np.array([n, 28, 28], ">i4").tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(n) % 10).astype(np.uint8)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + np.array([n], ">i4").tobytes() + labels.tobytes()
        )
        made.append(images)
    return made


def write_cifar(root, fine):
    """CIFAR's file format: 50 training and 20 test images of random pixels, labels in turn."""
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for n in (50, 20))
    parts = [("train", train), ("test", test)] if fine else [("test_batch", test)]
    if not fine:
        parts += [(f"data_batch_{k + 1}", train[10 * k : 10 * (k + 1)]) for k in range(5)]
    for name, images in parts:
        labels = [n % 10 for n in range(len(images))]
        entry = {"data": images.reshape(-1, 3072), "fine_labels" if fine else "labels": labels}
        (folder / name).write_bytes(pickle.dumps(entry))
    return train, test


@real_data
@pytest.mark.parametrize(
    ("factory", "sizes", "shape"),
    [(MNIST(), (55_000, 5000, 10_000), (1, 28, 28)), (CIFAR10(), (45_000, 5000, 10_000), (3, 32, 32))],
    ids=["mnist", "cifar10"],
)
def test_real_files(factory, sizes, shape):
    data = factory(Path(ROOT), False)
    assert tuple(len(split) for split in splits(data)) == sizes
    assert data.input_shape == shape
    train, validation, test = ({*rows(split)} for split in splits(data))
    assert train.isdisjoint(validation)
    assert train.isdisjoint(test)
    assert validation.isdisjoint(test)
    pixels = torch.cat([data.train.images, data.validation.images]).float() / 255
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor(data.mean), atol=1e-4)
    assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor(data.std), atol=1e-4)


def test_packed_files_are_called_so(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"x")
    with pytest.raises(
        DataUnavailable, match=r"it holds packed files: unpack them there, `gunzip -k .*/\*.gz`"
    ):
        MNIST()(tmp_path, False)
