"""Which dead channels could be cut out exactly: those of which nothing is alive, and nothing but zero is read."""

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from torch import nn

from dstbench.accel.compact import compact
from dstbench.core.cost.cost import cost
from dstbench.core.network.channels import channels, removable
from dstbench.core.network.couplings import couplings
from dstbench.errors import BadInput


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


class Residual(nn.Module):
    """stem -> (conv1 -> conv2) + identity -> head, with the functional spellings of relu and pooling."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv1, self.conv2 = (nn.Conv2d(i, 6, 3, padding=1, bias=False) for i in (3, 6, 6))
        self.bn = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        inside = nn.functional.max_pool2d(torch.relu(self.bn(self.conv1(x))), 1)
        x = nn.functional.relu(x + self.conv2(inside))
        return self.head(x.mean((2, 3)))


def masks_with_dead_rows(model, dead):
    """Full masks but for the dead rows of each layer."""
    masks = {
        name: torch.ones_like(module.weight, dtype=torch.bool)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    for name, rows in dead.items():
        masks[name][rows] = False
    return masks


def found(model, dead):
    rows = removable(model, masks_with_dead_rows(model, dead)).rows
    return {name: value.nonzero().flatten().tolist() for name, value in rows.items()}


def test_dead_rows_of_a_chain_can_go():
    assert found(chain(), {"0": [1, 5], "3": [2]}) == {"0": [1, 5], "3": [2]}
    assert found(chain(), {}) == {}


def test_a_chain_knows_its_norms_and_consumers():
    [first, second] = couplings(chain(), ("0", "3", "7"))
    assert (first.producers, first.norms, first.consumers) == (("0",), ("1",), ("3",))
    assert (second.producers, second.norms, second.consumers) == (("3",), (), ("7",))


def test_a_dead_row_that_still_sends_a_constant_stays():
    model = chain()
    with torch.no_grad():
        model[1].bias[5] = 0.5
    assert found(model, {"0": [1, 5]}) == {"0": [1]}
    model[1].running_mean[1] = -0.5
    assert found(model, {"0": [1, 5]}) == {}


def test_a_row_that_nobody_reads_can_go_whatever_it_sends():
    """Its norm and bias are as they were, and it may even have weights: all columns that it feeds are dead."""
    model = chain()
    with torch.no_grad():
        model[1].bias.fill_(0.5)
    masks = masks_with_dead_rows(model, {"0": [1]})
    masks["3"][:, [1, 4]] = False
    assert removable(model, masks).rows["0"].nonzero().flatten().tolist() == [1, 4]
    masks["3"][2, 4, 1, 1] = True
    assert removable(model, masks).rows["0"].nonzero().flatten().tolist() == [1]
    del masks["3"]  # unmasked, it reads everything
    assert "0" not in removable(model, masks).rows


def test_behind_a_flatten_a_row_goes_when_all_its_columns_are_dead():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    masks = masks_with_dead_rows(model, {})
    masks["3"][:, 4:9] = False  # the columns of channel 1, and one of channel 2
    assert removable(model, masks).rows["0"].tolist() == [False, True, False, False]
    model[0].bias.data.fill_(1.0)
    small = compact(model, masks, torch.randn(2, 3, 4, 4))
    assert (small[0].out_channels, small[3].in_features) == (3, 12)


def test_a_consumer_used_twice_keeps_its_columns():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.two = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.two(self.one(x)) + self.two(self.other(x))

    model = Shared()
    assert channels(model).blocked("one") == channels(model).blocked("other") == "two runs more than once"
    assert found(model, {"one": [0]}) == {}


@pytest.mark.parametrize("place", [0, 1])
def test_transposed_convolutions_stay(place):
    layers = [nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False)]
    layers[place] = nn.ConvTranspose2d(4, 4, 3, bias=False)
    assert "transposed" in channels(nn.Sequential(*layers)).blocked("0")


def test_classes_are_not_channels():
    assert found(chain(), {"7": [0]}) == {}


def test_a_wholly_dead_layer_keeps_one_row_and_so_does_what_it_feeds():
    assert found(chain(), {"0": list(range(8))}) == {"0": list(range(1, 8)), "3": [1, 2, 3]}


def test_a_stream_goes_from_all_that_add_to_it_or_from_none():
    model = Residual()
    stream = {"stem": [0, 3], "conv2": [3, 5]}
    assert found(model, {**stream, "conv1": [1, 2]}) == {"stem": [3], "conv1": [1, 2], "conv2": [3]}
    reasons = removable(model, masks_with_dead_rows(model, stream)).kept()
    assert reasons == {
        "stem": "conv2 sends into the same channels",
        "conv2": "stem sends into the same channels",
    }
    both = next(
        each for each in couplings(model, ("stem", "conv1", "conv2", "head")) if "stem" in each.producers
    )
    assert (both.producers, both.norms, both.consumers) == (("stem", "conv2"), (), ("conv1", "head"))


class Concatenated(nn.Module):
    """Two layers side by side, behind one norm, and each also alone."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False)
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1)

    def forward(self, x):
        return self.last(torch.relu(self.norm(torch.cat([self.one(x), self.two(x)], 1))))


