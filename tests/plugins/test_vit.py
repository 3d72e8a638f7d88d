"""Vision transformers: maskable weights, the order of norms, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dstbench.core.network.ownership import owned
from dstbench.errors import BadInput
from dstbench_plugins.models.vit import Block, deit_tiny, vit

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(("factory", "expected"), [(vit, 3_670_016), (deit_tiny, 5_308_416)])
def test_maskable_weights_of_the_blocks(factory, expected):
    with torch.device("meta"):
        layers = owned(factory(10, CIFAR)).sparse
    assert sum(layer.info.numel for name, layer in layers.items() if name.startswith("blocks.")) == expected


def test_smaller_vit_lites():
    with torch.device("meta"):
        six = vit(10, CIFAR, layers=6)
    assert sum(p.numel() for p in six.parameters()) == 3_716_874 - 526_336


def test_a_block_is_the_published_one():
    torch.manual_seed(0)
    block = Block(8, 16, 2, 0.0, 0.0, 0.0).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = functional.layer_norm(x, (8,)).matmul(block.attn.qkv.weight.T).chunk(3, dim=-1)
    mixed = torch.cat(
        [(q[..., h] @ k[..., h].mT / 2).softmax(-1) @ v[..., h] for h in (slice(0, 4), slice(4, 8))], dim=-1
    )
    stream = functional.layer_norm(x + block.attn.proj(mixed), (8,))
    expected = stream + block.fc2(functional.gelu(block.fc1(stream)))
    torch.testing.assert_close(block(x), expected)


def test_stochastic_depth_rises_to_the_last_block():
    with torch.device("meta"):
        model = vit(10, CIFAR, drop_path=0.12)
    assert [block.drop_path.p for block in model.blocks] == pytest.approx([0.02 * i for i in range(7)])


@pytest.mark.parametrize("factory", [vit, deit_tiny])
def test_patches_must_divide_the_image(factory):
    with pytest.raises(BadInput, match="patch: expected a divisor of 30 and 32, got 4"):
        factory(10, (3, 30, 32))
    with pytest.raises(BadInput, match=r"expected images of shape .*, got an input of \[64\]"):
        factory(10, (64,))
    with pytest.raises(ValueError, match="drop_path: expected a fraction"):
        factory(10, (3, 32, 32), drop_path=1.0)
