"""Training without the channels that are gone is that of masked dense, and smaller."""

import pytest
import torch
from torch import nn

from dstbench.errors import BadInput
from fakes.engine import settle
from fakes.storages import (
    CHASE,
    assert_same,
    chain,
    lives,
    resumed,
    sparsify,
    train,
    trained,
)

pytestmark = pytest.mark.usefixtures("always_faster")


def test_compact_training_is_that_of_masked_dense_and_smaller():
    masked, compact = trained("masked", **CHASE), trained("compact", **CHASE)
    assert_same(masked, compact)
    assert len(masked[1].removals) == len(compact[1].removals) > 1
    assert compact[1].arrangement.generation == len(compact[1].removals)
    model, sparsifier = compact
    rows = {"0": 8} | {
        name: int(support.flatten(1).any(1).sum()) for name, support in sparsifier.support.items()
    }
    assert (model[0].out_channels, model[3].in_channels, model[1].num_features) == (rows["0"],) * 3
    assert model[0].weight.shape == (rows["0"], 3, 3, 3)
    assert model[3].weight.shape == (rows["3"], rows["0"], 3, 3)
    assert model[6].weight.shape == (12, rows["3"], 1, 1)
    assert rows["0"] + rows["3"] == 10
    buffers = [sparsifier.optimizer.state[p]["momentum_buffer"].shape == p.shape for p in model.parameters()]
    assert all(buffers)
    smaller = sum(p.numel() for p in model.parameters())
    assert smaller < sum(p.numel() for p in masked[0].parameters())


@pytest.mark.parametrize(
    ("before", "after"),
    [("masked", "compact"), ("compact", "masked"), ("compact", "compact"), ("compact", "condensed")],
)
@pytest.mark.parametrize("step", [1, 6, 11])
def test_a_compact_checkpoint_goes_on_in_either_form(before, after, step):
    whole = trained("masked", **CHASE)
    model = chain()
    options = {key: value for key, value in CHASE.items() if key != "make"}
    sparsifier = sparsify(model, before, **options)
    train(model, sparsifier, step)
    assert_same(whole, resumed(lives(model, sparsifier), after, **CHASE))


class Residual(nn.Module):
    """Two blocks on one stream, a depthwise convolution in one; 3 x 8 x 8 in, 4 logits out."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.up, self.up_norm = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.depthwise, self.deep_norm = (
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
            nn.BatchNorm2d(12),
        )
        self.down, self.down_norm = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.conv_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        inner = torch.relu(self.up_norm(self.up(x)))
        inner = torch.relu(self.deep_norm(self.depthwise(inner)))
        x = torch.relu(x + self.down_norm(self.down(inner)))
        x = torch.relu(x + self.conv_norm(self.conv(x)))
        return self.head(self.pool(x)).flatten(1)


STREAM = {
    "structure": {**CHASE["structure"], "scope": "residual", "channel_sparsity": 0.4, "floor": 1.0},
    "make": lambda seed=0: settle(Residual(), seed),
    "schedule": CHASE["schedule"],
}


def test_a_residual_stream_and_a_depthwise_convolution_shrink_as_they_train():
    masked, compact = trained("masked", **STREAM), trained("compact", **STREAM)
    assert_same(masked, compact)
    model, sparsifier = compact
    assert sparsifier.removals
    stream, inner = model.stem.out_channels, model.up.out_channels
    assert stream < 8 or inner < 12
    assert (model.norm.num_features, model.up.in_channels, model.conv.out_channels) == (stream,) * 3
    assert (model.down.out_channels, model.head.in_channels, model.conv_norm.num_features) == (stream,) * 3
    depthwise = model.depthwise
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (inner,) * 3
    assert depthwise.weight.shape == (inner, 1, 3, 3)
    assert_same(compact, resumed(lives(*compact), "compact", **STREAM))


def test_channels_that_are_cut_out_do_not_come_back():
    model, options = chain(), {key: value for key, value in CHASE.items() if key != "make"}
    sparsifier = sparsify(model, "compact", **options)
    train(model, sparsifier, 1)
    saved = lives(model, sparsifier)
    train(model, sparsifier, 24, skip=1)
    with pytest.raises(BadInput, match=r"channels of .* cut out here: load it into a new model"):
        sparsifier.load_state_dict(saved["masks"])
