"""Layers that compiled kernels are tried on, and their comparison with masked dense."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dstbench.accel.kernels.compiled.ragged import offered
from dstbench.api import Execution, LayerCall, LayerInfo
from dstbench.core.storage.condensed_layer import CondensedLayer, gather, layer_call

LINEAR = LayerCall(LayerInfo("fc", (8, 8), "linear"))
needs_compiler = pytest.mark.skipif(offered(LINEAR) is not None, reason=f"no kernels here: {offered(LINEAR)}")


def random_mask(shape: tuple[int, ...], block_size: int, density: float, columns: str = "entry") -> Tensor:
    """Groups of scattered rows with column lists of very different lengths; the second one is empty."""
    draw = torch.Generator().manual_seed(sum(shape) + block_size)
    groups = -(-shape[0] // block_size)
    width = torch.Size(shape[2:]).numel() if columns == "channel" else 1
    share = torch.rand(groups, 1, generator=draw) * 2 * density if density < 1 else torch.ones(groups, 1)
    support = torch.rand(groups, torch.Size(shape[1:]).numel() // width, generator=draw) < share
    if groups > 2 and density < 1:
        support[1] = False
    mask = torch.empty(shape[0], support.shape[1], dtype=torch.bool)
    mask[torch.randperm(shape[0], generator=draw)] = support.repeat_interleave(block_size, 0)[: shape[0]]
    return mask.repeat_interleave(width, 1).view(shape)


def called(layer: nn.Module, training: bool = True) -> LayerCall:
    kind = "linear" if isinstance(layer, nn.Linear) else "conv"
    info = LayerInfo("layer", tuple(layer.weight.shape), kind)
    call = layer_call(layer, info, device=torch.device("cpu"), dtype=torch.float32, training=training)
    assert call is not None
    return call


def condensed(layer: nn.Module, mask: Tensor, executions: Sequence[Execution]) -> CondensedLayer:
    with torch.no_grad():
        layer.weight *= mask
    (execution,) = executions
    assert torch.equal(
        execution.positions[execution.positions >= 0].sort().values, mask.flatten().nonzero()[:, 0]
    )
    return CondensedLayer(layer, called(layer), execution)


def assert_same(layer: nn.Module, fast: CondensedLayer, x: Tensor) -> None:
    """Output, input, weight and bias gradients, to 1e-5 of the largest; and the same bits when run again."""
    positions = fast.execution.positions
    dense = copy.deepcopy(layer).double()
    mine, other = x.clone().requires_grad_(), x.double().requires_grad_()
    expected, got = dense(other), fast(mine)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    right = torch.autograd.grad(expected, [other, *dense.parameters()], gradient.double())
    left = torch.autograd.grad(got, [mine, *fast.parameters()], gradient)
    right = (right[0], gather(right[1], positions), *right[2:])
    for a, b in zip((got, *left), (expected, *right), strict=True):
        assert a.shape == b.shape
        assert a.dtype == torch.float32
        if b.numel():
            torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * float(b.detach().abs().max()))
    again = fast(mine)
    for a, b in zip(
        (again, *torch.autograd.grad(again, [mine, *fast.parameters()], gradient)), (got, *left), strict=True
    ):
        assert torch.equal(a, b)


LAYERS = {
    "linear": (lambda: nn.Linear(67, 101), (37, 67)),
    "linear of a whole number of vectors": (lambda: nn.Linear(128, 192), (128, 128)),
    "linear, one image, no bias": (lambda: nn.Linear(67, 101, bias=False), (1, 67)),
    "linear of sequences": (lambda: nn.Linear(67, 101), (5, 7, 67)),
    "3x3": (lambda: nn.Conv2d(13, 37, 3, padding=1), (3, 13, 11, 7)),
    "3x3 on whole vectors": (lambda: nn.Conv2d(13, 64, 3, padding=1, bias=False), (2, 13, 16, 16)),
    "3x3 on tiny images": (lambda: nn.Conv2d(13, 37, 3, padding=1), (19, 13, 2, 2)),
    "stride 2": (lambda: nn.Conv2d(13, 37, 3, stride=2, padding=1), (3, 13, 11, 7)),
    "stride 2, no bias, batch 1": (lambda: nn.Conv2d(13, 37, 3, stride=2, bias=False), (1, 13, 19, 23)),
    "dilation": (lambda: nn.Conv2d(13, 37, 3, padding=2, dilation=2), (3, 13, 11, 7)),
    "everything uneven": (
        lambda: nn.Conv2d(7, 37, (5, 2), stride=(3, 2), padding=(3, 1), dilation=(2, 3)),
        (17, 7, 23, 19),
    ),
    "1x1": (lambda: nn.Conv2d(13, 37, 1), (3, 13, 14, 14)),
    "1x1, stride 2": (lambda: nn.Conv2d(13, 37, 1, stride=2), (3, 13, 11, 11)),
    "1x1, padded": (lambda: nn.Conv2d(13, 37, 1, padding=1), (3, 13, 9, 9)),
    "padding wider than the image": (lambda: nn.Conv2d(5, 17, 3, padding=4, dilation=3), (2, 5, 2, 1)),
    "one dimension": (lambda: nn.Conv1d(13, 37, 3, stride=2, padding=1), (3, 13, 41)),
}
