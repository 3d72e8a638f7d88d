"""Shuffled blocks in Triton's interpreter. ``test_triton_blocks.py`` runs this file, in a process of its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dstbench.accel.kernels.groups import Groups, to_mask
from dstbench.accel.kernels.triton import blocks as triton_blocks
from dstbench.accel.kernels.triton.blocks import triton_executions
from dstbench.api import LayerCall, LayerInfo, StrategyError
from dstbench.core.storage.condensed_layer import CondensedLayer, gather, scatter

STRIDED = {"stride": (2, 3), "padding": (2, 1), "dilation": (2, 1)}
PADDED = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
POINTWISE = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
LINEAR = (37, 53), (29, 53), 16, {}
CONV = (37, 7, 3, 3), (5, 7, 5, 3), 16, PADDED
ONE_BY_ONE = (37, 11, 1, 1), (3, 11, 5, 3), 16, POINTWISE
STRIDES = (37, 5, 3, 2), (3, 5, 11, 7), 16, STRIDED
CASES = [  # weight, input, block size, convolution
    (*LINEAR, "entry"),
    ((37, 31), (2, 3, 31), 32, {}, "entry"),
    ((150, 31), (1, 31), 64, {}, "entry"),
    (*CONV, "entry"),
    (*CONV, "channel"),
    ((37, 7, 3, 3), (1, 7, 5, 3), 32, PADDED, "entry"),
    (*STRIDES, "entry"),
    (*STRIDES, "channel"),
    (*ONE_BY_ONE, "channel"),
    ((37, 11, 1, 1), (3, 11, 5, 3), 16, {**POINTWISE, "stride": (2, 2)}, "entry"),
    (
        (17, 2, 7, 7),
        (2, 2, 5, 5),
        16,
        {"stride": (2, 2), "padding": (3, 3), "dilation": (1, 1)},
        "entry",
    ),  # int64 bits
    ((20, 7, 3), (3, 7, 13), 16, {"stride": (2,), "padding": (1,), "dilation": (1,)}, "channel"),
]


def ragged_mask(shape, block_size, columns, seed=0):
    """Groups of random sizes: none of the columns, all of them, then any number."""
    random = torch.Generator().manual_seed(seed)
    width = math.prod(shape[1:]) // (math.prod(shape[2:]) if columns == "channel" else 1)
    count = -(-shape[0] // block_size)
    sizes = [0, width, *(int(n) for n in torch.randint(width, (count,), generator=random))][:count]
    picked = [torch.randperm(width, generator=random)[:size].sort().values for size in sizes]
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    perm = torch.randperm(shape[0], generator=random)
    return to_mask(Groups(perm, ptr, torch.cat(picked).int()), shape, block_size, columns)


def layer_call(shape, convolution, dtype=torch.float32):
    return LayerCall(
        LayerInfo("layer", shape, "conv" if convolution else "linear"), dtype=dtype, **convolution
    )


def dense(x, weight, bias, convolution):
    if not convolution:
        return F.linear(x, weight, bias)
    run = {3: F.conv1d, 4: F.conv2d}[x.dim()]
    return run(x, weight, bias, **convolution)


def in_format(x, form, convolution):
    """x itself, in channels_last (which a linear layer doesn't have) or feature-major memory."""
    if form == "channels-last" and convolution:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if form == "feature-major":
        return x.movedim(0, -1).contiguous().movedim(-1, 0) if convolution else x.mT.contiguous().mT
    return x


class Example:
    """One layer: its mask, values, and the exact answer of masked dense in float64."""

    def __init__(self, shape, size, block_size, convolution, columns="entry", bias=True, seed=0):
        random = torch.Generator().manual_seed(seed)
        self.shape, self.block_size, self.convolution, self.columns = shape, block_size, convolution, columns
        self.mask = ragged_mask(shape, block_size, columns, seed)
        self.weight = torch.randn(shape, generator=random, dtype=torch.float64) * self.mask
        self.x = torch.randn(size, generator=random, dtype=torch.float64)
        self.bias = torch.randn(shape[0], generator=random, dtype=torch.float64) if bias else None
        leaves = [t.clone().requires_grad_() for t in (self.x, self.weight, self.bias) if t is not None]
        out = dense(leaves[0], leaves[1], leaves[2] if bias else None, convolution)
        self.dy = torch.randn(out.shape, generator=random, dtype=torch.float64)
        self.expected = [out.detach(), *torch.autograd.grad(out, leaves, self.dy)]
        self.expected[2] *= self.mask

    def executions(self, dtype=torch.float32):
        return triton_executions(
            layer_call(self.shape, self.convolution, dtype), self.mask, self.block_size, self.columns
        )

    def run(self, execution, dtype=torch.float32, form="contiguous"):
        """Output, and gradients of input, weight (dense) and bias."""
        x = in_format(self.x.to(dtype), form, self.convolution).requires_grad_()
        values = gather(self.weight.to(dtype), execution.positions).requires_grad_()
        bias = None if self.bias is None else self.bias.to(dtype).requires_grad_()
        out = execution(x, execution.pack(values), bias)
        leaves = [x, values] if bias is None else [x, values, bias]
        found = [out.detach(), *torch.autograd.grad(out, leaves, self.dy.to(dtype))]
        assert not found[2][execution.positions < 0].any()
        found[2] = scatter(found[2], execution.positions, self.shape)
        return found


def assert_close(found, expected, tolerance=1e-5):
    assert len(found) == len(expected)
    for mine, exact in zip(found, expected, strict=True):
        assert mine.shape == exact.shape
        assert float((mine.double() - exact).norm()) <= tolerance * float(exact.norm())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{'x'.join(map(str, case[0]))} {case[-1]}")
def test_product_and_gradients_are_those_of_masked_dense(case):
    example = Example(*case)
    for execution in example.executions():
        assert_close(example.run(execution), example.expected)


@pytest.mark.parametrize("form", ["contiguous", "channels-last", "feature-major"])
@pytest.mark.parametrize("case", [LINEAR, CONV, ONE_BY_ONE], ids=["linear", "3x3", "1x1"])
def test_answers_in_the_memory_format_of_the_input(case, form):
    example = Example(*case, bias=False)
    execution = example.executions()[0]
    found = example.run(execution, form=form)
    assert_close(found, example.expected)
    for mine in found[:2]:
        assert in_format(mine, form, example.convolution).stride() == mine.stride()


def test_nchw_path_takes_and_returns_channels_last():
    example = Example(*CONV)
    found = example.run(example.executions()[1], form="channels-last")
    assert_close(found, example.expected)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("case", [LINEAR, CONV], ids=["linear", "3x3"])
def test_narrow_dtypes_accumulate_in_float32(case, dtype, tolerance):
    example = Example(*case)
    found = example.run(example.executions(dtype)[0], dtype)
    assert {mine.dtype for mine in found} == {dtype}
    assert_close(found, example.expected, tolerance)


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_every_block_size_with_a_smaller_last_group(block_size):
    example = Example((2 * block_size + 3, 19), (21, 19), block_size, {})
    assert_close(example.run(example.executions()[0]), example.expected)


@pytest.mark.parametrize(
    "case",
    [((37, 23), (300, 23), 16, {}), ((17, 5, 1, 1), (40, 5, 3, 2), 16, POINTWISE), CONV],
    ids=["linear", "1x1", "3x3"],
)
def test_an_input_gradient_may_be_made_in_pieces(case, monkeypatch):
    example = Example(*case)
    for execution in example.executions():
        monkeypatch.setattr(triton_blocks, "_SCRATCH", 1)
        assert_close(example.run(execution), example.expected)


def test_a_weight_gradient_may_be_split(monkeypatch):
    monkeypatch.setattr(triton_blocks, "_SHORTEST_SPLIT", 128)
    example = Example((37, 23), (389, 23), 16, {})
    assert_close(example.run(example.executions()[0]), example.expected)


def test_same_bits_every_time():
    example = Example(*STRIDES)
    for execution in example.executions():
        first, second = example.run(execution), example.run(execution)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_executions_share_the_storage_order():
    """Entries by group, ascending; a row per entry, a lane per output row; channel columns with taps fastest."""
    mask = torch.zeros(18, 3, 1, 2, dtype=torch.bool)
    mask[:16, 0] = mask[:16, 2] = True
    mask[16:, 1] = True
    call = layer_call((18, 3, 1, 2), PADDED)
    by_channel, by_entry = (triton_executions(call, mask, 16, columns) for columns in ("channel", "entry"))
    expected = torch.full((6, 16), -1)
    expected[:4] = torch.arange(16) * 6 + torch.tensor([0, 1, 4, 5])[:, None]
    expected[4:, :2] = torch.tensor([16, 17]) * 6 + torch.tensor([2, 3])[:, None]
    for execution in [*by_channel, *by_entry]:
        assert torch.equal(execution.positions, expected)


def test_no_weight_at_all_leaves_the_bias():
    mask = torch.zeros(20, 5, dtype=torch.bool)
    (execution,) = triton_executions(layer_call((20, 5), {}), mask, 16, "entry")
    x, bias = torch.ones(3, 5, requires_grad=True), torch.arange(20.0)
    out = execution(x, torch.zeros(0, 16), bias)
    out.sum().backward()
    assert torch.equal(out, bias.expand(3, 20))
    assert not x.grad.any()


def test_an_empty_batch():
    (execution,) = Example(*LINEAR).executions()
    x = torch.zeros(0, 53, requires_grad=True)
    values = torch.ones(execution.positions.shape, requires_grad=True)
    execution(x, values, None).sum().backward()
    assert x.grad.shape == (0, 53)
    assert not values.grad.any()


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_a_condensed_layer_trains_with_it(autocast):
    example = Example(*CONV)
    layer = nn.Conv2d(7, 37, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(example.weight)
        layer.bias.copy_(example.bias)
    dtype = torch.bfloat16 if autocast else torch.float32
    execution = example.executions(dtype)[0]
    fast = CondensedLayer(layer, layer_call(example.shape, example.convolution, dtype), execution)
    fast.collecting = True
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = fast(example.x.float())
    assert out.dtype == dtype
    for _ in range(2):  # gradients accumulate
        out.backward(example.dy.to(dtype), retain_graph=True)
    weight = scatter(fast.weight.grad, execution.positions, example.shape)
    found = [out.detach(), weight / 2, fast.bias.grad / 2, fast.dense_gradient * example.mask / 2]
    expected = [example.expected[0], *example.expected[2:], example.expected[2]]
    assert_close(found, expected, 2e-2 if autocast else 1e-5)


@pytest.mark.parametrize("case", [LINEAR, CONV], ids=["linear", "conv"])
def test_a_condensed_layer_takes_no_batch_and_an_empty_one(case):
    example = Example(*case)
    kind = nn.Conv2d(7, 37, 3, padding=1) if case is CONV else nn.Linear(53, 37)
    with torch.no_grad():
        kind.weight.copy_(example.weight)
    call = layer_call(example.shape, example.convolution)
    for execution in example.executions():
        fast = CondensedLayer(kind, call, execution)
        for x in (example.x[0].float(), example.x[:0].float()):
            mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
            got, expected = fast(mine), kind(other)
            assert got.shape == expected.shape
            got.sum().backward()
            (dw,) = torch.autograd.grad(expected.sum(), kind.weight, retain_graph=True)
            expected.sum().backward()
            stored = gather(dw, execution.positions)
            assert_close(
                [got.detach(), mine.grad, fast.weight.grad], [expected.detach(), other.grad, stored], 1e-5
            )
            fast.zero_grad()


def test_refuses_offsets_beyond_32_bits():
    (execution,) = Example(*LINEAR).executions()
    huge = torch.zeros(1).expand(2**26, 53)
    with pytest.raises(StrategyError, match=r"layer 'layer'.*less than 2\^31"):
        execution(huge, torch.zeros(0, 16), None)


def test_refuses_a_mask_without_groups():
    with pytest.raises(StrategyError, match="groups of 16 rows"):
        triton_executions(layer_call((32, 5), {}), torch.eye(32, 5, dtype=torch.bool), 16, "entry")
