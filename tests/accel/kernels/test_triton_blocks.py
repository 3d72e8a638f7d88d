"""Where Triton's executions are offered; what they compute is checked in processes of their own.

Triton decides between its compiler and its interpreter when it is first imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dstbench.accel.kernels.triton import blocks as triton_blocks
from dstbench.accel.kernels.triton.blocks import triton_executions
from dstbench.api import LayerCall, LayerInfo

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed")
CUDA = torch.device("cuda")
CONV = LayerCall(LayerInfo("conv", (32, 4, 3, 3), "conv"), (1, 1), (1, 1), (1, 1), device=CUDA)
MASK = torch.ones(32, 4, 3, 3, dtype=torch.bool)


def run_apart(arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
def test_interpreted_kernels_compute_what_masked_dense_does():
    path = Path(__file__).with_name("triton_interpreted.py")
    run_apart(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)], TRITON_INTERPRET="1")


@needs_triton
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    path = Path(__file__).with_name("triton_compiled.py")
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    run_apart(arguments, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


def test_importing_leaves_triton_alone():
    script = "import dstbench.accel.kernels.triton.blocks, sys; print('triton' in sys.modules)"
    assert run_apart(["-c", script]).strip() == "False"


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_offered_on_cuda(dtype):
    found = triton_executions(replace(CONV, dtype=dtype), MASK, 16, "entry")
    assert [execution.path for execution in found] == ["shuffled-block Triton", "shuffled-block Triton NCHW"]


@needs_triton
@pytest.mark.parametrize(
    ("call", "block_size"),
    [
        (replace(CONV, device=torch.device("cpu")), 16),
        (replace(CONV, dtype=torch.float64), 16),
        (replace(CONV, groups=2), 16),
        (replace(CONV, info=replace(CONV.info, kind="conv_transpose")), 16),
        (replace(CONV, info=replace(CONV.info, shape=(32, 4, 8, 8))), 16),
        (CONV, 8),
        (CONV, 48),
    ],
    ids=["CPU", "float64", "grouped", "transposed", "64 taps", "block size 8", "block size 48"],
)
def test_not_offered_where_kernels_cannot_run(call, block_size, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert triton_executions(call, MASK, block_size, "entry") == []


def test_not_offered_without_triton(monkeypatch):
    monkeypatch.setattr(triton_blocks.importlib.util, "find_spec", lambda name: None)
    assert triton_executions(CONV, MASK, 16, "entry") == []
