"""Theoretical cost: ResNet-50's published ratios, other kinds of convolutions by hand, training added up."""

import pytest
import timm
import torch
from torch import nn

import dstbench
from dstbench.api import Clock
from dstbench.core.cost import cost, flops, layer_costs
from dstbench.core.cost_training import TrainingMeter
from dstbench.errors import BadInput
from dstbench_plugins.schedule.dense_to_sparse import Cubic
from fakes.engine import mlp

IMAGENET = (3, 224, 224)


@pytest.fixture(scope="module")
def resnet50():
    return timm.create_model("resnet50").eval()


@pytest.fixture(scope="module")
def costs(resnet50):
    return layer_costs(resnet50, IMAGENET)


def test_resnet50_dense(resnet50, costs):
    assert sum(layer.weights for layer in costs.values()) == 25_502_912
    assert sum(layer.macs for layer in costs.values()) == 4_089_184_256
    assert sum(flops(costs, {}, "mac").values()) == 4_089_184_256
    assert sum(flops(costs, {}, "rigl").values()) == 8_189_483_496
    dense = cost(resnet50, input_shape=IMAGENET)
    assert dense.inference_ratio == 1
    assert dense.hardware_flops == dense.inference_flops == 4_089_184_256
    assert dense.training_flops == 3 * 4_089_184_256
    assert dense.parameters == dense.active_parameters == 25_557_032
    assert dense.convention == "mac"


# (init, density, dense layers, ratio by "mac", ratio by "rigl")
TABLE = [
    ("erk", 0.2, (), 0.4138, 0.4146),
    ("erk", 0.1, (), 0.2418, 0.2429),
    ("erk", 0.05, (), 0.122, 0.123),
    ("erk", 0.035, (), 0.085, 0.086),
    ("erk", 0.01, ("conv1",), 0.052, 0.053),
    ("uniform", 0.2, ("conv1",), 0.2231, 0.2241),
    ("uniform", 0.1, ("conv1",), 0.1260, 0.1272),
    ("uniform", 0.1, (), 0.1000, 0.1012),
]


@pytest.mark.parametrize(("init", "density", "dense_layers", "mac", "rigl"), TABLE)
def test_resnet50_ratios(resnet50, costs, init, density, dense_layers, mac, rigl):
    densities = dstbench.densities(resnet50, density, init=init, dense_layers=dense_layers)
    for convention, expected in (("mac", mac), ("rigl", rigl)):
        ratio = sum(flops(costs, densities, convention).values()) / sum(flops(costs, {}, convention).values())
        digits = len(f"{expected}".split(".")[1])
        assert ratio == pytest.approx(expected, abs=5e-4 if digits > 3 else 1e-3)


@pytest.mark.parametrize(
    ("density", "dense_layers", "megabytes"),
    [(1.0, (), 102.122), (0.2, (), 23.684), (0.1, (), 13.499), (0.05, (), 8.399), (0.01, ("conv1",), 4.354)],
)
def test_resnet50_bits(resnet50, density, dense_layers, megabytes):
    """RigL's sizes: 32 bits a weight and a bias, 1 bit a mask entry of a layer that is sparse."""
    densities = dstbench.densities(resnet50, density, init="erk", dense_layers=dense_layers)
    assert cost(resnet50, densities, IMAGENET).bits / 8e6 == pytest.approx(megabytes, abs=1e-3)


# Training


def meter(costs, steps):
    """Steps as (densities, dense gradient, how many)."""
    metered = TrainingMeter(costs, "rigl")
    for density, dense_gradient, count in steps:
        active = {name: round(density.get(name, 1.0) * layer.weights) for name, layer in costs.items()}
        metered.add(active, 10 * count, dense_gradient)
    return metered.sparse / metered.dense


@pytest.mark.parametrize(
    ("density", "static", "rigl", "snfs"), [(0.2, 0.415, 0.417, 0.610), (0.1, 0.243, 0.245, 0.495)]
)
def test_training_ratios_of_rigl_and_snfs(resnet50, costs, density, static, rigl, snfs):
    """Static 3 f_S, RigL (3 f_S ΔT + 2 f_S + f_D) / (ΔT + 1) at ΔT = 100, SNFS 2 f_S + f_D, over 3 f_D."""
    erk = dstbench.densities(resnet50, density)
    forward = sum(flops(costs, erk, "rigl").values())
    dense = sum(flops(costs, {}, "rigl").values())
    by_formula = (300 * forward + 2 * forward + dense) / 101 / (3 * dense)
    assert meter(costs, [(erk, False, 100), (erk, True, 1)]) == pytest.approx(by_formula, rel=1e-6)
    assert by_formula == pytest.approx(rigl, abs=1e-3)
    assert meter(costs, [(erk, True, 7)]) == pytest.approx((2 * forward + dense) / (3 * dense), rel=1e-6)
    assert meter(costs, [(erk, True, 7)]) == pytest.approx(snfs, abs=1e-3)
    assert meter(costs, [(erk, False, 7)]) == pytest.approx(static, abs=1e-3)


