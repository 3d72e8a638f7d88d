"""Built-in models: parameters and multiply-accumulates against published counts, width, bad input."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from dstbench.errors import BadInput
from dstbench.runner.narrow import narrow
from dstbench_plugins.models.cifar_resnet import cifar_resnet_20, cifar_resnet_32
from dstbench_plugins.models.mlp import lenet300_100
from dstbench_plugins.models.small_cnn import small_cnn
from dstbench_plugins.models.timm_models import timm_model
from dstbench_plugins.models.wrn import wrn_22_2

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model, input_shape):
    """Multiply-accumulates of convolutions and linear layers, counted from real output shapes."""
    total = 0

    def count(module, _inputs, output):
        nonlocal total
        positions = math.prod(output.shape[2:]) if isinstance(module, nn.Conv2d) else 1
        total += module.weight.numel() * positions

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model.eval()(torch.zeros(1, *input_shape))
    return total


@pytest.mark.parametrize(
    ("factory", "classes", "input_shape", "expected"),
    [
        (lenet300_100, 10, MNIST, 266_610),
        (cifar_resnet_20, 10, CIFAR, 272_474),
        (cifar_resnet_20, 100, CIFAR, 278_324),
        (cifar_resnet_32, 10, CIFAR, 466_906),
        (cifar_resnet_32, 100, CIFAR, 472_756),
        (wrn_22_2, 10, CIFAR, 1_079_642),
        (wrn_22_2, 100, CIFAR, 1_091_252),
        (small_cnn, 10, DIGITS, 65_514),
    ],
)
def test_parameters(factory, classes, input_shape, expected):
    assert parameters(factory(classes, input_shape)) == expected


@pytest.mark.parametrize(
    ("factory", "classes", "input_shape", "expected"),
    [
        (cifar_resnet_20, 100, CIFAR, 40_818_944),
        (cifar_resnet_32, 100, CIFAR, 69_130_496),
        (wrn_22_2, 10, CIFAR, 157_730_048),
        (lenet300_100, 10, MNIST, 784 * 300 + 300 * 100 + 100 * 10),
    ],
)
def test_macs(factory, classes, input_shape, expected):
    assert macs(factory(classes, input_shape), input_shape) == expected


@pytest.mark.parametrize(
    ("factory", "input_shape"),
    [
        (small_cnn, DIGITS),
        (small_cnn, (3, 33, 17)),
        (lenet300_100, (2, 5, 7)),
        (cifar_resnet_20, CIFAR),
        (cifar_resnet_32, (1, 9, 9)),
        (wrn_22_2, (1, 9, 9)),
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


@pytest.mark.parametrize("factory", [small_cnn, lenet300_100, cifar_resnet_20, wrn_22_2])
def test_width_scales_every_hidden_layer_but_not_the_classes(factory):
    shape = (1, 8, 8)
    whole, half, tiny = (factory(10, shape, width=width) for width in (1.0, 0.5, 1e-9))
    for name, parameter in half.named_parameters():
        expected = whole.get_parameter(name).shape[0]
        last = parameter.shape[0] == 10
        assert parameter.shape[0] == (10 if last else expected // 2), name
    assert {p.shape[0] for p in tiny.parameters()} == {1, 10}
    assert tiny.eval()(torch.rand(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("width", [0, -1, float("inf"), float("nan")])
def test_width_must_be_positive(width):
    with pytest.raises(BadInput, match="width: expected a number greater than 0"):
        lenet300_100(10, DIGITS, width=width)


def test_cifar_resnet_starts_kaiming_normal():
    torch.manual_seed(0)
    weight = cifar_resnet_20(10, CIFAR).get_parameter("stage3.1.conv1.weight")
    fan_in = 64 * 9
    assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)


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


def test_small_cnn_names_the_smallest_input():
    with pytest.raises(BadInput, match="at least 8x8 pixels, got 7x9"):
        small_cnn(10, (1, 7, 9))


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
