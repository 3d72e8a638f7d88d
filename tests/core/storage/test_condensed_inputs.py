"""Condensed layers take what the layers that they stand for take: no batch, an empty one, any layout and dtype."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dstbench.accel.kernels.compiled.csr import csr_executions
from dstbench.accel.kernels.row_groups import row_group_executions
from dstbench.accel.packed import Packed
from dstbench.api import StrategyError
from dstbench.core.storage.condensed_layer import CondensedLayer, gather
from fakes.compiled import called
from fakes.executions import Scattered

LAYERS = {
    "linear": (lambda: nn.Linear(6, 8), [(6,), (0, 6), (2, 0, 6), (3, 6), (2, 3, 6)]),
    "linear, no bias": (lambda: nn.Linear(6, 8, bias=False), [(6,), (0, 6)]),
    "1x1": (lambda: nn.Conv2d(6, 8, 1, stride=2), [(6, 5, 4), (0, 6, 5, 4), (2, 6, 5, 4)]),
    "3x3": (lambda: nn.Conv2d(6, 8, 3, 2, 1), [(6, 5, 4), (0, 6, 5, 4), (2, 6, 5, 4)]),
    "one dimension": (lambda: nn.Conv1d(6, 8, 3, bias=False), [(6, 5), (0, 6, 5), (2, 6, 5)]),
}


def executions(layer: nn.Module):
    """All that run here, of one mask: groups of four rows with three channels each."""
    mask = torch.zeros(layer.weight.shape, dtype=torch.bool)
    mask[:4, [0, 2, 3]] = True
    mask[4:, [1, 2, 5]] = True
    call = called(layer)
    return mask, [
        *row_group_executions(call, mask, 4, "channel"),
        *csr_executions(call, mask),
        Scattered(call, mask.flatten().nonzero().flatten()),
    ]


def gradients(module: nn.Module, x: torch.Tensor):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = module(x)
    weights = [x, module.weight, *([] if module.bias is None else [module.bias])]
    wanted = torch.arange(out.numel(), dtype=out.dtype).view(out.shape).sin()
    return out, torch.autograd.grad(out, weights, wanted)


def assert_same(
    layer: nn.Module, x: torch.Tensor, dtype: torch.dtype = torch.float32, rtol: float = 1e-5
) -> None:
    mask, offered = executions(layer)
    with torch.no_grad():
        layer.weight *= mask
    dense = copy.deepcopy(layer).to(dtype)
    expected, (dx, dw, *db) = gradients(dense, x)
    for execution in offered:
        fast = CondensedLayer(copy.deepcopy(layer), called(layer), execution).to(dtype)
        got, (my_dx, my_dw, *my_db) = gradients(fast, x)
        stored = gather(dw, execution.positions)
        small = Packed(dense, called(layer), execution)
        pairs = (
            (got, expected),
            (my_dx, dx),
            (my_dw, stored),
            *zip(my_db, db, strict=True),
            (small(x), expected),
        )
        for mine, right in pairs:
            assert mine.dtype == right.dtype, execution.path
            torch.testing.assert_close(mine, right, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name, (_, shapes) in LAYERS.items() for shape in shapes]
)
def test_shapes(name, shape):
    torch.manual_seed(0)
    assert_same(LAYERS[name][0](), torch.randn(shape))


@pytest.mark.parametrize("name", ["linear", "1x1", "3x3"])
def test_layouts(name):
    torch.manual_seed(0)
    make, shapes = LAYERS[name]
    x = torch.randn(shapes[-1])
    assert_same(
        make(), x.movedim(1, -1).contiguous().movedim(-1, 1)
    )  # as channels_last; of a sequence, transposed
    assert_same(make(), torch.randn(2, *shapes[-1])[1:].expand(2, *shapes[-1])[0])
    assert_same(make(), torch.randn(*shapes[-1][:-1], 2 * shapes[-1][-1])[..., ::2])


@pytest.mark.filterwarnings("ignore:layer 'layer' runs masked dense")
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", ["linear", "1x1", "3x3"])
def test_dtypes_of_a_model_that_was_cast(name, dtype, rtol):
    torch.manual_seed(0)
    make, shapes = LAYERS[name]
    for shape in shapes:
        assert_same(make(), torch.randn(shape).to(dtype), dtype, rtol)


def test_a_dtype_that_the_kernels_do_not_know_is_said():
    layer = nn.Linear(6, 8)
    [execution] = [each for each in executions(layer)[1] if each.path == "csr compiled"] or pytest.skip(
        "no compiler"
    )
    fast = CondensedLayer(layer, called(layer), execution).double()
    with pytest.warns(UserWarning, match="layer 'layer' runs masked dense in torch.float64: 'csr compiled'"):
        fast(torch.zeros(2, 6, dtype=torch.float64))


@pytest.mark.parametrize("name", ["linear", "3x3"])
def test_dense_gradients_of_a_single_sample(name):
    """Which growth by gradient reads."""
    torch.manual_seed(0)
    make, shapes = LAYERS[name]
    layer = make()
    mask, [execution, *_] = executions(layer)
    with torch.no_grad():
        layer.weight *= mask
    for shape in shapes:
        x = torch.randn(shape)
        fast = CondensedLayer(copy.deepcopy(layer), called(layer), execution)
        fast.collecting = True
        fast(x).square().sum().backward()
        layer.zero_grad()
        layer(x).square().sum().backward()
        torch.testing.assert_close(fast.dense_gradient, layer.weight.grad)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("linear", (), r"expected an input \[..., 6\], got \[\]"),
        ("linear", (3, 5), r"expected an input \[..., 6\], got \[3, 5\]"),
        ("3x3", (5, 4), r"expected an input \[batch, 6, \*, \*\], got \[5, 4\]"),
        ("3x3", (2, 5, 5, 4), r"expected an input \[batch, 6, \*, \*\], got \[2, 5, 5, 4\]"),
        ("one dimension", (2, 6, 2), r"expected an input no smaller than the kernel, 3, got \[2, 6, 2\]"),
    ],
)
def test_what_the_layer_refuses_is_refused_by_name(name, shape, message):
    layer = LAYERS[name][0]()
    for execution in executions(layer)[1]:
        with pytest.raises((RuntimeError, ValueError)):
            layer(torch.zeros(shape))
        for fast in (
            CondensedLayer(layer, called(layer), execution),
            Packed(layer, called(layer), execution),
        ):
            with pytest.raises(StrategyError, match=f"layer 'layer': {message}"):
                fast(torch.zeros(shape))
