"""Lent memory: used again once nothing refers to it, and never before."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import nn

from dstbench.accel.kernels.groups import Groups, to_mask
from dstbench.accel.kernels.row_groups import row_group_executions
from dstbench.accel.kernels.stock import workspace
from dstbench.accel.kernels.stock.workspace import Pool
from dstbench.api import LayerInfo
from dstbench.core.storage.condensed_layer import CondensedLayer, layer_call

MEGA = 1 << 18  # floats in a mebibyte


@pytest.fixture
def pool(monkeypatch):
    """The pool that layers use, with nothing in it yet."""
    pool = Pool()
    monkeypatch.setattr(workspace, "empty", pool.empty)
    return pool


def floats(pool, count=MEGA):
    return pool.empty((count,), torch.float32)


def test_memory_comes_back_with_the_last_view_of_it():
    pool = Pool()
    first = floats(pool)
    address, view, storage = first.data_ptr(), first[5:], first.untyped_storage()
    del first
    other = floats(pool)
    assert other.data_ptr() != address
    del view
    assert floats(pool).data_ptr() != address
    del storage
    assert address in pool.idle
    lent = [floats(pool) for _ in range(3)]
    assert address in [tensor.data_ptr() for tensor in lent]
    assert len({tensor.data_ptr() for tensor in (other, *lent)}) == 4


def test_only_memory_of_about_the_size_is_lent():
    pool = Pool()
    held = floats(pool, 4 * MEGA)
    address = held.data_ptr()
    del held
    assert floats(pool, 2 * MEGA - 1).data_ptr() != address
    assert floats(pool, 3 * MEGA).data_ptr() == address


def test_what_is_idle_longest_goes_where_too_much_is():
    pool = Pool(idle=2 << 20)
    held = [floats(pool) for _ in range(4)]
    addresses = [tensor.data_ptr() for tensor in held]
    for _ in range(4):
        del held[0]
    last = floats(pool)
    assert last.data_ptr() == addresses[3]
    assert list(pool.idle) == addresses[1:3]


def test_a_tensor_outlives_its_pool():
    pool = Pool()
    tensor = floats(pool).fill_(3)
    del pool
    gc.collect()
    assert bool((tensor == 3).all())


def test_memory_format_and_alignment():
    tensor = Pool().empty((4, 64, 32, 64), torch.float32, torch.channels_last)
    assert tensor.shape == (4, 64, 32, 64)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert tensor.data_ptr() % 64 == 0
    assert not tensor._is_view()


def test_threads_never_hold_the_same_memory():
    pool, wrong = Pool(), []

    def work(number):
        for _ in range(200):
            mine = floats(pool).fill_(number)
            again = floats(pool).fill_(-number)
            if not (bool((mine == number).all()) and bool((again == -number).all())):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 8 <= len(pool.idle) <= 12  # each thread holds up to three at a time, and uses them again


def layer_and_input(kind):
    """A condensed layer whose output and input gradient are large enough to be lent memory, for each execution."""
    torch.manual_seed(0)
    layer, x = {
        "linear": (nn.Linear(1024, 1024), torch.randn(512, 1024)),
        "1x1": (nn.Conv2d(64, 64, 1), torch.randn(8, 64, 32, 32)),
        "3x3": (nn.Conv2d(64, 64, 3, padding=1), torch.randn(8, 64, 32, 32)),
    }[kind]
    shape = tuple(layer.weight.shape)
    groups, width = shape[0] // 16, shape[1] // 8
    columns = torch.stack([torch.randperm(shape[1])[:width].sort().values for _ in range(groups)])
    ptr = torch.arange(groups + 1) * width
    mask = to_mask(Groups(torch.randperm(shape[0]), ptr, columns.flatten().int()), shape, 16, "channel")
    with torch.no_grad():
        layer.weight.mul_(mask)
    info = LayerInfo("layer", shape, "conv" if x.dim() == 4 else "linear")
    call = layer_call(layer, info, device=x.device, dtype=x.dtype, training=True)
    offered = [
        each for each in row_group_executions(call, mask, 16, "channel") if "compiled" not in each.path
    ]
    assert offered
    return [CondensedLayer(layer, call, execution) for execution in offered], x.requires_grad_()


KINDS = pytest.mark.parametrize("kind", ["linear", "1x1", "3x3"])


@KINDS
def test_a_layers_outputs_share_memory_only_one_after_another(kind, pool):
    layers, x = layer_and_input(kind)
    for layer in layers:
        with torch.no_grad():
            first, second = layer(x), layer(-x)
            assert first.data_ptr() != second.data_ptr()
            kept, address = first.clone(), first.data_ptr()
            del first
            again = layer(x)
            assert again.data_ptr() == address
            assert torch.equal(again, kept)


@KINDS
def test_what_a_graph_saves_stays_until_the_graph_is_gone(kind, pool):
    layers, x = layer_and_input(kind)
    for layer in layers:
        out = layer(x)
        address, expected = out.data_ptr(), 2 * out.detach().sum(dtype=torch.float64)
        squared = (out * out).sum()  # saves the output
        del out
        others = [layer(-x) for _ in range(3)]
        assert address not in [other.data_ptr() for other in others]
        (gradient,) = torch.autograd.grad(squared, layer.bias)
        assert float(gradient.sum(dtype=torch.float64)) == pytest.approx(float(expected), rel=1e-3)
        del squared, others
        assert address in pool.idle


@KINDS
def test_gradients_of_two_backward_passes_are_kept_apart(kind, pool):
    layers, x = layer_and_input(kind)
    for layer in layers:
        out = layer(x)
        one, two = (
            torch.autograd.grad(out, x, torch.full_like(out, value), retain_graph=True)[0]
            for value in (1.0, 2.0)
        )
        torch.testing.assert_close(2 * one, two)
        assert one.data_ptr() != two.data_ptr()
        (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


@KINDS
def test_memory_comes_back_after_an_error(kind, pool):
    layers, x = layer_and_input(kind)

    def fail(layer):
        out = layer(x)
        raise ZeroDivisionError(out.data_ptr())

    for layer in layers:
        with pytest.raises(ZeroDivisionError) as caught:
            fail(layer)
        address = caught.value.args[0]
        assert address not in pool.idle  # the traceback still has it
        del caught
        gc.collect()
        assert address in pool.idle
