"""Compiled kernels against masked dense in float64: shuffled blocks with ragged columns, and unstructured masks."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from dstbench import registry
from dstbench.accel.kernels.compiled import build as native
from dstbench.accel.kernels.compiled.csr import csr_executions
from dstbench.accel.kernels.compiled.ragged import offered, ragged_executions
from dstbench.api import LayerCall, LayerInfo, StrategyError
from dstbench.core.storage.fastest import choose
from fakes.compiled import LAYERS, LINEAR, assert_same, called, condensed, needs_compiler, random_mask


@needs_compiler
@pytest.mark.parametrize("block_size", [1, 3, 16, 20, 64])
@pytest.mark.parametrize("name", LAYERS)
def test_shuffled_blocks_match_masked_dense(name, block_size):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    mask = random_mask(tuple(layer.weight.shape), block_size, 0.3)
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, block_size))
    assert_same(layer, fast, torch.randn(shape))


@needs_compiler
@pytest.mark.parametrize("texts", [32, 33])
def test_outputs_too_large_for_the_caches_and_tokens_of_texts_match(texts):
    """[texts, tokens, in] -> 64 · texts · 512 floats, of which the last chunk may be short."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 512)
    mask = random_mask((512, 64), 64, 0.1)
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, 64))
    assert_same(layer, fast, torch.randn(texts, 65 if texts % 2 else 64, 64))


@needs_compiler
def test_a_bias_alone_can_be_trained():
    """Its gradient: how many tokens there are, 2 · 21, of which the last chunk is short."""
    layer = nn.Linear(13, 37)
    mask = random_mask((37, 13), 16, 0.3)
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, 16))
    fast.weight.requires_grad_(False)
    fast(torch.randn(2, 21, 13)).sum().backward()
    assert fast.bias.grad.tolist() == [42.0] * 37


@needs_compiler
@pytest.mark.parametrize("density", [0.0, 1.0])
@pytest.mark.parametrize("name", ["linear", "3x3", "1x1"])
def test_empty_and_full_layers_match_masked_dense(name, density):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    mask = torch.full(layer.weight.shape, bool(density))
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, 16))
    assert_same(layer, fast, torch.randn(shape))


@needs_compiler
@pytest.mark.parametrize("name", ["3x3", "stride 2", "one dimension"])
def test_whole_in_channels_match_masked_dense(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    mask = random_mask(tuple(layer.weight.shape), 16, 0.3, "channel")
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, 16, "channel"))
    assert_same(layer, fast, torch.randn(shape))


@needs_compiler
def test_values_are_stored_entry_by_entry_a_group_s_rows_side_by_side():
    mask = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]).bool()
    call = LayerCall(LayerInfo("fc", (5, 4), "linear"))
    (execution,) = ragged_executions(call, mask, 2)
    assert execution.positions.tolist() == [[1, 9], [3, 11], [4, 12], [18, -1]]


@needs_compiler
def test_channels_last_inputs_and_gradients_are_taken():
    torch.manual_seed(0)
    layer = nn.Conv2d(13, 37, 3, padding=1)
    mask = random_mask(tuple(layer.weight.shape), 16, 0.3)
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, 16))
    assert_same(layer, fast, torch.randn(3, 13, 11, 7).to(memory_format=torch.channels_last))


@needs_compiler
def test_threads_change_the_result_by_rounding_only():
    torch.manual_seed(0)
    layer = nn.Linear(67, 101)
    mask = random_mask((101, 67), 16, 0.3)
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, 16))
    x, threads = torch.randn(64, 67), torch.get_num_threads()
    grads = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            grads.append(torch.autograd.grad(fast(x).square().sum(), fast.weight)[0])
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(grads[1], grads[0])
    torch.testing.assert_close(grads[2], grads[0])


@needs_compiler
def test_only_the_gradients_asked_for_are_computed():
    torch.manual_seed(0)
    layer = nn.Linear(67, 101)
    mask = random_mask((101, 67), 16, 0.3)
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, 16))
    x = torch.randn(5, 67, requires_grad=True)
    fast.weight.requires_grad_(False)
    fast(x).sum().backward()
    assert fast.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(5, -1))


