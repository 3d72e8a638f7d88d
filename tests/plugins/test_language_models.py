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

BABY = {"layers": 6, "heads": 6, "dim": 384, "dropout": 0.2}

# model, vocabulary, tokens: all parameters, maskable ones, their tensors, tensors that nanoGPT decays and doesn't
COUNTS = {
    "cpu": ({"name": "gpt"}, 65, 64, (804_096, 786_432, 16), (802_944, 18, 1_152, 9)),
    "baby": ({"name": "gpt", **BABY}, 65, 256, (10_745_088, 10_616_832, 24), (10_740_096, 26, 4_992, 13)),
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


SMALL = {"gpt": {"layers": 2, "heads": 2, "dim": 16}}


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
    assert not {"lm_head", "wte"} & set(sparsifier.masks)
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


def test_gpt_sees_no_more_than_its_block():
    with pytest.raises(BadInput, match="at most 8 tokens, got 9"):
        small("gpt")(torch.zeros(1, 9, dtype=torch.int64))


def test_counting_needs_no_example_of_token_ids():
    model = built({"name": "gpt"}, 65, 64)
    assert cost(model, None, (64,)).macs == 64 * (786_432 + 65 * 128)
