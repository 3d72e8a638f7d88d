"""Built-in models: parameters and multiply-accumulates against published counts, width, bad input."""

from __future__ import annotations

import functools

import pytest
import torch
import torchvision
from torch import nn

from dstbench.accel.compact import compact
from dstbench.core.cost.cost import cost
from dstbench.core.network.channels import channels
from dstbench.core.network.couplings import couplings
from dstbench.core.network.layers import maskable_layers
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.trial.small_dense import narrow
from dstbench_plugins.models.alexnet import alexnet_s
from dstbench_plugins.models.lenet import lenet5, lenet300_100
from dstbench_plugins.models.resnet import cifar_resnet_20, cifar_resnet_32, resnet18, resnet50
from dstbench_plugins.models.set_mlp import SReLU
from dstbench_plugins.models.small_cnn import small_cnn
from dstbench_plugins.models.timm_models import timm_model
from dstbench_plugins.models.vgg import vgg19, vgg_c
from dstbench_plugins.models.wrn import wrn_22_2

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


# name, classes: parameters, weights of convolutions and linear layers, how many of those, multiply-accumulates
COUNTS = {
    ("small_cnn", 10): (65_514, 65_056, 5, 470_272),
    ("lenet300-100", 10): (266_610, 266_200, 3, 266_200),
    ("lenet5", 10): (431_080, 430_500, 4, 2_293_000),
    ("mlp", 10): (6_166_954, 6_162_240, 4, 6_162_240),
    ("set-mlp", 10): (20_328_000 + 9_010 + 4 * 9_000, 20_328_000, 4, 20_328_000),
    ("alexnet-s", 10): (5_077_066, 5_066_784, 8, 57_664_800),
    ("alexnet-b", 10): (8_501_322, 8_484_896, 8, 61_082_912),
    ("vgg-c", 10): (11_323_466, 11_307_712, 16, 310_973_440),
    ("vgg-d", 10): (15_255_626, 15_239_872, 16, 313_725_952),
    ("vgg-like", 10): (14_991_946, 14_977_728, 15, 313_463_808),
    ("vgg19", 10): (20_040_522, 20_024_000, 17, 398_182_400 - 90 * 512),
    ("vgg19", 100): (20_086_692, 20_070_080, 17, 398_182_400),
    ("cifar_resnet_20", 10): (272_474, 270_896, 22, 40_818_944 - 90 * 64),
    ("cifar_resnet_20", 100): (278_324, 276_656, 22, 40_818_944),
    ("cifar_resnet_32", 10): (466_906, 464_432, 34, 69_130_496 - 90 * 64),
    ("cifar_resnet_32", 100): (472_756, 470_192, 34, 69_130_496),
    ("wrn-22-2", 10): (1_079_642, 1_076_912, 23, 157_730_048),
    ("wrn-22-2", 100): (1_091_252, 1_088_432, 23, 157_730_048 + 90 * 128),
    ("wrn-28-2", 10): (1_467_610, 1_463_984, 29, 214_353_152),
    ("wrn-22-8", 10): (17_158_106, 17_147_312, 23, 2_454_115_328),
    ("wrn-16-8", 10): (10_961_370, 10_954_160, 17, 1_548_145_664),
    ("wrn-16-10", 10): (17_116_634, 17_107_632, 17, 2_412_173_568),
    ("resnet18-cifar", 10): (11_173_952, 11_164_352, 21, 555_422_720),
    ("resnet18-cifar", 100): (11_220_032, 11_210_432, 21, 555_468_800),
    ("resnet34-cifar", 10): (21_282_112, 21_265_088, 37, 1_159_402_496),
    ("resnet34-cifar", 100): (21_328_192, 21_311_168, 37, 1_159_448_576),
    ("resnet50-cifar", 10): (23_520_832, 23_467_712, 54, 1_298_014_208 - 90 * 2048),
    ("resnet50-cifar", 100): (23_705_152, 23_652_032, 54, 1_298_014_208),
    ("resnet18", 1000): (11_689_512, 11_678_912, 21, 1_814_073_344),
    ("resnet34", 1000): (21_797_672, 21_779_648, 37, 3_663_761_408),
    ("resnet50", 1000): (25_557_032, 25_502_912, 54, 4_089_184_256),
    ("vit", 10): (3_716_874, 3_684_864, 30, 65 * 3_670_016 + 64 * 12_288 + 2_560),
    ("deit_tiny", 10): (5_362_762, 5_308_416 + 9_216 + 1_920, 50, 65 * 5_308_416 + 64 * 9_216 + 1_920),
    ("llama", 32_000): (58_073_600, 41_680_896, 57, 256 * 41_680_896),
    ("llama-130m", 32_000): (134_105_856, 109_510_656, 85, 256 * 109_510_656),
    ("gpt", 65): (804_096, 786_432 + 65 * 128, 17, 64 * (786_432 + 65 * 128)),
}
REGISTRY = registry()
BUILT_IN = [name for name in REGISTRY["model"] if not name.endswith(":")]
IMAGES = [name for name in BUILT_IN if len(REGISTRY["model"][name].metadata["input_shape"]) == 3]


