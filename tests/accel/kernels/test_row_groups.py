"""Row-group executions compute what the masked layer does: forward and every gradient, against float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dstbench.accel.kernels.groups import Groups, to_mask
from dstbench.accel.kernels.row_groups import row_group_executions
from dstbench.api import LayerInfo, StrategyError
from dstbench.core.storage import fastest
from dstbench.core.storage.condensed_layer import CondensedLayer, layer_call

CHANNELS_LAST = torch.channels_last

# layer, input, block size, columns of each group
CASES = {
    "linear": (nn.Linear(37, 22), (13, 37), 8, [5, 5, 5]),
    "linear, one group": (nn.Linear(11, 5, bias=False), (3, 11), 8, [4]),
    "linear, batch 1": (nn.Linear(64, 48), (1, 64), 16, [7, 7, 7]),
    "linear, more dimensions": (nn.Linear(19, 12), (2, 5, 3, 19), 4, [2, 2, 2]),
    "linear, full": (nn.Linear(23, 16), (7, 23), 8, [23, 23]),
    "linear, ragged": (nn.Linear(50, 24), (6, 50), 8, [10, 9, 8]),
    "linear, one column": (nn.Linear(29, 31), (5, 29), 4, [1] * 8),
    "linear, no columns": (nn.Linear(9, 8), (4, 9), 4, [0, 0]),
    "linear, an empty group": (nn.Linear(40, 48), (6, 40), 8, [3, 3, 3, 3, 3, 0]),
    "linear, many chunks": (nn.Linear(700, 512), (256, 700), 16, [300] * 32),
    "3x3": (nn.Conv2d(7, 10, 3, padding=1), (3, 7, 9, 11), 4, [3, 3, 3]),
    "3x3, stride 2": (nn.Conv2d(5, 8, 3, stride=2, padding=1, bias=False), (2, 5, 13, 7), 4, [2, 2]),
    "3x3, dilated": (nn.Conv2d(6, 8, 3, padding=2, dilation=2), (1, 6, 8, 8), 8, [5]),
    "5x3, uneven": (nn.Conv2d(4, 9, (5, 3), (1, 2), (0, 1), (1, 2)), (2, 4, 17, 13), 3, [2] * 3),
    "3x3, full": (nn.Conv2d(6, 8, 3), (2, 6, 5, 5), 4, [6, 6]),
    "3x3, an empty group": (nn.Conv2d(13, 20, 3, padding=1), (2, 13, 6, 6), 4, [2, 2, 2, 2, 0]),
    "3x3, no columns": (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 6, 6), 4, [0, 0]),
    "3x3, one pixel": (nn.Conv2d(17, 16, 3, padding=1), (5, 17, 1, 1), 8, [4, 4]),
    "3x3, many blocks": (nn.Conv2d(64, 64, 3, padding=1), (24, 64, 32, 32), 16, [8] * 4),
    "3x3, one channel": (nn.Conv2d(1, 8, 3, padding=1), (4, 1, 6, 6), 4, [1, 1]),
    "1x1": (nn.Conv2d(17, 30, 1), (3, 17, 7, 5), 8, [4] * 4),
    "1x1, stride 2": (nn.Conv2d(16, 24, 1, stride=2, bias=False), (2, 16, 9, 8), 8, [3] * 3),
    "1x1, padded": (nn.Conv2d(8, 16, 1, padding=1), (2, 8, 5, 5), 8, [3, 3]),
    "1x1, batch 1": (nn.Conv2d(12, 16, 1), (1, 12, 5, 5), 8, [12, 12]),
    "1x1, one channel": (nn.Conv2d(1, 16, 1), (4, 1, 3, 3), 8, [1, 1]),
    "1x1, ragged": (nn.Conv2d(30, 24, 1), (2, 30, 4, 4), 8, [8, 9, 7]),
    "1x1, many chunks": (nn.Conv2d(96, 256, 1), (8, 96, 28, 28), 32, [24] * 8),
}


def draw_mask(shape, block_size, counts, columns="channel", seed=0):
    rng = torch.Generator().manual_seed(seed)
    picked = [torch.randperm(shape[1], generator=rng)[:count].sort().values for count in counts]
    ptr = torch.tensor([0, *counts]).cumsum(0)
    perm = torch.randperm(shape[0], generator=rng)
    return to_mask(Groups(perm, ptr, torch.cat(picked).int()), shape, block_size, columns)


def setting(name, dtype=torch.float32):
    """The masked layer, its call and executions, and an input."""
    layer, size, block_size, counts = CASES[name]
    torch.manual_seed(0)
    layer = copy.deepcopy(layer)
    mask = draw_mask(tuple(layer.weight.shape), block_size, counts)
    with torch.no_grad():
        layer.weight.mul_(mask)
    kind = "linear" if isinstance(layer, nn.Linear) else "conv"
    info = LayerInfo(name, tuple(layer.weight.shape), kind)
    call = layer_call(layer, info, device=torch.device("cpu"), dtype=dtype, training=True)
    executions = row_group_executions(call, mask, block_size, "channel")
    return layer, mask, call, executions, torch.randn(size)


def run(module, x):
    """The output, and the gradients of input, weight and bias, for a fixed gradient of the output."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = module(x)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).to(out))
    return [out.detach(), x.grad, module.weight.grad, *([] if module.bias is None else [module.bias.grad])]


def condensed(layer, call, execution):
    return CondensedLayer(copy.deepcopy(layer), call, execution)