def test_channels_side_by_side_go_one_by_one():
    model = Concatenated()
    model.norm.bias.data[1] = 1.0
    masks = masks_with_dead_rows(model, {"one": [1, 3], "two": [0]})
    assert found(model, {"one": [1, 3], "two": [0]}) == {"one": [3], "two": [0]}
    assert removable(model, masks).columns["last"].nonzero().flatten().tolist() == [3, 4]
    assert removable(model, masks).kept() == {"one": "last pads the constant that they send"}
    assert couplings(model, ("one", "two", "last")) == ()


def test_whole_groups_go_and_parts_of_them_stay():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 5, 1),
    )
    assert found(model, {"0": [2, 3, 4]}) == {"0": [2, 3], "2": [1]}
    assert found(model, {"2": [0]}) == {"0": [0, 1], "2": [0]}  # what its group reads goes to nobody
    small = compact(model, masks_with_dead_rows(model, {"0": [2, 3, 4], "2": [0]}), torch.randn(2, 3, 8, 8))
    assert (small[2].groups, small[2].in_channels, small[2].out_channels, small[3].in_channels) == (
        2,
        4,
        2,
        2,
    )


class Gated(nn.Module):
    """A squeeze-and-excitation: its sigmoid of zero is a half, but it only ever meets a product."""

    def __init__(self, gate):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 1, bias=False), nn.Conv2d(6, 2, 3, padding=1)
        self.reduce, self.expand, self.gate = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1), gate

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last(x * self.gate(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))))


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid()])
def test_zero_times_a_gate_is_zero_and_a_dead_gate_is_not(gate):
    model = Gated(gate)
    model.reduce.bias.data[0] = 0.0
    dead = {"first": [1], "expand": [1, 2], "reduce": [0]}
    assert found(model, dead) == {"first": [1], "expand": [1], "reduce": [0]}
    assert removable(model, masks_with_dead_rows(model, dead)).kept() == {
        "expand": "first sends into the same channels"
    }


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Hardsigmoid()])
def test_what_an_activation_makes_of_zero_counts(activation):
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), activation, nn.Conv2d(4, 2, 3, padding=1))
    assert found(model, {"0": [1]}) == {}
    for zero in (nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Tanh(), nn.ReLU6(), nn.LeakyReLU()):
        model[1] = zero
        assert found(model, {"0": [1]}) == {"0": [1]}


@pytest.mark.parametrize(
    ("padding", "mode"), [(0, "zeros"), (1, "reflect"), (1, "circular"), (1, "replicate")]
)
def test_a_constant_is_folded_where_no_zeros_are_padded(padding, mode):
    torch.manual_seed(0)
    last = nn.Conv2d(4, 5, 3, padding=padding, padding_mode=mode, bias=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), last)
    nn.init.normal_(model[1].bias)
    masks = masks_with_dead_rows(model, {"0": [0, 2]})
    small = compact(model, masks, torch.randn(2, 3, 8, 8))
    assert (small[0].out_channels, small[3].in_channels, small.compaction.folded) == (2, 2, {"3": (0, 2)})
    assert small[3].bias.abs().min() > 0


def test_a_constant_that_is_padded_with_zeros_keeps_its_channel_and_names_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))
    model[0].bias.data[:] = torch.tensor([1.0, -1.0, 1.0, 1.0])
    masks = masks_with_dead_rows(model, {"0": [0, 1]})
    small = compact(model, masks, torch.randn(2, 3, 8, 8))
    assert small.compaction.removed == {"0": (1,)}
    assert small.compaction.kept == {"0": "2 pads the constant that they send"}


def test_padding_of_an_average_is_padding_of_a_maximum_is_not():
    for pool, left in ((nn.AvgPool2d(3, 1, padding=1), {}), (nn.MaxPool2d(3, 1, padding=1), {"0": [0]})):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.Conv2d(4, 5, 1))
        nn.init.ones_(model[0].bias)
        assert found(model, {"0": [0]}) == left


def test_what_only_dead_rows_read_goes_with_them():
    """Channel 1 of the first layer feeds only row 2 of the second, which nobody reads."""
    model = chain()
    nn.init.ones_(model[1].bias)
    masks = masks_with_dead_rows(model, {})
    masks["3"][[0, 1, 3], 1] = False
    masks["7"][:, 2] = False
    assert {n: r.nonzero().flatten().tolist() for n, r in removable(model, masks).rows.items()} == {
        "0": [1], "3": [2],
    }  # fmt: skip


