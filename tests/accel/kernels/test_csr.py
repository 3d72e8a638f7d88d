"""Unstructured masks in the compiled kernels, and 2:4 ones where there is no sparse tensor core."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstbench import registry
from dstbench.accel.kernels.compiled.csr import csr_executions
from dstbench.accel.kernels.semi_structured import semi_structured_executions
from dstbench.api import LayerCall, LayerInfo
from dstbench.core.engine.structures import as_structure
from fakes.compiled import LAYERS, assert_same, called, condensed, needs_compiler


@needs_compiler
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_unstructured_masks_match_masked_dense(name, density):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    mask = torch.rand(layer.weight.shape) < density
    mask[3] = False  # a row without weights
    fast = condensed(layer, mask, csr_executions(called(layer), mask))
    assert_same(layer, fast, torch.randn(shape))


@needs_compiler
def test_values_are_stored_in_row_major_order():
    mask = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
    (execution,) = csr_executions(LayerCall(LayerInfo("fc", (3, 4), "linear")), mask)
    assert execution.positions.tolist() == [1, 3, 8, 11]


@needs_compiler
def test_the_unstructured_structure_offers_it():
    structure = registry().build("structure", "unstructured")
    assert as_structure(structure).structure is structure
    assert repr(structure) == "Unstructured()"
    layer = nn.Linear(67, 101)
    mask = torch.rand(101, 67) < 0.05
    fast = condensed(layer, mask, structure.accelerate(called(layer), mask))
    assert_same(layer, fast, torch.randn(8, 67))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_of_four_isnt_offered_on_a_cpu(training, dtype):
    structure = as_structure(registry().build("structure", {"name": "n_of_m", "n": 2, "m": 4}))
    mask = torch.tensor([True, False, False, True]).repeat(64, 32)
    call = LayerCall(LayerInfo("fc", (64, 128), "linear"), dtype=dtype, training=training)
    assert list(structure.accelerate(call, mask)) == []


@pytest.mark.parametrize(
    ("capability", "shape", "change", "count"),
    [
        ((8, 0), (64, 128), {}, 1),
        ((7, 5), (64, 128), {}, 0),
        ((8, 0), (63, 128), {}, 0),
        ((8, 0), (64, 96), {}, 0),
        ((8, 0), (64, 128, 1, 1), {}, 0),
        ((8, 0), (64, 128), {"training": True}, 0),
        ((8, 0), (64, 128), {"dtype": torch.float32}, 0),
    ],
)
def test_two_of_four_is_offered_to_what_sparse_tensor_cores_take(
    capability, shape, change, count, monkeypatch
):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    info = LayerInfo("fc", shape, "linear")
    call = LayerCall(
        **{"info": info, "device": torch.device("cuda"), "dtype": torch.float16, "training": False, **change}
    )
    assert len(semi_structured_executions(call, torch.ones(shape, dtype=torch.bool))) == count
