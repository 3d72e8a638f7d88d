"""The long form of a transformer's FLOPs: attention counted in full and named; ratios that papers print."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from dstbench.core.cost.cost import cost, counted
from dstbench.core.cost.training import training_cost
from dstbench.registration.registry import registry

CPU = ({}, 64)
BABY = ({"layers": 6, "heads": 6, "dim": 384, "dropout": 0.2}, 256)
GPT3_XL = ({"layers": 24, "heads": 16, "dim": 2048}, 2048)
UNIFORM = {"init": "uniform", "schedule": "never"}


def gpt(case, vocabulary=65):
    settings, tokens = case
    with torch.device("meta"):
        model = registry().build("model", {"name": "gpt", **settings})(
            num_classes=vocabulary, input_shape=(tokens,)
        )
    return model, tokens


def per_token(model, tokens, density):
    """Operations of training on one token. PaLM's 6N has norms' weights in it, as if they were multiplied with."""
    planned = training_cost(model, UNIFORM, density, 1, (tokens,))
    norms = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    extra = 6 * norms
    return [2 * planned.flops(name)[0] / tokens + extra for name in ("mac-attention", "mac")]


# more exact than papers print: 6N + 12LdT, 6N; then sparse over dense by either
TABLE = {
    ("baby", 1.0): (70_958_592, 63_880_704), ("cpu", 1.0): (5_168_640, 4_775_424),
    ("baby", 0.5): (0.5511, 0.5014), ("cpu", 0.5): (0.5435, 0.5060),
    ("baby", 0.2): (0.2818, 0.2023), ("cpu", 0.2): (0.2697, 0.2095),
    ("baby", 0.1): (0.1921, 0.1025), ("cpu", 0.1): (0.1784, 0.1107),
    ("baby", 0.05): (0.1472, 0.0527), ("cpu", 0.05): (0.1327, 0.0613),
}  # fmt: skip


@pytest.mark.parametrize(("size", "density"), TABLE)
def test_training_flops_of_a_token(size, density):
    model, tokens = gpt(BABY if size == "baby" else CPU)
    measured, expected = per_token(model, tokens, density), TABLE[size, density]
    if density == 1:
        assert measured == list(expected)
    else:
        whole = TABLE[size, 1.0]
        assert [m / w for m, w in zip(measured, whole, strict=True)] == pytest.approx(expected, abs=6e-5)


def test_spdfs_ratio():
    """SPDF (arXiv 2303.10464): GPT-3 XL, 75 % static, "2.5x": attention and logits dense, never allocated."""
    model, tokens = gpt(GPT3_XL, vocabulary=50_257)
    planned = training_cost(model, UNIFORM, 0.25, 1, (tokens,))
    assert planned.flops("mac-attention")[1] == 3 * tokens * (
        12 * 2048**2 * 24 + 2 * 24 * 2048**2 + 2048 * 50_257
    )
    assert planned.ratio("mac-attention") == pytest.approx(0.4009, abs=5e-5)
    assert 1 / planned.ratio("mac-attention") == pytest.approx(2.494, abs=5e-4)
    assert 1 / planned.ratio("mac") == pytest.approx(3.24, abs=5e-3)  # attention left out
    sparse, dense = (total - 3 * 24 * 2048 * tokens**2 for total in planned.flops("mac-attention"))
    assert dense / sparse == pytest.approx(2.79, abs=5e-3)  # causal: half of attention's pairs


def torchs(model, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 2


class Math(nn.Module):
    """A model whose attention is written out, for torch's counter doesn't know the CPU's kernel."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return self.model(x)


CIFAR = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "classes", "shape"),
    [("gpt", 65, (64,)), ("llama", 32, (16,)), ("vit", 10, CIFAR), ("deit_tiny", 10, CIFAR)],
)
def test_all_of_it_is_what_torchs_counter_says(name, classes, shape):
    settings = {"layers": 2, "dim": 64, "heads": 2} if name in ("gpt", "llama") else {}
    with torch.device("meta"):
        model = registry().build("model", {"name": name, **settings})(num_classes=classes, input_shape=shape)
        x = torch.zeros(1, *shape, dtype=torch.int64 if len(shape) == 1 else torch.float32)
    model.eval()
    found = cost(model, None, shape, "mac-attention")
    assert found.inference_flops == found.dense_inference_flops == found.all_macs == torchs(Math(model), x)
    assert found.product_flops == sum(found.products.values()) > 0


ATTENTION = 2 * 5 * 7 * 8  # 5 queries, 7 keys, 8 wide


@pytest.mark.parametrize("causal", [False, True])
def test_scaled_dot_products_are_never_nothing(causal):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.kv = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x, y):
            q, k = (f(z).unflatten(-1, (2, 4)).transpose(1, 2) for f, z in ((self.q, x), (self.kv, y)))
            return functional.scaled_dot_product_attention(q, k, k, is_causal=causal)

    found = cost(
        Attention(), None, (), "mac-attention", example_input=(torch.zeros(1, 5, 8), torch.zeros(1, 7, 8))
    )
    assert (found.product_flops, found.macs) == (ATTENTION, 12 * 64)
    assert found.inference_flops == ATTENTION + 12 * 64


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_multihead_attention_is_never_nothing(weights, training):
    layer = nn.MultiheadAttention(8, 2, batch_first=True).train(training)
    example = {"query": torch.zeros(1, 5, 8), "key": torch.zeros(1, 7, 8), "value": torch.zeros(1, 7, 8),
               "need_weights": weights}  # fmt: skip
    found = counted(layer, example_input=example)
    dense, sparse = found.cost(), counted(layer, {"out_proj": 0.5}, example_input=example).cost()
    assert (dense.convention, dense.product_flops) == ("mac-attention", ATTENTION)
    assert dense.inference_flops == ATTENTION + 64 * (5 + 5 + 7 + 7)
    assert sparse.inference_flops == dense.inference_flops - 0.5 * 5 * 64  # attention is never sparse


def test_grouped_queries_cost_as_many_products_as_they_have_heads():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(16, 16), nn.Linear(16, 8)

        def forward(self, x):
            q, k = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k))
            return functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    assert cost(Grouped(), None, (5, 16), "mac-attention").product_flops == 2 * 5 * 5 * 16


def test_networks_without_attention_have_one_convention_less():
    plain = counted(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), None, (3, 2, 2))
    assert plain.conventions == ("mac", "rigl", "rigl-notebook")
    assert plain.cost() == plain.cost("mac")
    assert plain.cost("mac-attention").inference_flops == plain.cost("mac").inference_flops


def test_a_meter_adds_attention_up_for_each_sample():
    model, tokens = gpt(CPU)
    planned = training_cost(model, "dense", 1.0, 5, (tokens,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = cost(model, None, (tokens,), "mac-attention")
    assert planned.flops("mac-attention")[0] == 5 * once.training_flops == 5 * 3 * once.all_macs
    assert planned.flops("mac")[0] == 5 * 3 * once.macs
