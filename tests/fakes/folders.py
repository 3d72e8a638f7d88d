"""Image folders in the layouts of large sets, small enough for a test."""

from __future__ import annotations

import numpy as np
from PIL import Image


def write_image(path, rng, size=64, mode="RGB"):
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(path)


def write_plain(base, classes=3, train=4, test=2, size=64, suffix="png", held="val"):
    """A folder a class; the first training image of each class is grey."""
    rng = np.random.default_rng(0)
    for k in range(classes):
        for i in range(train):
            mode = "L" if i == 0 else "RGB"
            write_image(base / "train" / f"n{k:02d}" / f"n{k:02d}_{i}.{suffix}", rng, size, mode)
        for i in range(test):
            write_image(base / held / f"n{k:02d}" / f"val_{k}_{i}.{suffix}", rng, size)
    return base


def write_official(base, classes=3, train=4, test=2):
    """Tiny-ImageNet as published: images/ below each class, test images named by a table, classes mixed."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(classes):
        for i in range(train):
            write_image(base / "train" / f"n{k:02d}" / "images" / f"n{k:02d}_{i}.JPEG", rng)
        (base / "train" / f"n{k:02d}" / f"n{k:02d}_boxes.txt").write_text("")
    for i in range(test * classes):
        write_image(base / "val" / "images" / f"val_{i}.JPEG", rng)
        rows.append(f"val_{i}.JPEG\tn{i % classes:02d}\t0\t0\t63\t63\n")
    (base / "val" / "val_annotations.txt").write_text("".join(rows))
    return base
