"""Chase: which channels there are to remove, how many go, in which order, and its two phases."""

import pytest
import torch
from torch import nn

import dstbench
from dstbench.accel.compact import compact
from dstbench.api import Clock, Infeasible, StrategyError
from dstbench.core.cost.cost import cost
from dstbench.core.network.couplings import couplings
from dstbench.core.network.layers import maskable_layers
from dstbench_plugins.schedule.soft_then_hard import SoftThenHard
from dstbench_plugins.structure.channel_scores import SCORES
from dstbench_plugins.structure.emergent_channel import EmergentChannel, alive_rows, prunable
from fakes.engine import assert_masked, chain_net, mlp, sgd, train, view

IMAGES = (2, 3, 8, 8)
REGISTRY = dstbench.registry()


@pytest.mark.parametrize(
    ("name", "units", "channels"),
    [
        ("cifar_resnet_20", 9, 336), ("cifar_resnet_32", 15, 560), ("resnet34-cifar", 16, 3776), ("vgg19", 15, 4992),
        ("resnet50", 32, 7552), ("timm:resnet50", 32, 7552), ("timm:resnet18", 8, 1920), ("small_cnn", 2, 96),
    ],
)  # fmt: skip
def test_chase_bug_4_the_units_are_found_by_tracing_not_by_name(name, units, channels):
    shape = (1, 8, 8) if name == "small_cnn" else (3, 32, 32)
    with torch.device("meta"):
        model = REGISTRY.build("model", name)(num_classes=100, input_shape=shape)
    layers = maskable_layers(model)
    views = {n: view(torch.empty(layer.info.shape, device="meta"), name=n) for n, layer in layers.items()}
    found = prunable(views, couplings(model, layers))
    assert (len(found), sum(views[unit.producers[0]].shape[0] for unit in found)) == (units, channels)


def chain_views(weights):
    """Two units of chain_net's shapes with these weights a row; the third convolution feeds the classifier."""
    model = chain_net()
    layers = maskable_layers(model)
    with torch.no_grad():
        for name, rows in weights.items():
            layers[name].weight.copy_(torch.tensor(rows).view(-1, 1, 1, 1).expand(layers[name].info.shape))
    full = {n: torch.ones(layer.info.shape, dtype=torch.bool) for n, layer in layers.items()}
    return {
        n: view(layer.weight.detach(), full[n], name=n, kind=layer.info.kind) for n, layer in layers.items()
    }, couplings(model, layers)


def removed(structure, weights, step, total=100):
    views, coupled = chain_views(weights)
    support = structure.support(views, coupled, Clock(step, total))
    return {
        name: (~support[name].flatten(1).any(1)).nonzero().flatten().tolist()
        for name in ("0", "3")
        if name in support
    }


def test_the_weakest_channels_of_all_units_go_by_mean_magnitude():
    """8 + 12 channels, half of them: the smallest |w| anywhere."""
    weights = {"0": [8.0, 1.0, -2.0, 7.0, 6.0, 3.0, 5.0, 4.0], "3": [0.05 * row for row in range(1, 13)]}
    structure = EmergentChannel(0.5, floor=0.0, delta_t=10, stop=1.0)
    assert removed(structure, weights, 95) == {"3": list(range(10))}
    weights["3"] = [9.0] * 6 + [0.5] * 6
    assert removed(structure, weights, 95) == {"0": [1, 2, 5, 7], "3": [6, 7, 8, 9, 10, 11]}


def test_chase_bug_11_exactly_k_on_ties_and_no_unit_below_its_floor():
    ties = {"0": [1.0] * 8, "3": [1.0] * 12}
    assert removed(EmergentChannel(0.5, floor=0.0, delta_t=10, stop=1.0), ties, 95) == {
        "0": [*range(7)],
        "3": [0, 1, 2],
    }
    assert removed(EmergentChannel(0.5, floor=1.0, delta_t=10, stop=1.0), ties, 95) == {
        "0": [0, 1, 2, 3], "3": [0, 1, 2, 3, 4, 5],
    }  # fmt: skip


def test_the_fraction_rises_cubically_and_the_last_event_completes_it():
    structure = EmergentChannel(0.5, delta_t=10, stop=0.8)
    events = [step for step in range(101) if structure.events(Clock(step, 100))]
    assert events == [5, 15, 25, 35, 45, 55, 65, 75]
    assert structure.target(Clock(0, 100)) == 0
    assert structure.target(Clock(25, 100)) == pytest.approx(0.5 * (1 - (1 - 25 / 80) ** 3))
    assert structure.target(Clock(75, 100)) == 0.5
    assert [EmergentChannel(0, delta_t=10).events(Clock(step, 100)) for step in range(20)] == [False] * 20