@functools.cache
def build(name, classes=10, width=1.0):
    """A registered model on the meta device: layers and shapes without numbers. Shared: not to be changed."""
    spec = {"name": name, "width": width}
    with torch.device("meta"):
        return REGISTRY.build("model", spec)(num_classes=classes, input_shape=input_shape(name))


def input_shape(name):
    return tuple(REGISTRY["model"][name].metadata["input_shape"])


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_built_in_model_is_counted():
    assert {name for name, _ in COUNTS} == set(BUILT_IN)


@pytest.mark.parametrize(("name", "classes"), COUNTS)
def test_counts(name, classes):
    model = build(name, classes)
    layers, totals = maskable_layers(model), cost(model, None, input_shape(name))
    assert (totals.parameters, totals.weights, len(layers), totals.macs) == COUNTS[name, classes]


@pytest.mark.parametrize("name", IMAGES)
def test_every_model_trains_under_rigl_with_any_number_of_classes(name):
    channels, height, across = input_shape(name)
    shape = (channels, min(height, 64), min(across, 64))
    torch.manual_seed(0)
    model = REGISTRY.build("model", {"name": name, "width": 0.125})(num_classes=7, input_shape=shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    recipe = {"name": "rigl", "delta_t": 1}
    sparsifier = Sparsifier(model, optimizer, recipe=recipe, density=0.5, total_steps=4)
    before = {layer: mask.clone() for layer, mask in sparsifier.masks.items()}
    images, labels = torch.rand(4, *shape), torch.arange(4)
    for _ in range(2):
        logits = model(images)
        assert logits.shape == (4, 7)
        nn.functional.cross_entropy(logits, labels).backward()
        sparsifier.step()
        optimizer.zero_grad()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert sum(sparsifier.active.values()) == round(0.5 * sparsifier.size)
    assert not all(torch.equal(before[layer], mask) for layer, mask in sparsifier.masks.items())


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_last_layer_makes_logits(name):
    last = list(build(name).modules())[-1]
    assert isinstance(last, nn.Linear)


def test_mests_resnet_32_is_twice_as_wide():
    assert parameters(cifar_resnet_32(10, CIFAR, width=2)) == 1_860_522


# Layers whose output channels can go and that one convolution alone consumes: how many, and their channels.
# Chase's units (arXiv 2305.19454) in the models that it trains.
UNITS = {
    "cifar_resnet_20": (9, 336),
    "cifar_resnet_32": (15, 560),
    "vgg19": (15, 4992),
    "resnet34-cifar": (16, 3776),
    "resnet50-cifar": (32, 7552),
    "resnet50": (32, 7552),
}


@pytest.mark.parametrize("name", UNITS)
def test_channels_that_chase_can_remove(name):
    model = build(name)
    layers = maskable_layers(model)

    def conv(layer):
        return layers[layer].info.kind == "conv"

    units = [
        unit.producers[0]
        for unit in couplings(model, layers)
        if len(unit.producers) == len(unit.consumers) == 1 and all(map(conv, unit.producers + unit.consumers))
    ]
    assert (len(units), sum(layers[unit].info.shape[0] for unit in units)) == UNITS[name]


@pytest.mark.parametrize("name", IMAGES)
def test_every_model_can_be_traced(name):
    model = build(name)
    found = channels(model)
    reasons = {found.blocked(layer) for layer in maskable_layers(model)}
    learned = {"its rows meet sub"}  # set-mlp's SReLU has parameters of each unit
    tokens = {f"its rows meet {each}" for each in ("flatten", "add", "unflatten", "stochastic_depth")}
    assert reasons <= {None, "its rows meet output"} | learned | tokens


@pytest.mark.parametrize("name", ["lenet5", "vgg-d", "vgg19", "wrn-16-8", "resnet50-cifar"])
def test_channels_that_training_kills_can_be_cut_out(name):
    torch.manual_seed(0)
    channels = input_shape(name)[0]
    images, labels = torch.randn(8, channels, 32, 32), torch.arange(8)
    model = REGISTRY.build("model", {"name": name, "width": 0.125})(
        num_classes=8, input_shape=(channels, 32, 32)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    recipe = {"structure": "channel", "grow": "gradient", "schedule": {"name": "cosine", "delta_t": 1}}
    sparsifier = Sparsifier(model, optimizer, recipe=recipe, density=0.4, total_steps=4)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.step()
    small = compact(model, sparsifier.masks, images).eval()
    expected = model.eval()(images)
    torch.testing.assert_close(small(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert parameters(small) < 0.7 * parameters(model)


def test_resnets_for_imagenet_are_torchvisions():
    for ours, theirs in (
        (resnet18(10, (3, 64, 64)), torchvision.models.resnet18(num_classes=10)),
        (resnet50(10, (3, 64, 64)), torchvision.models.resnet50(num_classes=10)),
    ):
        weights = theirs.state_dict().values()
        ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
        images = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_bias_only_where_the_definition_has_one():
    for name, biased in {
        "vgg-d": 16,
        "alexnet-s": 8,
        "wrn-16-8": 1,
        "resnet18-cifar": 0,
        "resnet18": 1,
    }.items():
        layers = maskable_layers(build(name)).values()
        assert sum(layer.module.bias is not None for layer in layers) == biased, name


@pytest.mark.parametrize(
    ("factory", "input_shape"),
    [
        (small_cnn, DIGITS),
        (small_cnn, (3, 33, 17)),
        (lenet300_100, (2, 5, 7)),
        (cifar_resnet_20, CIFAR),
        (cifar_resnet_32, (1, 9, 9)),
        (wrn_22_2, (1, 9, 9)),
        (lenet5, (3, 16, 19)),
        (functools.partial(alexnet_s, width=0.1), (1, 7, 40)),
        (functools.partial(vgg_c, width=0.1), (1, 40, 64)),
        (functools.partial(vgg19, width=0.1), (1, 16, 40)),
        (functools.partial(timm_model, variant="resnet10t"), CIFAR),
        (functools.partial(timm_model, variant="vit_tiny_patch16_224"), (1, 32, 48)),
    ],
)
def test_forward_and_backward(factory, input_shape):
    model = factory(7, input_shape)
    logits = model(torch.rand(3, *input_shape))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in IMAGES if name not in ("vit", "deit_tiny")])
def test_width_scales_every_hidden_layer_but_not_the_classes(name):
    classes = next(classes for counted, classes in COUNTS if counted == name)
    whole, half = build(name, classes), build(name, classes, 0.5)
    classifier = list(whole.named_modules())[-1][0]
    for path, parameter in half.named_parameters():
        expected = whole.get_parameter(path).shape[0]
        is_last = path.rpartition(".")[0] == classifier
        assert parameter.shape[0] == (classes if is_last else expected // 2), path


@pytest.mark.parametrize("factory", [small_cnn, lenet300_100, cifar_resnet_20, wrn_22_2])
def test_the_narrowest_model_still_runs(factory):
    tiny = factory(10, DIGITS, width=1e-9)
    assert {p.shape[0] for p in tiny.parameters()} == {1, 10}
    assert tiny.eval()(torch.rand(2, *DIGITS)).shape == (2, 10)


@pytest.mark.parametrize(
    ("factory", "smallest"), [(small_cnn, 8), (lenet5, 16), (alexnet_s, 7), (vgg_c, 32), (vgg19, 16)]
)
def test_smallest_input(factory, smallest):
    model = factory(3, (1, smallest, smallest + 1), width=0.1).eval()
    assert model(torch.rand(1, 1, smallest, smallest + 1)).shape == (1, 3)
    name = factory.__name__.replace("small_cnn", "small.cnn").replace("_", "-")
    less = smallest - 1
    with pytest.raises(BadInput, match=f"{name}: expected .* {smallest}x{smallest} pixels, got {less}x40"):
        factory(3, (1, less, 40))


@pytest.mark.parametrize("width", [0, -1, float("inf"), float("nan")])
def test_width_must_be_positive(width):
    with pytest.raises(BadInput, match="width: expected a number greater than 0"):
        lenet300_100(10, DIGITS, width=width)


def test_cifar_resnet_starts_kaiming_normal():
    torch.manual_seed(0)
    weight = cifar_resnet_20(10, CIFAR).get_parameter("stage3.1.conv1.weight")
    fan_in = 64 * 9
    assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "weight", "fan_out"),
    [("vgg19", "conv9.weight", 256 * 9), ("resnet50", "stage4.0.conv1.weight", 256)],
)
def test_kaiming_normal_by_fan_out(name, weight, fan_out):
    torch.manual_seed(0)
    model = REGISTRY.build("model", {"name": name, "width": 0.5})(num_classes=10, input_shape=CIFAR)
    assert model.get_parameter(weight).std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def test_s_shaped_relu_by_its_definition():
    unit = SReLU(1)
    with torch.no_grad():
        for parameter, value in zip(unit.parameters(), (-1.0, -3.0, 0.25, 2.0), strict=True):
            parameter.fill_(value)  # thresholds -1 and -1 + |-3| = 2; slopes 1/4 below and 2 above
    x = torch.tensor([[-5.0], [-1.0], [0.5], [2.0], [3.0]])
    assert unit(x).flatten().tolist() == [-1 + 0.25 * -4, -1.0, 0.5, 2.0, 2 + 2 * 1]


def test_wide_networks_of_snfs_drop_out():
    for name, dropout in {"wrn-22-2": 0.0, "wrn-28-2": 0.3, "wrn-16-8": 0.3}.items():
        assert {m.p for m in build(name).modules() if isinstance(m, nn.Dropout)} == {dropout}


def test_wrn_has_rigls_maskable_layers_and_no_dropout_unless_asked():
    model = wrn_22_2(10, CIFAR)
    weights = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (sum(weights), len(weights)) == (1_076_912, 23)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.0}
    asked = wrn_22_2(10, CIFAR, dropout=0.3)
    assert {m.p for m in asked.modules() if isinstance(m, nn.Dropout)} == {0.3}


