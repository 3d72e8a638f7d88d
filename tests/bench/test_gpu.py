"""The GPU benchmark, as far as a machine without a GPU can tell."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from itertools import product

import pytest
import torch

from dstbench.accel.kernels.groups import is_blocked
from dstbench.bench import gpu
from dstbench.errors import BadInput


def test_refuses_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="expected a CUDA device, found none"):
        gpu.parts(argparse.Namespace(device="cuda"))


def test_refuses_a_cpu_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BadInput, match="expected TRITON_INTERPRET=1"):
        gpu.parts(argparse.Namespace(device="cpu"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed")
def test_every_figure_is_taken_in_the_interpreter():
    tiny = "--device cpu --shrink 64 --model small_cnn --rounds 1 --warmup 0 --threads 1"
    only = "--only 'linear, density 0.1, channel, forward+backward' --only 'training step'"
    done = subprocess.run(
        [sys.executable, "-m", "dstbench.bench", "gpu", *shlex.split(f"{tiny} {only}")],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(done.stdout)
    formats = Counter((row["dtype"], row["format"]) for row in measured["rows"])
    assert formats == dict.fromkeys(product(("bfloat16", "float32"), ("contiguous", "feature-major")), 1)
    assert {row["path"] for row in measured["rows"]} == {"shuffled-block Triton"}
    assert [row["format"] for row in measured["steps"]] == ["contiguous", "channels_last"]
    assert all(row["ratio"] > 0 for row in measured["rows"] + measured["steps"])


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
