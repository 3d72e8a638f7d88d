"""Hardware-supported FLOPs: the dense network left when channels go, from widths and from masks."""

import re

import pytest
import torch
import torchvision
from torch import nn

import dstbench
from dstbench.core.cost.cost import counted, width_cost
from dstbench.core.cost.layers import layer_costs
from dstbench.core.cost.widths import kept_parts, widths
from dstbench.errors import BadInput

IMAGENET = (3, 224, 224)


@pytest.fixture(scope="module")
def resnet50():
    with torch.device("meta"):
        return torchvision.models.resnet50().eval()


@pytest.fixture(scope="module")
def pool(resnet50):
    """Chase's prunable channels: conv1 and conv2 of every block."""
    costs = layer_costs(resnet50, IMAGENET)
    return {name: layer.rows for name, layer in costs.items() if re.fullmatch(r"layer.*conv[12]", name)}


def of_stage(pool, *stages):
    return {name: rows for name, rows in pool.items() if int(name[5]) in stages}


def test_shares_of_resnet50(resnet50):
    costs = layer_costs(resnet50, IMAGENET)
    total = sum(layer.macs for layer in costs.values())
    expected = {
        r"layer.*conv1": 0.229,
        r"layer.*conv2": 0.452,
        r"layer.*conv3": 0.201,
        r".*downsample.*": 0.088,
    }
    for pattern, share in {**expected, "conv1": 0.029}.items():
        macs = sum(layer.macs for name, layer in costs.items() if re.fullmatch(pattern, name))
        assert macs / total == pytest.approx(share, abs=5e-4)


def test_the_pool_of_resnet50(pool):
    assert (len(pool), sum(pool.values())) == (32, 7552)


def uniform(pool, removed):
    """The same fraction of every unit of the pool."""
    return {name: rows * (1 - removed / sum(pool.values())) for name, rows in pool.items()}


def filled(order, pool, fraction, beta=0.2):
    """Remove from one unit after the other, each down to its floor int(C (1 - S_c) β)."""
    left, rows = round(fraction * 7552), {}
    for name in order:
        cut = min(left, pool[name] - int(pool[name] * (1 - fraction) * beta))
        rows[name], left = pool[name] - cut, left - cut
    assert left == 0
    return rows


def early_first(pool, fraction):
    return filled(pool, pool, fraction)


def late_first(pool, fraction):
    """Stage 4 first, in each stage from its first block."""
    return filled([name for stage in (4, 3, 2, 1) for name in of_stage(pool, stage)], pool, fraction)


def everywhere(pool, fraction):
    return uniform(pool, fraction * 7552)


def late_stages(pool, fraction):
    return uniform(of_stage(pool, 3, 4), fraction * 7552)


def stage_3_then_4(pool, fraction):
    """Stage 3 loses 40 or 50 %, stage 4 the rest."""
    third, fourth = of_stage(pool, 3), of_stage(pool, 4)
    removed = {0.3: 0.4, 0.4: 0.5}[fraction] * sum(third.values())
    return uniform(third, removed) | uniform(fourth, fraction * 7552 - removed)


@pytest.mark.parametrize(
    ("allocation", "fraction", "macs", "weights"),
    [
        (everywhere, 0.3, 0.641, 0.663),
        (everywhere, 0.4, 0.538, 0.569),
        (late_stages, 0.3, 0.755, 0.623),
        (late_stages, 0.4, 0.688, 0.522),
        (stage_3_then_4, 0.3, 0.749, 0.632),
        (stage_3_then_4, 0.4, 0.687, 0.525),
        (late_first, 0.3, 0.853, 0.573),
        (late_first, 0.4, 0.786, 0.498),
        (early_first, 0.3, 0.515, 0.856),
        (early_first, 0.4, 0.437, 0.795),
    ],
)
def test_what_removing_chases_channels_leaves(resnet50, pool, allocation, fraction, macs, weights):
    """The same number of channels is worth from 1.2x to 2x, by where they are: widths decide, not S_c."""
    rows = allocation(pool, fraction)
    removed = sum(pool[name] - rows[name] for name in rows)
    assert removed == pytest.approx(fraction * 7552, abs=0.5)
    left = width_cost(resnet50, rows, IMAGENET)
    assert left.macs_ratio == pytest.approx(macs, abs=1e-3)
    assert weights_ratio(left) == pytest.approx(weights, abs=1e-3)


def weights_ratio(found):
    """Weights that are left, over all."""
    left, dense = (sum(layer.weights for layer in costs.values()) for costs in (found.costs, found.dense))
    return left / dense


@pytest.mark.parametrize(
    ("fraction", "macs", "weights", "within"), [(0.3, 0.744, 0.532, 1e-3), (0.4, 0.621, 0.444, 6e-3)]
)
def test_what_chases_ranking_of_initial_weights_leaves(resnet50, pool, fraction, macs, weights, within):
    """Mean |w| over the full fan-in, zeros included, ranked over all units, floor β = 0.2. At 0.3 the floors
    decide, at 0.4 it is one draw against another."""
    erk, draw = dstbench.densities(resnet50, 0.1), torch.Generator().manual_seed(0)
    ranked = []
    for name in pool:
        shape = resnet50.get_submodule(name).weight.shape
        values = torch.randn(shape, generator=draw).abs() * (2 / shape[1:].numel()) ** 0.5
        values *= torch.rand(shape, generator=draw) < erk[name]
        ranked += [(score, name) for score in values.flatten(1).mean(1).tolist()]
    rows, left = dict(pool), round(fraction * 7552)
    for _, name in sorted(ranked):
        if left and rows[name] > int(pool[name] * (1 - fraction) * 0.2):
            rows[name], left = rows[name] - 1, left - 1
    found = width_cost(resnet50, rows, IMAGENET)
    assert found.macs_ratio == pytest.approx(macs, abs=within)
    assert weights_ratio(found) == pytest.approx(weights, abs=within)


