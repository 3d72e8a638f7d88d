"""Dead channels cut out of timm's models: residual streams, concatenations, gates, groups, heads."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers.grn import GlobalResponseNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import dstbench
from dstbench.accel.compact import compact
from dstbench.core.network.channels import channels, removable
from dstbench.core.network.layers import maskable_layers
from dstbench.registration.registry import registry

NORMED = "in norms over all of them"  # one channel stands for the others
ACTIVE = "takes its statistics over what isn't zero there"
VARIES = "reads what varies"
SIZES = {"vit": {"img_size": 64}, "vgg": {"mlp_ratio": 1 / 64}, "den": {"block_config": (2, 3, 3, 2)}}
PIXELS = {"timm:crossvit_tiny_240": 240}  # it resizes to what it was made for


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if not name.startswith("timm:"):
        model = registry().build("model", name)(num_classes=10, input_shape=(3, 32, 32))
    else:
        sized = SIZES.get(name[5:8], {})
        model = timm.create_model(name.removeprefix("timm:"), pretrained=False, num_classes=10, **sized)
    for module in model.modules():
        if isinstance(module, _BatchNorm):  # as training leaves them
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.5)
        if isinstance(module, GlobalResponseNorm):  # the identity at first
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def kill(
    model: nn.Module, fraction: float, images: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Masks without a fraction of the channels that may go, in everything that holds them, and those channels.
    Biases, norms, embeddings and tokens of the dead are zero, as a channel structure leaves biases."""
    found = channels(model, None, images)
    layers, modules = maskable_layers(model), dict(model.named_modules())
    dead = torch.rand(found.count, generator=torch.Generator().manual_seed(1)) < fraction
    dead[list(found.reasons)] = False
    for slots in found.flow.rows.values():
        dead[found.of[slots[0]]] = False  # a layer keeps one
    masks = {name: torch.ones(layer.info.shape, dtype=torch.bool) for name, layer in layers.items()}
    silent = [(modules[path], slots) for path, slots in found.flow.norms.items()]
    for name, slots in found.flow.rows.items():
        masks[name][dead[found.of[slots]]] = False
        silent.append((layers[name].module, slots))
    with torch.no_grad():
        for module, slots in silent:
            for vector in (module.bias, getattr(module, "running_mean", None)):
                if vector is not None:
                    vector[dead[found.of[slots]]] = 0
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        for path, (axis, read) in found.flow.entries.items():
            tensors[path].movedim(axis, 0)[dead[found.of[read.slots]]] = 0
        for path in found.flow.across:  # as training leaves them
            for vector, mean in ((modules[path].weight, 1), (getattr(modules[path], "bias", None), 0)):
                if vector is not None:
                    nn.init.normal_(vector, mean, 0.3)
    return masks, dead


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "at_most"),  # of the parameters; half of all channels would leave a quarter
    [
        ("timm:resnet18", 0.32), ("timm:resnet26", 0.32), ("timm:vgg11", 0.32), ("timm:vgg11_bn", 0.32),
        ("timm:mobilenetv3_small_100", 0.32), ("timm:mobilenetv3_large_100", 0.32), ("timm:efficientnet_b0", 0.32),
        ("timm:regnetx_002", 0.37), ("timm:regnety_002", 0.37), ("timm:densenet121", 0.32),
        ("timm:convnext_atto", 0.30), ("timm:convnextv2_atto", 0.30),  # a norm sends more than zeros into their stem
        ("timm:vit_tiny_patch16_224", 0.32), ("timm:test_vit", 0.35), ("timm:test_vit2", 0.35),
        ("timm:crossvit_tiny_240", 0.63),  # activations on normalised streams
        ("timm:mobilevit_xxs", 0.26), ("timm:mobilevitv2_050", 0.34), ("timm:mobileone_s0", 0.32),
        ("timm:hgnetv2_b0", 0.32), ("timm:test_efficientnet_gn", 0.34), ("timm:test_vit4", 0.38),
        ("cifar_resnet_20", 0.32), ("wrn-22-2", 0.32), ("resnet50-cifar", 0.32), ("vgg-d", 0.32),
    ],
)  # fmt: skip
def test_half_of_the_channels_go_and_the_outputs_stay(name, at_most):
    model = build(name)
    pixels = PIXELS.get(name, 64 if name.startswith("timm:") else 32)
    images = torch.randn(2, 3, pixels, pixels)
    masks, dead = kill(model, 0.5, images)
    small = compact(model, masks, images)
    assert all(NORMED in why or ACTIVE in why or VARIES in why for why in small.compaction.kept.values())
    assert small.compaction.kept or torch.equal(removable(model, masks, example=images).gone, dead)
    assert size(small) < at_most * size(model)
    with torch.no_grad():
        for layer, mask in masks.items():
            model.get_submodule(layer).weight.mul_(mask)
        other = torch.randn(2, 3, pixels, pixels)
        expected, actual = model(other), small(other)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
    counted = dstbench.cost(model, masks, (3, pixels, pixels)).hardware_flops
    assert counted == dstbench.cost(small, None, (3, pixels, pixels)).inference_flops


