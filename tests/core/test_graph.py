"""Which dead channels could be cut out exactly: chains yes, residual additions and groups no."""

import pytest
import torch
from torch import nn

from dstbench.accel.compact import compact
from dstbench.core.cost import cost
from dstbench.core.graph import edges, removable_rows


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
    rows = removable_rows(model, masks_with_dead_rows(model, dead))
    return {name: value.nonzero().flatten().tolist() for name, value in rows.items()}


def test_dead_rows_of_a_chain_can_go():
    assert found(chain(), {"0": [1, 5], "3": [2]}) == {"0": [1, 5], "3": [2]}
    assert found(chain(), {}) == {}


def test_a_chain_knows_its_norms_and_consumers():
    edge = edges(chain())["0"]
    assert (edge.norms, edge.consumers, edge.blocked) == (["1"], ["3"], None)


def test_a_dead_row_that_still_sends_a_constant_stays():
    model = chain()
    with torch.no_grad():
        model[1].bias[5] = 0.5
    assert found(model, {"0": [1, 5]}) == {"0": [1]}
    model[1].running_mean[1] = 0.5
    assert found(model, {"0": [1, 5]}) == {}


def test_a_row_that_nobody_reads_can_go_whatever_it_sends():
    """Its norm and bias are as they were, and it may even have weights: all columns that it feeds are dead."""
    model = chain()
    with torch.no_grad():
        model[1].bias.fill_(0.5)
    masks = masks_with_dead_rows(model, {"0": [1]})
    masks["3"][:, [1, 4]] = False
    assert removable_rows(model, masks)["0"].nonzero().flatten().tolist() == [1, 4]
    masks["3"][2, 4, 1, 1] = True
    assert removable_rows(model, masks)["0"].nonzero().flatten().tolist() == [1]
    del masks["3"]  # unmasked, it reads everything
    assert "0" not in removable_rows(model, masks)


def test_behind_a_flatten_a_row_goes_when_all_its_columns_are_dead():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    masks = masks_with_dead_rows(model, {})
    masks["3"][:, 4:9] = False  # the columns of channel 1, and one of channel 2
    assert removable_rows(model, masks)["0"].tolist() == [False, True, False, False]
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
    assert edges(model)["one"].blocked == edges(model)["other"].blocked == "two runs more than once"
    assert found(model, {"one": [0]}) == {}


@pytest.mark.parametrize("place", [0, 1])
def test_transposed_convolutions_stay(place):
    layers = [nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False)]
    layers[place] = nn.ConvTranspose2d(4, 4, 3, bias=False)
    assert "transposed" in edges(nn.Sequential(*layers))["0"].blocked


def test_classes_are_not_channels():
    assert found(chain(), {"7": [0]}) == {}


def test_a_wholly_dead_layer_is_not_removed():
    assert found(chain(), {"0": list(range(8))}) == {}


def test_rows_that_meet_an_addition_stay():
    model = Residual()
    assert found(model, {"stem": [0], "conv1": [1, 2], "conv2": [3]}) == {"conv1": [1, 2]}
    assert "add" in edges(model)["conv2"].blocked
    assert "add" in edges(model)["stem"].blocked


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), "grouped"),
        (nn.LayerNorm([8, 8, 8]), "mix"),
        (nn.Softmax(1), "mix"),
        (nn.PixelShuffle(2), "mix"),
    ],
)
def test_what_mixes_or_groups_channels_blocks(between, reason):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), between, nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 8, 8))
    assert reason in edges(model)["0"].blocked
    assert "0" not in found(model, {"0": [1]})


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
    assert "traced" in edges(Dynamic())["one"].blocked


def test_hardware_cost_is_that_of_the_compacted_network():
    """2 of 8 and 1 of 4 channels gone: each convolution loses rows, each consumer columns."""
    model = chain()
    masks = masks_with_dead_rows(model, {"0": [1, 5], "3": [2]})
    expected = 64 * (6 * 27 + 3 * 54) + 3 * 5
    assert cost(model, masks, (3, 8, 8)).hardware_flops == expected
    small = compact(model, masks, torch.randn(2, 3, 8, 8))
    assert cost(small, input_shape=(3, 8, 8)).inference_flops == expected
    assert cost(model, masks, (3, 8, 8)).inference_flops < cost(model, input_shape=(3, 8, 8)).inference_flops
