"""The GPU benchmark, as far as a machine without a GPU can tell."""

from __future__ import annotations

import argparse

import pytest
import torch

from dstbench.accel.kernels.groups import is_blocked
from dstbench.bench import gpu
from dstbench.errors import BadInput


def test_refuses_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="expected a CUDA device, found none"):
        gpu.parts(argparse.Namespace(only=None, rounds=1, warmup=0))


@pytest.mark.parametrize("columns", ["entry", "channel"])
def test_masks_are_balanced_groups_of_the_density(columns):
    mask = gpu.draw_mask((64, 20, 3, 3), gpu.Case("conv3x3", 0.1, columns, 16), torch.device("cpu"))
    assert is_blocked(mask, 16, columns, balanced=True)
    assert float(mask.float().mean()) == pytest.approx(0.1)


def test_each_format_stands_beside_the_best_dense_layout():
    medians = {("dense", "contiguous"): 6.0, ("dense", "channels_last"): 4.0}
    medians |= {("a", "contiguous"): 3.0, ("b", "contiguous"): 2.0, ("a", "channels_last"): 1.0}
    rows = list(gpu._ratios(medians))
    assert [(row["format"], row["path"], row["ratio"]) for row in rows] == [
        ("contiguous", "b", 2.0),
        ("channels_last", "a", 4.0),
    ]
    assert {row["dense_format"] for row in rows} == {"channels_last"}