def test_heads_go_whole():
    model = build("timm:vit_tiny_patch16_224")
    masks = {
        name: torch.ones(layer.info.shape, dtype=torch.bool) for name, layer in maskable_layers(model).items()
    }
    masks["blocks.0.attn.qkv"].view(3, 3, 64, -1)[2, 1] = False  # a head's values: a constant is left
    masks["blocks.1.attn.proj"][:, :64] = False  # nobody reads a head
    masks["blocks.2.attn.qkv"].view(3, 3, 64, -1)[2, 1, :32] = False  # half a head stays
    small = compact(model, masks, torch.randn(2, 3, 64, 64))
    assert [block.attn.num_heads for block in small.blocks[:4]] == [2, 2, 3, 3]
    assert small.blocks[0].attn.qkv.out_features == 2 * 3 * 64
    assert small.compaction.kept == {"blocks.2.attn.qkv": "blocks.2.attn.qkv sends into the same channels"}


def test_a_dead_stem_is_named_where_the_stream_lives_on():
    """Foreign masks: rows die in one of the layers that add to a stream, and in a depthwise convolution."""
    model = build("timm:resnet18")
    masks = {
        name: torch.ones(layer.info.shape, dtype=torch.bool) for name, layer in maskable_layers(model).items()
    }
    masks["layer2.0.conv2"][:5] = False
    masks["layer2.0.conv1"][:7] = False  # its norm sends a constant into padding
    small = compact(model, masks, torch.randn(2, 3, 64, 64))
    assert set(small.compaction.kept) == {"layer2.0.conv1", "layer2.0.conv2"}
    assert small.compaction.kept["layer2.0.conv1"] == "layer2.0.conv2 pads the constant that they send"
    assert "into the same channels" in small.compaction.kept["layer2.0.conv2"]
    silent = {r for r in range(7) if model.layer2[0].bn1(torch.zeros(1, 128, 1, 1))[0, r].relu() == 0}
    assert set(small.compaction.removed.get("layer2.0.conv1", ())) == silent


def test_constants_behind_a_depthwise_convolution_fold_into_the_projection():
    model = build("timm:mobilenetv3_small_100")
    names = maskable_layers(model)
    masks = {name: torch.ones(layer.info.shape, dtype=torch.bool) for name, layer in names.items()}
    masks["blocks.1.0.conv_dw"][:10] = (
        False  # a block without squeeze-and-excitation; its norms send constants
    )
    images = torch.randn(2, 3, 64, 64)
    small = compact(model, masks, images)
    assert small.compaction.removed == {
        n: tuple(range(10)) for n in ("blocks.1.0.conv_pw", "blocks.1.0.conv_dw")
    }
    assert set(small.compaction.folded["blocks.1.0.conv_pwl"]) <= set(range(10))
    assert small.compaction.folded["blocks.1.0.conv_pwl"]
    assert small.blocks[1][0].conv_dw.groups == small.blocks[1][0].conv_dw.in_channels == 62