@pytest.mark.parametrize("score", SCORES)
def test_chase_bug_12_an_empty_channel_is_the_weakest_by_every_score(score):
    mask = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    mask[2] = False
    values = SCORES[score](view(torch.rand(4, 2, 3, 3) * mask + mask, mask), False)
    assert values.shape == (4,)
    assert values.isfinite().all()
    assert int(values.argmin()) == 2


def test_umm_may_count_surviving_inputs_only():
    layer = view(torch.ones(2, 4, 1, 1))
    support = torch.ones(2, 4, 1, 1, dtype=torch.bool)
    support[:, 2:] = False
    narrowed = type(layer)(
        layer.info, layer.weight * support, layer.mask, layer.before, 0, 0, support=support
    )
    assert SCORES["mean_magnitude"](narrowed, False).tolist() == [0.5, 0.5]
    assert SCORES["mean_magnitude"](narrowed, True).tolist() == [1.0, 1.0]


def test_a_network_without_removable_channels_says_so_and_zero_asks_for_none():
    for model, sparsity in ((mlp(), 0.4), (mlp(), 0)):
        if sparsity:
            with pytest.raises(Infeasible, match="feeds exactly one other"):
                dstbench.Sparsifier(model, sgd(model), {"name": "chase"}, 0.2, total_steps=400)
        else:  # bug 3
            dstbench.Sparsifier(model, sgd(model), "chase-0", 0.2, total_steps=400)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": "skip"},
        {"channel_sparsity": 1},
        {"floor": 2},
        {"delta_t": 0},
        {"offset": 100},
        {"score": "umm"},
    ],
)
def test_bad_parameters_are_named(wrong):
    with pytest.raises(StrategyError, match=next(iter(wrong))):
        EmergentChannel(**wrong)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 50, 200, 205, 1000])
@pytest.mark.parametrize("stop", [0.25, 0.8125, 1.0])
def test_chase_bugs_13_and_14_above_the_density_then_exactly_at_it_and_frozen_at_the_end(total, stop):
    schedule = SoftThenHard(delta_t=20, stop=stop)
    targets = {step: schedule(Clock(step, total), 0.1) for step in range(total + 1)}
    assert targets[0] is targets[total] is None
    due = {step: target for step, target in targets.items() if target}
    for step, target in due.items():
        assert target.final >= 0.1
        if step < stop * total and len(due) > 1 and step != max(due):
            assert target.keep == 0.1
    assert total == 1 or due[max(due)].final == 0.1


def test_the_published_trace():
    """Density .1, 200 steps, S_c = .5: after pruning .100 each time, after growing .1478 -> .1005 along d(t),
    and exactly half of the prunable channels kept; here 10 of chain_net's 20, there 960 of 1920."""
    schedule = SoftThenHard(delta_t=20, stop=0.75)
    soft = [schedule(Clock(step, 200), 0.1) for step in range(20, 150, 20)]
    assert {target.keep for target in soft} == {0.1}
    assert (round(soft[0].final, 4), round(soft[-1].final, 4)) == (0.1478, 0.1005)
    model = chain_net()
    parts = {"name": "chase", "channel_sparsity": 0.5, "delta_t": 10, "floor": 0.2}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.1, total_steps=100)
    dead = {}

    def check():
        assert_masked(sparsifier)
        for name, support in sparsifier.support.items():
            rows = ~support.flatten(1).any(1)
            assert not (dead.get(name, rows) & ~rows).any()  # never resurrected
            assert not sparsifier.masks[name][rows].any()
            dead[name] = rows

    train(model, sparsifier, 100, shape=IMAGES, after=check)
    views = sparsifier.views()
    assert sum(int(alive_rows(views[name]).sum()) for name in ("0", "3")) == 10
    densities = [report.active for report in sparsifier.history]
    assert densities == [round(schedule_target(step) * 1464) for step in range(10, 100, 10)]


def schedule_target(step):
    return SoftThenHard(delta_t=10)(Clock(step, 100), 0.1).final


def test_chase_bug_10_all_zero_weights_do_not_all_become_active():
    model = chain_net()
    sparsifier = dstbench.Sparsifier(
        model, sgd(model, lr=0.0), {"name": "chase", "delta_t": 4}, 0.2, total_steps=40
    )
    with torch.no_grad():
        sparsifier.layers["10"].weight.zero_()
    train(model, sparsifier, 4, shape=IMAGES)
    assert sum(sparsifier.active.values()) == round(SoftThenHard(delta_t=4)(Clock(4, 40), 0.2).final * 1464)


def test_a_chase_trained_resnet_compacts_exactly_and_runs_cheaper():
    model = REGISTRY.build("model", "cifar_resnet_20")(num_classes=10, input_shape=(3, 8, 8))
    parts = {"name": "chase", "channel_sparsity": 0.5, "delta_t": 4}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.1, total_steps=16)
    train(model, sparsifier, 16, shape=(4, 3, 8, 8))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # removed channels still send what their norm makes of zero
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
    images = torch.randn(4, 3, 8, 8)
    small = compact(model, sparsifier.masks, images)
    torch.testing.assert_close(small.eval()(images), model.eval()(images), rtol=1e-5, atol=1e-5)
    found = cost(model, sparsifier.masks, (3, 8, 8))
    assert found.hardware_flops < found.dense_inference_flops
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())