# By hand


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    )


def test_rows_take_the_columns_that_they_fed():
    left = width_cost(chain(), {"0": 2, "3": 3}, (3, 4, 4))
    assert {name: layer.macs for name, layer in left.costs.items()} == {
        "0": 2 * 3 * 9 * 16,
        "3": 3 * 2 * 9 * 16,
        "6": 48 * 5,  # a channel is 16 columns behind the flattening
    }
    assert {name: layer.weights for name, layer in left.costs.items()} == {"0": 54, "3": 54, "6": 240}
    assert [layer.rows for layer in left.costs.values()] == [2, 3, 5]
    assert width_cost(chain(), {}, (3, 4, 4)).macs_ratio == 1


def test_masks_give_the_widths_of_the_compacted_network():
    """Counted on the network that compaction builds."""
    model = chain().eval()
    masks = {name: torch.ones_like(model.get_submodule(name).weight).bool() for name in ("0", "3", "6")}
    masks["0"][[1, 5, 6]] = False
    masks["3"][2] = False
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_submodule(name).weight.mul_(mask)
    rows = widths(model, masks)
    assert rows == {"0": 5, "3": 3}
    small = dstbench.compact(model, masks, torch.zeros(1, 3, 4, 4))
    left = width_cost(model, rows, (3, 4, 4))
    built = layer_costs(small, (3, 4, 4))
    assert {n: e.macs for n, e in left.costs.items()} == {n: e.macs for n, e in built.items()}
    assert {n: e.weights for n, e in left.costs.items()} == {n: e.weights for n, e in built.items()}
    for convention in ("mac", "rigl", "rigl-notebook"):
        mine = dstbench.cost(model, masks, (3, 4, 4), convention).hardware_flops
        assert mine == dstbench.cost(small, None, (3, 4, 4), convention).inference_flops


def test_one_layer_of_a_residual_stream_narrows_all_that_add_to_it(resnet50):
    """Stage 1: the shortcut and three third convolutions write the stream; four layers read it."""
    left = width_cost(resnet50, {"layer1.1.conv3": 128}, IMAGENET).costs
    dense = layer_costs(resnet50, IMAGENET)
    writers = ["layer1.0.downsample.0", *(f"layer1.{block}.conv3" for block in range(3))]
    readers = ["layer1.1.conv1", "layer1.2.conv1", "layer2.0.conv1", "layer2.0.downsample.0"]
    halved = {name for name, layer in left.items() if layer.macs == dense[name].macs // 2}
    assert halved == {*writers, *readers}
    assert {name for name in left if left[name].rows == 128 and dense[name].rows == 256} == set(writers)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"layer1.0.conv3": 10, "layer1.1.conv3": 11},
            r"'layer1.0.conv3' and 'layer1.1.conv3' share channels, got 10 and 11",
        ),
        ({"fc": 10}, r"'fc' can't be narrowed: its rows meet output"),
        ({"layer1.0.conv4": 10}, r"no layer 'layer1.0.conv4'.*layer1.0.conv"),
        ({"layer1.0.conv1": 65}, r"'layer1.0.conv1'.*\(0, 64\], got 65"),
        ({"layer1.0.conv1": 0}, r"\(0, 64\], got 0"),
        ({"layer1.0.conv1": True}, r"got True"),
    ],
)
def test_what_can_not_be_narrowed_is_named(resnet50, rows, message):
    with pytest.raises(BadInput, match=message):
        kept_parts(resnet50, rows)


def test_live_channels_have_a_weight_on_both_sides():
    """Of the first hidden layer 0 alone is written and read, of the second 0 and 3: three of seven."""
    layers = [nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)]
    first = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]  # 1 has no input
    second = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]]  # nobody reads 2; 2 has no input
    third = [[1, 0, 0, 1], [0, 0, 0, 0]]  # nobody reads 1 and 2
    masks = {name: torch.tensor(mask).bool() for name, mask in (("1", first), ("3", second), ("5", third))}
    model = nn.Sequential(nn.Flatten(), *layers)
    assert counted(model, masks, (1, 2, 2)).live == 3 / 7
    assert counted(model, {name: torch.ones_like(mask) for name, mask in masks.items()}, (1, 2, 2)).live == 1
    assert counted(model, None, (1, 2, 2)).live is None
    assert counted(nn.Linear(4, 3), {"weight": masks["1"]}, (4,)).live is None  # no channel is hidden


def test_a_live_channel_behind_a_flattening_is_read_at_any_place():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    masks = {"0": torch.ones(2, 1, 1, 1).bool(), "3": torch.zeros(1, 8).bool()}
    masks["3"][0, 5] = True  # of the second channel's four places
    assert counted(model, masks, (1, 2, 2)).live == 0.5
