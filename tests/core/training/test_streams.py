"""Residual streams of transformers: what a training removes of them adds nothing any more, and is cut out exactly."""

import copy
from functools import partial

import pytest
import timm
import torch
from torch import nn

import dstbench
from dstbench.api import Infeasible
from fakes.engine import recipe, sgd

SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 10}
vit = partial(timm.create_model, "vit_tiny_patch16_224", **SMALL)
CHASE = {"name": "chase", "scope": "residual", "delta_t": 4, "channel_sparsity": 0.5}
WRITERS = (
    "patch_embed.proj", "blocks.0.attn.proj", "blocks.0.mlp.fc2", "blocks.1.attn.proj", "blocks.1.mlp.fc2",
)  # fmt: skip


def made(storage="masked", lr=1e-3, method=CHASE, model=vit, **settings):
    torch.manual_seed(0)
    model = model()
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.1 if lr else 0)
    return model, dstbench.Sparsifier(
        model, optimizer, method, 0.3, total_steps=40, storage=storage, **settings
    )


def train(model, sparsifier, start, stop):
    for step in range(start, stop):
        draw = torch.Generator().manual_seed(step)
        images, labels = torch.randn(4, 3, 32, 32, generator=draw), torch.randint(10, (4,), generator=draw)
        sparsifier.optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.step()


def gone(sparsifier):
    """The channels of the stream that no layer may write any more."""
    support = sparsifier.support
    rows = [support[name].flatten(1).any(1) for name in WRITERS]
    assert all(torch.equal(row, rows[0]) for row in rows)
    return ~rows[0]


def along(model, path, axis):
    """A tensor with the stream's channels first."""
    return model.state_dict()[path].movedim(axis, 0).flatten(1) if axis else model.state_dict()[path][:, None]


def test_a_vision_transformer_narrows_its_stream_after_normal_training():
    model, sparsifier = made()
    assert [c.stream for c in sparsifier.rules.couplings] == [False, False, True]
    train(model, sparsifier, 0, 40)
    dead, images = gone(sparsifier), torch.randn(4, 3, 32, 32)
    assert 8 <= int(dead.sum()) <= 24
    small = dstbench.compact(model, sparsifier.masks, images)
    assert small.compaction.kept == {}
    assert {name: len(small.compaction.removed[name]) for name in WRITERS} == dict.fromkeys(
        WRITERS, int(dead.sum())
    )
    norms = [f"blocks.{i}.norm{j}" for i in range(2) for j in (1, 2)]
    assert set(small.compaction.narrowed) == {*norms, "norm", "pos_embed", "cls_token"}
    left = 32 - int(dead.sum())
    assert (small.pos_embed.shape, small.cls_token.shape) == ((1, 17, left), (1, 1, left))
    assert (small.blocks[0].attn.qkv.in_features, small.head.in_features) == (left, left)
    with torch.no_grad():
        expected = model.eval()(images)
        assert float((small(images) - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_nothing_but_dead_channels_is_touched_and_at_once():
    """At a learning rate of zero every other entry is what it was; biases of writers and norms are drawn first."""

    def drawn():
        model = vit()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter)
        return model

    model, sparsifier = made(lr=0.0, model=drawn)
    before = copy.deepcopy(model.state_dict())
    step = 0
    while "patch_embed.proj" not in sparsifier.support:
        train(model, sparsifier, step, step + 1)
        step += 1
    assert step < sparsifier.last_planned_update
    dead = gone(sparsifier)
    assert bool(dead.any())
    axes = {"pos_embed": 2, "cls_token": 2} | {f"{name}.bias": 0 for name in WRITERS}
    axes |= {
        f"{norm}.{field}": 0 for norm in sparsifier.rules.couplings[2].norms for field in ("weight", "bias")
    }
    for path, axis in axes.items():
        values = along(model, path, axis)
        assert not bool(values[dead].any()), path
        old = before[path].movedim(axis, 0).flatten(1) if axis else before[path][:, None]
        assert torch.equal(values[~dead], old[~dead]), path
    weights = {f"{name}.weight" for name in sparsifier.layers}
    rest = before.keys() - axes.keys() - weights
    assert {"blocks.0.mlp.fc1.bias", "head.bias", "blocks.1.attn.qkv.bias"} <= rest
    assert all(torch.equal(model.state_dict()[path], before[path]) for path in rest)


def test_checkpoints_continue_and_storages_agree():
    model, sparsifier = made()
    train(model, sparsifier, 0, 30)
    other, resumed = made("compact")
    train(other, resumed, 0, 20)
    saved = copy.deepcopy([other.state_dict(), resumed.optimizer.state_dict(), resumed.state_dict()])
    last, again = made("compact")
    for part, state in zip((last, again.optimizer, again), saved, strict=True):
        part.load_state_dict(state)
    train(last, again, 20, 30)
    assert torch.equal(gone(again), gone(sparsifier))
    assert all(torch.equal(mask, again.masks[name]) for name, mask in sparsifier.masks.items())
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(last.eval()(images), model.eval()(images), rtol=1e-4, atol=1e-5)
    assert not bool(last.pos_embed[..., gone(again)].any())
    written = copy.deepcopy(model.state_dict())
    for tensor in written.values():
        tensor.fill_(1)
    last.load_state_dict(written, strict=False)
    again.enforce()
    assert not bool(last.cls_token[..., gone(again)].any())


class Tokens(nn.Module):
    """Patches and positions, one residual block, and a head: [2, 3, 4, 4] in."""

    def __init__(self, frozen=False):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.places = nn.Parameter(torch.randn(1, 4, 8), requires_grad=not frozen)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(self.last(x).mean(1))


@pytest.mark.parametrize("both", [True, False])
def test_rows_that_a_channel_structure_kills_in_every_writer_silence_their_channel(both):
    torch.manual_seed(0)
    model, images = Tokens(), torch.randn(2, 3, 4, 4)
    method = recipe(structure="channel", init="uniform", grow="random", schedule="never")
    sparsifier = dstbench.Sparsifier(model, sgd(model), method, 0.5, total_steps=9, example_input=images)
    before = copy.deepcopy(model.state_dict())
    masks = {name: torch.ones_like(mask) for name, mask in sparsifier.masks.items()}
    masks["patches"][[1, 4]] = False
    masks["down"][[1, 4] if both else [2]] = False
    sparsifier.set_masks(masks)
    dead = torch.tensor([both and channel in (1, 4) for channel in range(8)])
    assert not bool(model.places[..., dead].any())
    assert torch.equal(model.places[..., ~dead], before["places"][..., ~dead])
    assert torch.equal(model.last.weight[~dead], before["last.weight"][~dead])
    assert not bool(model.last.weight[dead].any())
    small = dstbench.compact(model, masks, images)
    assert small.compaction.removed == ({"patches": (1, 4), "down": (1, 4)} if both else {})


def test_what_is_frozen_keeps_its_stream():
    images = torch.randn(2, 3, 4, 4)
    model = Tokens(frozen=True)
    before = model.places.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(Infeasible, match="no channels of this network"):
        dstbench.Sparsifier(model, optimizer, CHASE, 0.5, total_steps=40, example_input=images)
    assert torch.equal(model.places, before)


def test_a_dense_head_reads_zeros():
    model, sparsifier = made(dense_layers=["@classifier"])
    train(model, sparsifier, 0, 40)
    assert bool(gone(sparsifier).any())
    small = dstbench.compact(model, sparsifier.masks, torch.randn(2, 3, 32, 32))
    assert small.head.in_features == 32 - int(gone(sparsifier).sum())
