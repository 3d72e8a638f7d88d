"""Triton's kernels, compiled for an H100 without one. ``test_triton_blocks.py`` runs this file in a fresh process.

The interpreter accepts what the compiler refuses, and says nothing of what a kernel becomes.
"""

from __future__ import annotations

import re

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dstbench.accel.kernels.triton import kernels as triton_kernels

ACTIVATIONS = {"x", "w", "bias", "y", "dy", "parts", "dx", "source", "target"}
TABLES = {
    "order",
    "rows",
    "ptr",
    "off",
    "bit",
    "base",
    "inside",
    "tile_group",
    "tile_first",
    "shift",
    "hits",
    "tap",
}
ALIGNED = {
    "lanes",
    "y_lanes",
    "x_lanes",
    "points",
    "part_points",
    "first_lane",
    "span",
    "first",
    "last",
    "channels",
    "to_image",
    "to_pixel",
    "to_lane",
    "to_channel",
}
MULTIPLY = {"B": 64, "N": 128, "K": 64, "BIAS": True, "PRECISION": "ieee"}
SPREAD = {"B": 64, "M": 64, "N": 128, "K": 64, "FOLD": 9, "PRECISION": "ieee"}
WEIGH = {"B": 64, "M": 128, "K": 64, "PRECISION": "ieee"}
EXACT = {"B": 16, "K": 32, "PRECISION": "tf32x3"}


def ptx(name, dtype, constants, ones=()):
    """The assembly of a kernel; arguments are as aligned as an image batch of a multiple of 16 makes them.

    Arguments in ``ones`` are 1, which the compiler builds in.
    """
    kernel = getattr(triton_kernels, name)
    kernel = kernel.fn if isinstance(kernel, triton.runtime.Autotuner) else kernel
    constants = {**constants, **dict.fromkeys(set(ones) & set(kernel.arg_names), 1)}
    signature, attributes = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        element = "fp32" if (name, argument) == ("weigh", "parts") else dtype
        kinds = {**dict.fromkeys(TABLES, "*i32"), **dict.fromkeys(ACTIVATIONS, f"*{element}")}
        signature[argument] = "constexpr" if argument in constants else kinds.get(argument, "i32")
        if argument not in constants and (argument in kinds or argument in ALIGNED):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 3}
    )
    assert compiled.metadata.shared <= 227 << 10
    assert compiled.asm["cubin"]
    return compiled.asm["ptx"]


def wide_copies(assembly):
    """Copies of 16 bytes from global to shared memory that run beside the tensor cores."""
    return re.findall(r"cp\.async\.cg\.shared\.global \[[^]]*\], \[[^]]*\], 0x10", assembly)


@pytest.mark.parametrize(
    ("name", "constants"), [("multiply", MULTIPLY), ("spread", SPREAD), ("weigh", WEIGH)]
)
def test_feature_major_loads_are_wide_and_products_run_on_tensor_cores(name, constants):
    assembly = ptx(name, "bf16", constants)
    assert "wgmma.mma_async" in assembly
    assert wide_copies(assembly)


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("multiply", {**EXACT, "N": 128, "BIAS": False}),
        ("spread", {**EXACT, "M": 128, "N": 64, "FOLD": 1}),
        ("weigh", {**EXACT, "M": 128}),
    ],
)
def test_float32_runs_on_tensor_cores_at_the_smallest_block(name, constants):
    assembly = ptx(name, "fp32", constants)
    assert ".tf32" in assembly
    assert wide_copies(assembly) or name == "spread"  # which has a single step here, and none to run beside


@pytest.mark.parametrize("ones", [("lanes", "y_lanes", "x_lanes"), ("pixels", "tiles", "groups")])
@pytest.mark.parametrize(
    ("name", "constants"),
    [("multiply", MULTIPLY), ("spread", SPREAD), ("weigh", WEIGH), ("collect", {"C": 32, "N": 128})],
)
def test_compiles_in_nchw_and_for_a_single_pixel_and_group(name, constants, ones):
    assert ("wgmma" in ptx(name, "fp16", constants, ones)) == (name != "collect")


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [triton_kernels.multiply, triton_kernels.spread, triton_kernels.weigh])
def test_every_block_size_leaves_something_to_tune(kernel, dtype, block_size):
    weights = torch.empty(0, dtype=dtype)
    for size in (16, 32, 64, 128):
        tile = {} if kernel is triton_kernels.multiply else {"M": size}
        assert kernel.early_config_prune(kernel.configs, {"w": weights, "dy": weights}, B=block_size, **tile)


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("collect", {"C": 32, "N": 128, "to_lane": 1}),  # feature-major
        ("collect", {"C": 32, "N": 128, "to_channel": 1}),  # channels_last, or a linear layer's rows
        ("flip", {"N": 64}),
    ],
)
def test_what_only_moves_memory_moves_16_bytes_at_a_time(name, constants):
    assembly = ptx(name, "bf16", constants)
    assert re.search(r"ld\.global(\.\w+)*\.v4\.b32", assembly)
    assert re.search(r"st\.global(\.\w+)*\.v4\.b32", assembly)