@pytest.mark.parametrize(("density", "published"), [(0.2, 0.560), (0.1, 0.505)])
def test_training_ratio_of_gradual_pruning(costs, density, published):
    """From 10k to 25k of 32k steps; conv1 dense, the classifier at its target from the start. Updates come
    every 100 steps here: at 1000, as published, the mean depends on which end of a period it is taken at."""
    schedule, now, steps = Cubic(delta_t=100, start=10 / 32, stop=25 / 32), 1.0, []
    for step in range(0, 32_000, 100):
        target = schedule(Clock(step, 32_000), density)
        now = now if target is None else target.final
        layers = {name: {"conv1": 1.0, "fc": density}.get(name, now) for name in costs}
        steps.append((layers, False, 100))
    assert meter(costs, steps) == pytest.approx(published, abs=4e-3)


def test_a_meter_follows_the_masks_and_can_be_saved():
    costs = layer_costs(mlp(), (12,))
    one, two = TrainingMeter(costs), TrainingMeter(costs)
    full = {name: layer.weights for name, layer in costs.items()}
    half = {name: count // 2 for name, count in full.items()}
    one.add(full, 8, False)
    assert (one.sparse, one.dense) == (8 * 3 * 736, 8 * 3 * 736)
    two.load_state_dict(one.state_dict())
    for metered in (one, two):
        metered.add(half, 8, False)
        metered.add(half, 8, True)
        assert metered.sparse == 8 * (3 * 736 + 3 * 368 + 2 * 368 + 736)
        assert metered.dense == 3 * 8 * 3 * 736


# Other layers by hand


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "outputs"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 5), 6 * 25 * 4 * 9, 150),
        (nn.Conv2d(4, 6, 3, stride=2), (4, 9, 9), 6 * 16 * 36, 96),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2), (4, 5, 5), 6 * 25 * 36, 150),
        (nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 5, 5), 8 * 25 * 2 * 9, 200),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 5, 5), 8 * 25 * 9, 200),  # depthwise
        (nn.Conv1d(4, 6, 5), (4, 12), 6 * 8 * 4 * 5, 48),
        (nn.Conv3d(2, 3, 2), (2, 3, 3, 3), 3 * 8 * 2 * 8, 24),
        (
            nn.ConvTranspose2d(4, 6, 2, stride=2),
            (4, 5, 5),
            25 * 4 * 6 * 4,
            600,
        ),  # every input meets 6 · 2 · 2
        (
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            (4, 5, 5),
            25 * 4 * 3 * 9,
            600,
        ),
        (nn.Linear(7, 3), (7,), 21, 3),
        (nn.Linear(7, 3), (5, 7), 5 * 21, 15),  # once a token
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_macs_by_hand(layer, shape, macs, outputs):
    (found,) = layer_costs(layer, shape).values()
    assert (found.macs, found.outputs, found.weights) == (macs, outputs, layer.weight.numel())
    assert found.rows == len(layer.bias)


def test_a_layer_that_runs_twice_is_charged_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x))

    assert layer_costs(Twice(), (4,))["layer"].macs == 32


def test_masks_and_densities_cost_the_same():
    model = mlp()
    masks = {"0": torch.arange(288).view(24, 12) % 4 == 0, "2": torch.ones(16, 24).bool()}
    by_mask = cost(model, masks, (12,))
    by_density = cost(model, {"0": 0.25, "2": 1.0}, (12,))
    assert by_mask.inference_flops == by_density.inference_flops == 72 + 384 + 64
    assert by_mask.bits == by_density.bits == 32 * (72 + 384 + 64) + 288 + 32 * (24 + 16 + 4)
    assert by_mask.active_parameters == by_density.active_parameters == 736 + 44 - 216
    assert by_mask.training_flops == 3 * 520
    assert by_mask.inference_ratio == 520 / 736
    assert by_mask.layers == {"0": 72.0, "2": 384.0, "4": 64.0}


def test_counting_leaves_the_model_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2)
    )
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_costs(model, (3, 8, 8))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masks_or_densities": {"O": 0.5}}, r"no layer 'O'.*known: 0, 2, 4"),
        ({"masks_or_densities": {"0": 1.5}}, r"'0'.*\[0, 1\].*1.5"),
        ({"masks_or_densities": {"0": torch.ones(3).bool()}}, r"'0' has 288 weights, its mask 3"),
        ({"convention": "macs"}, r"convention.*'macs'.*'mac'"),
        ({"input_shape": (13,)}, r"input_shape.*Sequential.*\(13,\)"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(BadInput, match=message):
        cost(mlp(), **{"input_shape": (12,), **arguments})


def test_a_model_that_asserts_its_input_shape():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            assert x.shape[-1] == 4, "four only"
            return self.layer(x)

    with pytest.raises(BadInput, match=r"input_shape.*four only"):
        cost(Picky(), input_shape=(5,))
