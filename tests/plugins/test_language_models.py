"""Models of text: parameters to the weight, causality, and that they learn."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dstbench.core.cost.cost import cost
from dstbench.core.network.ownership import owned
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.trial.small_dense import narrow
from dstbench_plugins.models.gpt import gpt
from dstbench_plugins.models.llama import llama, rotation

LLAMA_1B = {"layers": 24, "heads": 32, "dim": 2048, "hidden": 5461}
BABY = {"layers": 6, "heads": 6, "dim": 384, "dropout": 0.2}

# model, vocabulary, tokens: all parameters, maskable ones, their tensors, tensors that nanoGPT decays and doesn't
COUNTS = {
    "cpu": ({"name": "gpt"}, 65, 64, (804_096, 786_432, 16), (802_944, 18, 1_152, 9)),
    "baby": ({"name": "gpt", **BABY}, 65, 256, (10_745_088, 10_616_832, 24), (10_740_096, 26, 4_992, 13)),
    "60M": ({"name": "llama"}, 32_000, 256, (58_073_600, 25_296_896, 56), (58_064_896, 58, 8_704, 17)),
    "130M": (
        {"name": "llama-130m"},
        32_000,
        256,
        (134_105_856, 84_934_656, 84),
        (134_086_656, 86, 19_200, 25),
    ),
    "1B": (
        {"name": "llama", **LLAMA_1B},
        32_000,
        256,
        (1_339_082_752, 1_207_910_400, 168),
        (1_338_982_400, 170, 100_352, 49),
    ),
}


def built(spec, vocabulary, tokens, device="meta"):
    with torch.device(device):
        return registry().build("model", spec)(num_classes=vocabulary, input_shape=(tokens,))


@pytest.mark.parametrize("case", COUNTS)
def test_parameters_to_the_weight(case):
    spec, vocabulary, tokens, expected, (decayed, matrices, others, vectors) = COUNTS[case]
    model = built(spec, vocabulary, tokens)
    sparse = owned(model).sparse.values()
    parameters = list(model.parameters())
    assert (
        sum(p.numel() for p in parameters), sum(layer.info.numel for layer in sparse), len(sparse)
    ) == expected  # fmt: skip
    assert [(sum(p.numel() for p in some), len(some)) for some in (
        [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]
    )] == [(decayed, matrices), (others, vectors)]  # fmt: skip


def test_gpt_starts_as_nanogpt():
    torch.manual_seed(0)
    model = gpt(65, (64,), layers=2, heads=2, dim=64)
    assert model.lm_head.weight is model.wte.weight
    for weight, std in ((model.wte.weight, 0.02), (model.h[0].attn.c_attn.weight, 0.02),
                        (model.h[1].attn.c_proj.weight, 0.01), (model.h[0].mlp.c_proj.weight, 0.01)):  # fmt: skip
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.05)
    assert {norm.eps for norm in (model.ln_f, model.h[0].ln_1)} == {1e-5}


def small(name):
    torch.manual_seed(0)
    return registry().build("model", {"name": name, **SMALL[name]})(num_classes=11, input_shape=(8,))


SMALL = {
    "gpt": {"layers": 2, "heads": 2, "dim": 16},
    "llama": {"layers": 2, "heads": 2, "dim": 16, "hidden": 40},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_later_token_changes_no_earlier_logit(name):
    model = small(name).eval()
    ids = torch.randint(0, 11, (2, 8))
    before = model(ids)
    for changed in range(1, 8):
        other = ids.clone()
        other[:, changed] = (ids[:, changed] + 1) % 11
        after = model(other)
        assert torch.equal(before[:, :changed], after[:, :changed])
        assert not torch.allclose(before[:, changed:], after[:, changed:], atol=1e-4)
    torch.testing.assert_close(model(ids[:, :5]), before[:, :5])  # shorter ones


@pytest.mark.parametrize("name", SMALL)
def test_sparse_training_learns_and_leaves_embeddings_dense(name):
    model = small(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sparsifier = Sparsifier(model, optimizer, {"name": "rigl", "delta_t": 2}, 0.5, total_steps=12)
    assert not {"lm_head", "wte", "embed_tokens"} & set(sparsifier.masks)
    ids = torch.randint(0, 11, (16, 8), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        sparsifier.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert losses[-1] < 0.9 * losses[0]
    assert sum(sparsifier.active.values()) == round(0.5 * sparsifier.size)


@pytest.mark.parametrize("name", SMALL)
def test_a_narrower_one_holds_as_many_weights(name):
    factory = registry().build("model", {"name": name, **SMALL[name] | {"dim": 128, "heads": 4}})
    with torch.device("meta"):
        whole = sum(p.numel() for p in factory(num_classes=11, input_shape=(8,)).parameters())
        thin = narrow(factory, 11, (8,), whole // 4)
    assert sum(p.numel() for p in thin.parameters()) == pytest.approx(whole // 4, rel=0.15)


@pytest.mark.parametrize("name", SMALL)
def test_what_they_refuse(name):
    factory = registry().build("model", {"name": name, **SMALL[name]})
    with pytest.raises(BadInput, match=r"token ids of shape \[tokens\], got an input of \[3, 32, 32\]"):
        factory(num_classes=10, input_shape=(3, 32, 32))
    odd = registry().build("model", {"name": name, "dim": 15, "heads": 2})
    with pytest.raises(BadInput, match="dim: expected a multiple of heads"):
        odd(num_classes=10, input_shape=(8,))
    for wrong in ({"heads": 0}, {"layers": 0}, {"hidden" if name == "llama" else "dropout": -1}):
        factory = registry().build("model", {"name": name, **SMALL[name], **wrong})
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected"):
            factory(num_classes=10, input_shape=(8,))


def test_gpt_sees_no_more_than_its_block():
    with pytest.raises(BadInput, match="at most 8 tokens, got 9"):
        small("gpt")(torch.zeros(1, 9, dtype=torch.int64))


def test_rotary_positions_turn_complex_numbers():
    x = torch.randn(3, 5, 8, dtype=torch.float64)  # 3 heads, 5 positions
    pairs = torch.complex(x[..., :4], x[..., 4:])
    angles = [[t / 10_000 ** (2 * i / 8) for i in range(4)] for t in range(5)]
    expected = torch.view_as_real(pairs * torch.exp(1j * torch.tensor(angles, dtype=torch.float64)))
    turned = rotation(5, 8, torch.device("cpu"))(x)
    torch.testing.assert_close(turned, expected.movedim(-1, 2).flatten(2), rtol=1e-5, atol=1e-5)


def test_llama_agrees_with_its_formula():
    """One block of one head by matrices, as the papers write it."""
    torch.manual_seed(0)
    model = llama(7, (4,), layers=1, heads=1, dim=4, hidden=6).double()
    ids, block = torch.tensor([[3, 1, 4, 1]]), model.layers[0]

    def normed(x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    x = model.embed_tokens.weight[ids[0]]
    turn = rotation(4, 4, torch.device("cpu"))
    q, k, v = (normed(x) @ p.weight.T for p in (block.self_attn.q_proj, block.self_attn.k_proj,
                                                 block.self_attn.v_proj))  # fmt: skip
    scores = turn(q) @ turn(k).T / 2 + torch.full((4, 4), -torch.inf).triu(1)
    x = x + scores.softmax(-1) @ v @ block.self_attn.o_proj.weight.T
    gate, up = (normed(x) @ p.weight.T for p in (block.mlp.gate_proj, block.mlp.up_proj))
    x = x + (gate * gate.sigmoid() * up) @ block.mlp.down_proj.weight.T
    expected = normed(x) @ model.lm_head.weight.T
    torch.testing.assert_close(model(ids)[0], expected, rtol=1e-5, atol=1e-8)


def test_counting_needs_no_example_of_token_ids():
    model = built({"name": "gpt"}, 65, 64)
    assert cost(model, None, (64,)).macs == 64 * (786_432 + 65 * 128)