def test_kept_rows_are_rounded_up_to_a_multiple():
    model = chain()
    masks = masks_with_dead_rows(model, {"0": [0, 1, 2], "3": [2]})
    small = compact(model, masks, torch.randn(2, 3, 8, 8), multiple=2)
    assert (small[0].out_channels, small[3].out_channels) == (6, 4)
    assert small.compaction.removed == {"0": (1, 2)}
    with pytest.raises(BadInput, match="multiple: expected an integer >= 1, got 0"):
        compact(model, masks, torch.randn(2, 3, 8, 8), multiple=0)


@pytest.mark.parametrize("between", [nn.LayerNorm([8, 8, 8]), nn.Softmax(1), nn.PixelShuffle(2)])
def test_what_mixes_channels_blocks(between):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), between, nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 8, 8))
    assert "mix" in channels(model).blocked("0")
    assert "0" not in found(model, {"0": [1]})


def test_a_linear_layer_over_another_axis_blocks():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, 2))  # over the width, which is 8 as well
    assert channels(model).blocked("0") == "1 reads another axis"


def test_a_layer_used_twice_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.two(self.one(self.one(x)))

    assert found(Shared(), {"one": [0]}) == {}


def test_a_model_that_can_not_be_traced_removes_nothing():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.two(self.one(x)) if x.sum() > 0 else self.two(x)

    assert found(Dynamic(), {"one": [0]}) == {}
    assert "traced" in channels(Dynamic()).blocked("one")


def test_hardware_cost_is_that_of_the_compacted_network():
    """2 of 8 and 1 of 4 channels gone: each convolution loses rows, each consumer columns."""
    model = chain()
    masks = masks_with_dead_rows(model, {"0": [1, 5], "3": [2]})
    expected = 64 * (6 * 27 + 3 * 54) + 3 * 5
    assert cost(model, masks, (3, 8, 8)).hardware_flops == expected
    small = compact(model, masks, torch.randn(2, 3, 8, 8))
    assert cost(small, input_shape=(3, 8, 8)).inference_flops == expected
    assert cost(model, masks, (3, 8, 8)).inference_flops < cost(model, input_shape=(3, 8, 8)).inference_flops


@pytest.mark.parametrize(("scale", "shift", "left"), [(2.0, 0.0, [1, 4]), (2.0, 0.5, []), (0.0, 0.0, [1, 4])])
def test_a_learnable_number_scales_and_shifts_all_channels(scale, shift, left):
    """As HGNetV2 has it behind activations; a shift is a constant, which zeros around an image forbid.
    Live channels stay behind a gain of zero, as networks have it before training."""

    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.tensor([scale])), nn.Parameter(torch.tensor([shift]))

        def forward(self, x):
            return self.scale * x + self.shift

    model = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), Affine(), nn.Conv2d(6, 2, 3, padding=1))
    assert found(model, {"0": [1, 4]}) == ({"0": left} if left else {})
    compact(model, masks_with_dead_rows(model, {"0": [1, 4]}), torch.randn(2, 3, 8, 8))


def normed(bias):
    torch.manual_seed(0)
    norm = GlobalResponseNorm(8, channels_last=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    first = nn.Conv2d(3, 8, 1)
    nn.init.constant_(first.bias, bias)
    return nn.Sequential(first, nn.ReLU(), norm, nn.Conv2d(8, 4, 1))


def test_a_response_norm_is_cut_to_the_channels_that_count_in_its_mean():
    """Its mean over 5 of 8 channels: weights by 8 / 5, and what it adds to the mean, too."""
    model = normed(-1.0)  # dead behind the ReLU
    masks = masks_with_dead_rows(model, {"0": [1, 4, 7]})
    small = compact(model, masks, torch.randn(2, 3, 8, 8))
    assert small.compaction.folded == {"3": (1, 4, 7)}  # the norm's own bias
    assert small[2].eps == pytest.approx(1e-6 * 8 / 5)
    torch.testing.assert_close(small[2].weight, model[2].weight[[0, 2, 3, 5, 6]] * 8 / 5)
    assert couplings(model, ("0", "3")) == ()  # its width is part of what it computes


def test_a_channel_that_is_not_zero_counts_in_a_response_norms_mean():
    model = normed(1.0)
    masks = masks_with_dead_rows(model, {"0": [1, 4, 7]})
    masks["3"][:, 1] = False  # not even this one goes
    small = compact(model, masks, torch.randn(2, 3, 8, 8))
    assert small.compaction.removed == {}
    assert small.compaction.kept == {"0": "2 takes its mean over what isn't zero there"}