def dense_form(module, results):
    """The same, with the weight's gradient in the layer's shape."""
    logical = copy.deepcopy(module)
    with torch.no_grad():
        logical.weight.copy_(results[2])
    return [*results[:2], logical.logical(), *results[3:]]


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_equal_masked_dense(name):
    layer, mask, call, executions, x = setting(name)
    expected = run(copy.deepcopy(layer).double(), x.double())
    expected[2] = expected[2] * mask
    assert executions
    for execution in executions:
        formats = [torch.contiguous_format] if x.dim() != 4 else [torch.contiguous_format, CHANNELS_LAST]
        for memory_format in formats:
            module = condensed(layer, call, execution)
            found = run(module, x.contiguous(memory_format=memory_format))
            assert not found[2][execution.positions < 0].any(), "a padding value would be trained"
            for mine, reference in zip(dense_form(module, found), expected, strict=True):
                scale = reference.abs().max().clamp_min(1e-6)
                assert mine.shape == reference.shape
                assert float((mine - reference).abs().max() / scale) < 1e-5, execution.path


@pytest.mark.parametrize("name", CASES)
def test_every_active_weight_is_stored_once(name):
    _, mask, _, executions, _ = setting(name)
    for execution in executions:
        stored = execution.positions[execution.positions >= 0]
        assert torch.equal(stored.sort().values, mask.flatten().nonzero()[:, 0])
        assert torch.equal(execution.positions, executions[0].positions)


@pytest.mark.parametrize("name", ["linear", "3x3", "1x1", "linear, many chunks", "1x1, many chunks"])
def test_equal_inputs_give_equal_bits(name):
    layer, _, call, executions, x = setting(name)
    for execution in executions:
        first, second = (run(condensed(layer, call, execution), x) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["linear", "3x3, stride 2", "1x1", "linear, ragged"])
def test_bfloat16_under_autocast(name):
    layer, mask, call, executions, x = setting(name, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = run(copy.deepcopy(layer), x)
    expected[2] = expected[2] * mask
    for execution in executions:
        module = condensed(layer, call, execution)
        with torch.autocast("cpu", torch.bfloat16):
            found = run(module, x)
        assert found[0].dtype == torch.bfloat16
        assert found[2].dtype == torch.float32
        for mine, reference in zip(dense_form(module, found), expected, strict=True):
            scale = reference.abs().max().clamp_min(1e-6)
            assert float((mine.float() - reference.float()).abs().max() / scale) < 3e-2


@pytest.mark.parametrize("name", ["linear", "3x3", "1x1", "1x1, many chunks"])
def test_inference_equals_training_and_outputs_are_kept_apart(name):
    """Outputs live in memory that is used again, but never while something still refers to them."""
    layer, _, call, executions, x = setting(name)
    for execution in executions:
        module = condensed(layer, call, execution)
        expected = module(x).detach().clone()
        with torch.inference_mode():
            first = module(x)
            module(-x)
            assert torch.equal(first, expected)


def stock(*arguments):
    """What stock operators run, of all that there is."""
    return [each for each in row_group_executions(*arguments) if "compiled" not in each.path]


def test_entry_columns_run_where_an_entry_is_a_channel():
    layer, mask, call, _, x = setting("1x1")
    for execution in row_group_executions(call, mask, 8, "entry"):
        torch.testing.assert_close(condensed(layer, call, execution)(x), layer(x))
    _, mask, call, executions, _ = setting("3x3")
    assert executions
    assert stock(call, mask, 4, "entry") == []


def test_what_stock_operators_cannot_do_is_not_offered():
    _, mask, call, _, _ = setting("3x3")
    assert row_group_executions(replace(call, groups=7), mask, 4, "channel") == []
    assert row_group_executions(replace(call, device=torch.device("meta")), mask, 4, "channel") == []
    ragged = draw_mask(call.info.shape, 4, [7, 1, 1])
    assert stock(call, ragged, 4, "channel") == []
    with pytest.raises(StrategyError, match="groups of 4 rows"):
        row_group_executions(call, torch.rand(mask.shape) < 0.5, 4, "channel")


def test_the_dispatcher_takes_the_fastest_that_is_clearly_faster(monkeypatch):
    layer, _, call, executions, x = setting("1x1")
    executions = executions[:2]
    for gains, taken in [([2.0, 3.0], 1), ([3.0, 2.0], 0), ([1.05, 1.0], None)]:
        measured = dict(zip((id(execution) for execution in executions), gains, strict=True))
        monkeypatch.setattr(fastest, "speedup", lambda *args, by=measured: by[id(args[2])])
        choice = fastest.choose(layer, call, executions, x)
        assert choice.execution is (None if taken is None else executions[taken])
        assert choice.path == (fastest.MASKED_DENSE if taken is None else executions[taken].path)


def test_measuring_a_layer_changes_nothing():
    layer, _, call, executions, x = setting("3x3")
    before = copy.deepcopy(layer.state_dict())
    assert fastest.speedup(layer, call, executions[0], x, rounds=1) > 0
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    assert layer.weight.grad is None


@pytest.mark.parametrize("name", ["linear", "3x3", "1x1, many chunks"])
def test_outputs_may_be_worked_on_in_place(name):
    layer, _, call, executions, x = setting(name)
    for execution in executions:
        mine, reference = condensed(layer, call, execution), copy.deepcopy(layer)
        for module in (mine, reference):
            module(x).relu_().sum().backward()
        torch.testing.assert_close(mine.bias.grad, reference.bias.grad)
