"""Tiny-ImageNet and ImageNet by folder: both layouts, honest splits, errors that say what is missing."""

from __future__ import annotations

import json

import pytest
import torch

from dstbench.api import DataUnavailable
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.batches import Batches, evaluation_batches
from dstbench.runner.trial.running import CURVE
from dstbench.runner.trial.trial import run_trial
from dstbench_plugins.datasets.image_folders import ImageNet, TinyImageNet
from fakes.folders import write_official, write_plain


def splits(data):
    return data.train, data.validation, data.test


def whole(split, data):
    ((images, labels),) = evaluation_batches(split, len(split), data.mean, data.std, "cpu", workers=0)
    return images, labels


def label_of(name):
    """The class that a training file's name states."""
    return int(name.rsplit("/", 1)[1][1:3])


@pytest.mark.parametrize("write", [write_official, write_plain])
def test_both_layouts_are_read_and_split(write, tmp_path):
    write(tmp_path / "tiny-imagenet-200")
    data = TinyImageNet(classes=3, validation=3)(tmp_path, False)
    assert [len(split) for split in splits(data)] == [9, 3, 6]
    assert (data.input_shape, data.num_classes) == ((3, 64, 64), 3)
    assert data.validation.labels.tolist() == [0, 1, 2]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for split in (data.train, data.validation):
        assert [label_of(name) for name in split.names] == split.labels.tolist()
    images, _ = whole(data.train, data)  # the grey ones too
    assert images.shape == (9, 3, 64, 64)


def test_the_published_table_names_the_test_classes(tmp_path):
    write_official(tmp_path)
    data = TinyImageNet(classes=3, validation=3)(tmp_path, False)  # the data root may be the set's own folder
    said = {f"val/images/val_{i}.JPEG": i % 3 for i in range(6)}
    assert dict(zip(data.test.names, data.test.labels.tolist(), strict=True)) == said


def test_tiny_imagenet_splits_without_a_split_file_and_normalises(tmp_path):
    """DSB's code needs an .npy split that isn't in its repository, and feeds unnormalised pixels."""
    base = write_official(tmp_path, train=5)
    data = TinyImageNet(classes=3, validation=6)(base, False)
    train, validation, test = (set(split.names) for split in splits(data))
    assert not train & validation | train & test | validation & test
    assert all(name.startswith("train/") for name in train | validation)
    assert all(name.startswith("val/") for name in test)
    assert torch.bincount(data.validation.labels).tolist() == [2, 2, 2]
    raw = TinyImageNet(classes=3, validation=6, preset="dsb")(base, False)  # as there: pixels in [0, 1]
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    pixels = whole(raw.test, raw)[0]
    assert 0 <= pixels.min() < 0.1 < 0.9 < pixels.max() <= 1
    assert torch.allclose(whole(data.test, data)[0], (pixels - mean) / std, atol=1e-5)


def test_validation_and_test_are_read_without_training_augmentation(tmp_path):
    write_plain(tmp_path, classes=2, size=80)
    for data in (ImageNet(2, classes=2, size=64)(tmp_path, False),):
        assert data.validation.transform == data.test.transform != data.train.transform
        assert torch.equal(whole(data.validation, data)[0], whole(data.validation, data)[0])
    write_official(tmp_path / "tiny-imagenet-200")
    rotated = TinyImageNet(3, classes=3, preset="dsb")(tmp_path, False)
    assert rotated.validation.transform == rotated.test.transform != rotated.train.transform


def test_imagenet_crops_anew_each_epoch_to_train_and_at_the_centre_to_test(tmp_path):
    write_plain(tmp_path / "imagenet", classes=2, size=96, suffix="JPEG", held="validation")
    data = ImageNet(validation=0, classes=2, size=56)(tmp_path, False)
    assert data.input_shape == (3, 56, 56)
    assert [len(split) for split in splits(data)] == [8, 0, 4]
    loader = Batches(
        data.train, 8, mean=data.mean, std=data.std, augment=data.augment, seed=0, device="cpu", workers=0
    )
    (first, labels), (second, order) = (next(loader.epoch(k)) for k in (0, 1))
    assert first.shape == (8, 3, 56, 56)
    assert not torch.allclose(first[labels.argsort(stable=True)], second[order.argsort(stable=True)])
    from PIL import Image

    image = Image.open(tmp_path / "imagenet" / data.test.names[0]).resize((64, 64), Image.Resampling.BILINEAR)
    centre = torch.tensor(list(image.crop((4, 4, 60, 60)).tobytes())).view(56, 56, 3).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    assert torch.allclose(whole(data.test, data)[0][0], (centre - mean) / std, atol=1e-4)