def test_wrn_block_takes_its_convolutional_shortcut_from_the_activated_input():
    model = wrn_22_2(10, CIFAR).eval()
    first, second = model.get_submodule("stage2.0"), model.get_submodule("stage2.1")
    for block in (first, second):
        nn.init.zeros_(block.conv2.weight)  # leaves the shortcut alone
    x = torch.randn(2, 32, 8, 8)
    assert torch.equal(first(x), first.shortcut(torch.relu(first.bn1(x))))
    assert second.shortcut is None
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(second(x), x)


def test_timm_names_the_nearest_model():
    with pytest.raises(BadInput, match="no model 'resnet81'; did you mean '"):
        timm_model(10, CIFAR, variant="resnet81")


def test_timm_never_reaches_out():
    with pytest.raises(BadInput, match="did you mean 'resnet18'"):
        timm_model(10, CIFAR, variant="hf-hub:timm/resnet18")


def test_timm_reports_a_size_that_does_not_fit(monkeypatch):
    def refuse(variant, **options):
        assert options["img_size"] == (30, 32)
        raise AssertionError("image size must be divisible by patch size")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(BadInput, match=r"timm:resnet18 can't be built for input \[3, 30, 32\]: image size"):
        timm_model(10, (3, 30, 32), variant="resnet18")