@needs_compiler
def test_training_with_either_gives_the_same_weights():
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 32, 3, padding=1)
    mask = random_mask((32, 5, 3, 3), 16, 0.3)
    fast = condensed(copy.deepcopy(layer), mask, ragged_executions(called(layer), mask, 16))
    with torch.no_grad():
        layer.weight *= mask
    x, before = torch.randn(8, 5, 7, 7), layer.weight.detach().clone()
    for module in (layer, fast):
        optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
        for _ in range(100):
            optimizer.zero_grad()
            (module(x) - 1).square().mean().backward()
            if module is layer:
                layer.weight.grad *= mask
            optimizer.step()
    assert float((layer.weight.detach() - before).abs().max()) > 0.1
    torch.testing.assert_close(fast.logical(), layer.weight.detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fast.bias, layer.bias, rtol=1e-3, atol=1e-3)


@needs_compiler
def test_the_dispatcher_measures_it():
    torch.manual_seed(0)
    layer = nn.Linear(256, 256)
    structure = registry().build("structure", {"name": "shuffled_block", "block_size": 16})
    mask = random_mask((256, 256), 16, 0.1)
    offers = structure.accelerate(called(layer), mask)
    assert "shuffled-block compiled" in [execution.path for execution in offers]
    choice = choose(layer, called(layer), offers, torch.randn(64, 256))
    assert choice.path in {"masked-dense", *(execution.path for execution in offers)}
    assert (choice.execution is None) == (choice.path == "masked-dense")


@needs_compiler
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.zeros(2, 67, dtype=torch.float64),
            "layer 'layer': expected an input of torch.float32, got torch.float64",
        ),
        (torch.zeros(2, 66), r"expected an input \[..., 67\], got \[2, 66\]"),
    ],
)
def test_what_the_kernel_cant_read_is_refused(x, message):
    layer = nn.Linear(67, 101)
    mask = random_mask((101, 67), 16, 0.3)
    fast = condensed(layer, mask, ragged_executions(called(layer), mask, 16))
    with pytest.raises(StrategyError, match=message):
        fast(x)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": torch.bfloat16}, "float32 on a CPU only, not torch.bfloat16 on cpu"),
        ({"device": torch.device("meta")}, "not torch.float32 on meta"),
        ({"groups": 2, "stride": (1, 1)}, "convolutions of one group"),
        ({"stride": (1, 1, 1)}, "at most two dimensions"),
    ],
)
def test_what_the_kernels_cant_run_isnt_offered(change, reason):
    call = LayerCall(**{"info": LINEAR.info, **change})
    assert reason in offered(call)
    mask = torch.ones(8, 8, dtype=torch.bool)
    assert ragged_executions(call, mask, 4) == []
    assert csr_executions(call, mask) == []


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [(None, "neither g++ nor clang++"), ("false", "false"), ("no-such-compiler", "no-such-compiler")],
)
def test_without_a_compiler_nothing_is_offered_and_the_reason_is_said(
    compiler, reason, tmp_path, monkeypatch
):
    monkeypatch.setattr(native, "_outcome", functools.cache(native._outcome.__wrapped__))
    monkeypatch.setenv("DSTBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    if compiler is None:
        monkeypatch.delenv("CXX", raising=False)
    else:
        monkeypatch.setenv("CXX", compiler)
    assert reason in str(offered(LayerCall(LayerInfo("fc", (8, 8), "linear"))))


@needs_compiler
def test_a_library_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DSTBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_FLAGS", (*native._FLAGS, "-O0"))  # a fifth of the time
    native._built("ragged")
    (library,) = tmp_path.iterdir()
    made = library.stat().st_mtime_ns
    native._built("ragged")
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [made]


@needs_compiler
def test_a_user_without_a_home_has_no_kernels(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "DSTBENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(native.Path, "home", nowhere)
    native._outcome.cache_clear()
    try:
        assert (
            offered(LINEAR) == "no cache directory: Could not determine home directory. Set $DSTBENCH_CACHE"
        )
    finally:
        native._outcome.cache_clear()
