"""Theoretical cost: every kind of layer by hand and against torch's own counter, conventions, bad input."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from dstbench.core.cost.cost import cost, counted
from dstbench.core.cost.layers import layer_costs
from dstbench.errors import BadInput
from fakes.costs import torchs_macs
from fakes.engine import mlp

# Layers by hand


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


MODELS = {
    "timm": {
        "resnet18": 64, "vgg11": 32, "mobilenetv3_small_100": 64, "efficientnet_b0": 64, "convnext_atto": 64,
        "regnetx_002": 64, "densenet121": 64, "resnext50_32x4d": 64, "vit_tiny_patch16_224": 224,
        "mixer_s32_224": 224, "test_vit": 160, "test_resnet": 64, "tresnet_m": 64,
        "botnet26t_256": 256, "beit_base_patch16_224": 224, "eva02_tiny_patch14_224": 224,
    },
    "torchvision": {"swin_t": 64, "vit_b_32": 224, "squeezenet1_1": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    ("library", "name"), [(library, name) for library, names in MODELS.items() for name in names]
)
def test_macs_are_those_of_torchs_counter(library, name):
    """Two operations a multiply-accumulate, in convolutions and matrix products; attention's are named apart."""
    with torch.device("meta"):
        model = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
    size = MODELS[library][name]
    expected = torchs_macs(model, (3, size, size))
    found = cost(model, None, (3, size, size))
    assert found.macs == sum(expected.get(op, 0) for op in ("convolution", "mm", "addmm")) > 0
    assert found.all_macs == sum(expected.values())


def test_auxiliary_heads_that_do_not_run_cost_nothing():
    with torch.device("meta"):
        model = torchvision.models.googlenet(init_weights=False)
    with pytest.warns(UserWarning, match=r"GoogLeNet: .*'aux1.conv.conv', .* and 1 more"):
        found = cost(model, None, (3, 64, 64))
    assert found.macs == sum(torchs_macs(model, (3, 64, 64)).values())
    assert len(found.unused) == 6


# Conventions


@pytest.mark.parametrize(
    ("layer", "side", "padded"),
    [
        (nn.Conv2d(3, 4, 7, stride=2, padding=3), 224, 4 * 115**2),  # ResNet's
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), 9, 4 * 6**2),  # ceil(11 / 2), which runs at 5
        (nn.Conv2d(3, 4, 3, stride=(2, 1), padding=(0, 1)), 9, 4 * 5 * 11),
        (nn.Conv2d(3, 4, 3, padding=1), 9, None),  # no stride
        (nn.Conv2d(3, 4, 4, stride=4), 16, None),  # no padding: patches
        (nn.Conv2d(3, 4, 3, padding="same"), 9, None),
        (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1), 9, None),
    ],
    ids=str,
)
def test_a_padded_stem_is_counted_at_its_padded_input(layer, side, padded):
    image = (3, side, side)
    (stem,) = layer_costs(layer, image).values()
    assert stem.padded_outputs == padded
    plain = 2 * stem.macs + stem.outputs
    assert cost(layer, None, image, "rigl").inference_flops == plain
    expected = plain if padded is None else padded * (2 * stem.macs // stem.outputs + 1)
    assert cost(layer, None, image, "rigl-notebook").inference_flops == expected


def test_only_the_first_convolution_is_a_stem():
    strided = [nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(2)]
    padded = [layer.padded_outputs for layer in layer_costs(nn.Sequential(*strided), (3, 9, 9)).values()]
    assert padded == [3 * 6 * 6, None]
    same = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), *strided)
    assert not any(layer.padded_outputs for layer in layer_costs(same, (3, 9, 9)).values())
    twice = nn.Sequential(strided[0], strided[0])  # it runs again, on another size
    assert [layer.padded_outputs for layer in layer_costs(twice, (3, 9, 9)).values()] == [None]


def test_one_count_gives_every_convention():
    model = mlp()
    found = counted(model, {"0": 0.25}, (12,))
    for convention in ("mac", "rigl", "rigl-notebook"):
        assert found.cost(convention) == cost(model, {"0": 0.25}, (12,), convention)
    assert found.cost("mac").inference_flops == 72 + 384 + 64
    assert found.cost("rigl").inference_flops == 2 * 520 + 44


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