def test_timm_passes_the_image_size_only_where_taken():
    assert timm_model(10, (3, 64, 64), variant="vit_tiny_patch16_224").patch_embed.img_size == (64, 64)
    assert timm_model(10, (3, 64, 64), variant="resnet10t").num_classes == 10


def test_timm_does_not_hide_other_type_errors(monkeypatch):
    def broken(variant, **options):
        raise TypeError("something else")

    monkeypatch.setattr("timm.create_model", broken)
    with pytest.raises(TypeError, match="something else"):
        timm_model(10, CIFAR, variant="resnet18")


@pytest.mark.parametrize("factory", [small_cnn, lenet300_100, cifar_resnet_20])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 1.0, 3.0])
def test_narrow_is_as_near_as_any_width(factory, share):
    target = round(share * parameters(factory(10, DIGITS)))
    reached = parameters(narrow(factory, 10, DIGITS, target))
    grid = [parameters(factory(10, DIGITS, width=share**0.5 * (1 + step / 50))) for step in range(-25, 26)]
    assert abs(reached - target) <= min(abs(count - target) for count in grid)
    assert reached == pytest.approx(target, rel=0.15)


def test_narrow_at_the_ends():
    smallest = parameters(small_cnn(10, DIGITS, width=1e-9))
    assert parameters(narrow(small_cnn, 10, DIGITS, 1)) == smallest
    with pytest.raises(BadInput, match="parameters: expected at least 1, got 0"):
        narrow(small_cnn, 10, DIGITS, 0)


def test_narrow_draws_as_if_built_directly():
    torch.manual_seed(3)
    found = narrow(lenet300_100, 10, MNIST, 266_610)
    torch.manual_seed(3)
    direct = lenet300_100(10, MNIST)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), direct.parameters(), strict=True))


def test_narrow_names_a_model_without_width():
    with pytest.raises(BadInput, match="model timm_model, variant='resnet18' takes no `width`"):
        narrow(functools.partial(timm_model, variant="resnet18"), 10, CIFAR, 1000)


def test_lenet_with_batch_norm_has_the_same_weights_and_no_biases():
    plain, normed = lenet300_100(10, MNIST), lenet300_100(10, MNIST, batch_norm=True)
    count = lambda model: sum(layer.info.numel for layer in maskable_layers(model).values())  # noqa: E731
    assert count(plain) == count(normed) == 266_200
    assert sum(p.numel() for p in normed.parameters()) == 266_200 + 2 * (300 + 100 + 10)
