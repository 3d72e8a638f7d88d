"""Quotas of attention's heads: whose rows are whose, and that each keeps the same share."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import dstbench
from dstbench.api import Heads, LayerInfo
from dstbench.core.engine.structures import as_structure
from dstbench.core.network.layers import maskable_layers
from dstbench.testing import check_structure
from dstbench_plugins.structure.unstructured import PerHead, unstructured
from fakes.engine import bits, recipe, sgd, view

STRUCTURE = as_structure(PerHead())


def projection(scores, mask=None):
    return replace(
        view(scores, mask), info=LayerInfo("qkv", tuple(scores.shape), "linear", heads=Heads(2, 3))
    )


def test_heads_are_rows_of_each_third():
    """d = 4, two heads of two rows: q0 q0 q1 q1 k0 k0 k1 k1 v0 v0 v1 v1."""
    assert Heads(2, 3).of_rows(12).tolist() == [0, 0, 1, 1] * 3
    assert Heads(2).of_rows(4).tolist() == [0, 0, 1, 1]


# d = 2 and two heads of one row: rows q0, q1, k0, k1, v0, v1. Head 1 has the larger scores.
SCORES = torch.tensor([[1.0, 5], [20, 30], [4, 2], [25, 22], [3, 6], [24, 21]])


def test_each_head_takes_its_best_by_hand():
    filled = STRUCTURE.fill(projection(SCORES), SCORES, 6)
    assert torch.equal(filled, bits("01", "01", "10", "10", "01", "10"))  # 6 5 4, and 30 25 24
    assert STRUCTURE.fill(projection(SCORES), SCORES, 3).sum(1).tolist() == [0, 1, 0, 1, 1, 0]  # 30 25, and 6
    assert as_structure(unstructured()).fill(projection(SCORES), SCORES, 6).sum(1).tolist() == [
        0,
        2,
        0,
        2,
        0,
        2,
    ]


def test_each_head_loses_its_weakest_and_gets_as_many_back_by_hand():
    full = torch.ones_like(SCORES).bool()
    kept = STRUCTURE.shrink(projection(SCORES, full), SCORES, 8)
    assert sorted(SCORES[kept].tolist()) == [3, 4, 5, 6, 22, 24, 25, 30]
    again = STRUCTURE.fill(projection(SCORES, kept), -SCORES, 10)
    assert sorted(SCORES[again & ~kept].tolist()) == [1, 20]


def test_what_may_not_be_taken_leaves_no_head_ahead():
    """Head 0 has two positions left: head 1 gets three at most."""
    scores = SCORES.clone()
    scores[0], scores[2] = -torch.inf, -torch.inf
    layer = projection(scores)
    assert STRUCTURE.allowed(layer, scores) == 5
    filled = STRUCTURE.fill(layer, scores, 12)
    assert filled.sum(1).tolist() == [0, 1, 0, 1, 2, 1]
    assert STRUCTURE.is_legal(layer.info, filled)
    assert not STRUCTURE.is_legal(layer.info, SCORES > 10)
    assert STRUCTURE.capacity(layer.info) == 12


def test_the_kit_finds_nothing():
    assert check_structure(PerHead()) == []


class Attention(nn.Module):
    """Rows of queries for four heads, of keys and values for two."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.num_kv_heads = 4, 2
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.o_proj = nn.Linear(8, 8)


class Alike(nn.Module):
    """Nobody says how many heads there are."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        (nn.MultiheadAttention(8, 2), {"in_proj_weight": Heads(2, 3)}),
        (nn.MultiheadAttention(8, 2, kdim=4), {f"{part}_proj_weight": Heads(2) for part in "qkv"}),
        (Attention(), {"q_proj": Heads(4), "k_proj": Heads(2), "v_proj": Heads(2)}),
        (Alike(), {}),
        (
            timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=3),
            {"blocks.0.attn.qkv": Heads(3, 3)},
        ),
    ],
    ids=["packed", "separate", "fewer keys", "unknown", "timm"],
)
def test_which_layers_announce_heads(model, heads):
    found = {name: layer.info.heads for name, layer in maskable_layers(model).items()}
    assert {name: each for name, each in found.items() if each is not None} == heads


@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_training_keeps_every_head_at_the_same_share(grow):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Flatten(), nn.Linear(80, 4)
    )
    method = recipe("constant", 2, structure={"name": "unstructured", "heads": "quota"}, grow=grow)
    sparsifier = dstbench.Sparsifier(model, sgd(model), method, 0.23, total_steps=20)
    packed = "0.self_attn.in_proj_weight"
    assert sparsifier.fallbacks.keys() == sparsifier.layers.keys() - {packed}
    for _ in range(9):
        held = sparsifier.masks[packed].view(3, 4, 4, 16).sum((0, 2, 3))
        assert int(held.sum()) == sparsifier.budget[packed]
        assert int(held.max() - held.min()) <= 1
        sparsifier.optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 5, 16)), torch.randint(4, (8,))).backward()
        sparsifier.step()
    assert sparsifier.updates > 2
    assert sparsifier.density == round(0.23 * sparsifier.size) / sparsifier.size