@pytest.mark.parametrize(
    ("factory", "fields", "message"),
    [
        (
            TinyImageNet,
            {"validation": 100_000},
            "validation: expected 0 to 99999 for Tiny-ImageNet, got 100000",
        ),
        (TinyImageNet, {"classes": 1}, "classes: expected 2 to 200 for Tiny-ImageNet, got 1"),
        (TinyImageNet, {"padding": 64}, "padding: expected 0 to 63 for Tiny-ImageNet, got 64"),
        (TinyImageNet, {"preset": "dbs"}, "preset: no 'dbs'; did you mean 'dsb'"),
        (ImageNet, {"classes": 1001}, "classes: expected 2 to 1000 for ImageNet, got 1001"),
        (ImageNet, {"size": 0}, "size: expected at least 1, got 0"),
    ],
)
def test_bad_numbers_are_refused_before_any_file_is_looked_for(factory, fields, message):
    with pytest.raises(BadInput, match=message):
        factory(**fields)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(
        DataUnavailable, match="ImageNet is read from a folder: say which with `--data-root DIR`"
    ):
        ImageNet()(None, False)
    with pytest.raises(
        DataUnavailable, match=r"looked for imagenet/train and imagenet/val in .* found nothing"
    ):
        ImageNet()(tmp_path, False)
    write_plain(tmp_path / "imagenet")
    with pytest.raises(DataUnavailable, match=r"has 3 class folders, expected 1000 .* classes: 3"):
        ImageNet()(tmp_path, False)
    with pytest.raises(BadInput, match="validation: expected a number between 0 and 11, got 12"):
        ImageNet(validation=12, classes=3)(tmp_path, False)
    (tmp_path / "imagenet" / "val" / "n01").rename(tmp_path / "imagenet" / "val" / "n77")
    with pytest.raises(DataUnavailable, match="differ in 2 class folders, such as 'n01'"):
        ImageNet(classes=3, validation=3)(tmp_path, False)


def test_an_unknown_class_in_the_published_table_is_named(tmp_path):
    table = write_official(tmp_path) / "val" / "val_annotations.txt"
    table.write_text(table.read_text().replace("n02", "n09"))
    with pytest.raises(DataUnavailable, match=r"one of the training classes, got \['val_2.JPEG', 'n09'\]"):
        TinyImageNet(classes=3, validation=3)(tmp_path, False)


def test_an_incomplete_copy_of_the_whole_set_is_refused(tmp_path):
    for k in range(200):
        for folder in ("train", "val"):
            path = tmp_path / folder / f"n{k}" / "1.JPEG"
            path.parent.mkdir(parents=True)
            path.touch()
    with pytest.raises(DataUnavailable, match="200 training and 200 test images, expected 100000 and 10000"):
        TinyImageNet()(tmp_path, False)


def test_a_trial_trains_on_files(tmp_path):
    write_official(tmp_path / "data" / "tiny-imagenet-200", classes=10, train=6, test=2)
    trial = TrialSpec(
        model={"name": "small_cnn"},
        dataset={"name": "tiny-imagenet", "classes": 10, "validation": 10},
        density=0.2,
        seed=0,
        recipe=registry().build("recipe", "rigl").but(schedule={"name": "cosine", "delta_t": 2}),
        training=Training(epochs=2, batch_size=10, lr=0.05),
    )
    records = [
        run_trial(trial, tmp_path / str(threads), data_root=tmp_path / "data", device="cpu", threads=threads)
        for threads in (1, 2)  # 2: read by two processes
    ]
    torch.set_num_threads(1)
    for record in records:
        assert record["status"] == "ok", record["traceback"]
        assert record["measures"]["steps"] == 10
    fingerprints = {record["provenance"]["dataset_fingerprint"] for record in records}
    assert len(fingerprints) == 1
    curve = [json.loads(line) for line in (tmp_path / "1" / CURVE).read_text().splitlines()]
    assert curve[-1]["top1_validation"] is not None


@pytest.mark.parametrize("name", ["tiny-imagenet", "imagenet"])
def test_what_is_declared_is_what_the_parameters_make(name):
    component = registry().resolve("dataset", name)
    built = registry().build("dataset", name)
    known = ("train_images", "validation_images", "input_shape", "num_classes")
    assert built.declared == {key: component.metadata[key] for key in known}
    assert component.metadata["validation_images"] == built.validation