class Small(nn.Module):
    """A stem, one residual block and a classifier: two writers of one stream, and a unit inside the block."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(32, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.head(self.pool(x).flatten(1))


def small_views(weights):
    model = Small()
    layers = maskable_layers(model)
    with torch.no_grad():
        for name, rows in weights.items():
            layers[name].weight.copy_(torch.tensor(rows).view(-1, 1, 1, 1).expand(layers[name].info.shape))
    full = {n: torch.ones(layer.info.shape, dtype=torch.bool) for n, layer in layers.items()}
    return {
        n: view(layer.weight.detach(), full[n], name=n, kind=layer.info.kind) for n, layer in layers.items()
    }, couplings(model, layers)


def test_a_stream_is_one_unit_scored_by_all_that_write_it():
    """8 + 6 channels, 3 of 7 of them. Channel 0 of the stream is weak in one writer and strong in the other."""
    weights = {
        "stem": [0.1, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0],
        "conv1": [2.0, 9.0, 9.0, 9.0, 3.0, 9.0],
        "conv2": [8.0, 0.5, 0.5, 0.5, 1.5, 9.0, 9.0, 9.0],
    }
    views, coupled = small_views(weights)
    structure = EmergentChannel(3 / 7, floor=0.0, delta_t=10, stop=1.0, scope="residual")
    support = structure.support(views, coupled, Clock(95, 100))
    assert support.keys() == {"stem", "conv1", "conv2", "head"}
    stream, inside = (
        [False, True, True, True, True, False, False, False],
        [True, False, False, False, True, False],
    )
    assert (~support["stem"].flatten(1).any(1)).tolist() == stream
    assert (~support["conv1"].flatten(1).any(1)).tolist() == inside
    assert (~support["conv1"].transpose(0, 1).flatten(1).any(1)).tolist() == stream
    assert (~support["conv2"].flatten(1).any(1)).tolist() == stream
    assert (~support["conv2"].transpose(0, 1).flatten(1).any(1)).tolist() == inside
    assert (~support["head"].any(0)).tolist() == [gone for gone in stream for _ in range(4)]
    blocks = EmergentChannel(3 / 7, floor=0.0, delta_t=10, stop=1.0).support(views, coupled, Clock(95, 100))
    assert blocks.keys() == {"conv1", "conv2"}


@pytest.mark.parametrize(
    ("name", "units", "channels"),
    [("cifar_resnet_20", 12, 448), ("timm:resnet18", 12, 2880), ("vgg19", 16, 5504),
     ("timm:mobilenetv3_small_100", 27, 4872)],
)  # fmt: skip
def test_the_units_through_the_residual_streams(name, units, channels):
    with torch.device("meta"):
        model = REGISTRY.build("model", name)(num_classes=100, input_shape=(3, 32, 32))
    layers = maskable_layers(model)
    views = {n: view(torch.empty(layer.info.shape, device="meta"), name=n) for n, layer in layers.items()}
    found = prunable(views, couplings(model, layers), "residual")
    assert (len(found), sum(views[unit.producers[0]].shape[0] for unit in found)) == (units, channels)


@pytest.mark.parametrize("name", ["small", "cifar_resnet_20"])
def test_the_residual_stream_shrinks_and_the_outputs_stay(name):
    torch.manual_seed(0)
    model = (
        Small() if name == "small" else REGISTRY.build("model", name)(num_classes=10, input_shape=(3, 8, 8))
    )
    parts = {"name": "chase", "scope": "residual", "channel_sparsity": 0.5, "floor": 1.0, "delta_t": 4}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.1, total_steps=16)
    train(model, sparsifier, 16, shape=(4, 3, 8, 8))
    images = torch.randn(4, 3, 8, 8)
    small = compact(model, sparsifier.masks, images)
    expected = model.eval()(images).detach()
    torch.testing.assert_close(small(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    units = prunable(sparsifier.views(), couplings(model, sparsifier.layers), "residual")
    for unit in units:  # at its floor: half of it, and more if rows died by themselves
        before, after = ({m.get_submodule(n).weight.shape[0] for n in unit.producers} for m in (model, small))
        assert len(before) == len(after) == 1
        assert 1 <= max(after) <= max(before) // 2
    assert sum(len(unit.producers) > 1 for unit in units) == (1 if name == "small" else 3)


@pytest.mark.parametrize("name", ["0.3", "0.4", "0.5"])
def test_chase_skip_is_chase_through_the_residual_streams(name):
    assert REGISTRY.build("recipe", f"chase-skip-{name}").structure == {
        **REGISTRY.build("recipe", f"chase-{name}").structure, "scope": "residual",
    }  # fmt: skip
