"""The built-in strategies, models and data sets, through the same door as anyone's.

Every target is a string, so that listing the registry imports none of them.
"""

from __future__ import annotations

from typing import Any

from dstbench import hookimpl
from dstbench.hookspecs import Register
from dstbench_plugins.registrations import aliases as _aliases
from dstbench_plugins.registrations import below as _below
from dstbench_plugins.registrations.recipes import register_recipe
from dstbench_plugins.registrations.strategies import (
    register_accumulator,
    register_grow,
    register_init,
    register_prune,
    register_schedule,
    register_share,
    register_structure,
    register_values,
)

__all__ = [
    "register_accumulator",
    "register_dataset",
    "register_executor",
    "register_grow",
    "register_init",
    "register_model",
    "register_prune",
    "register_recipe",
    "register_schedule",
    "register_share",
    "register_structure",
    "register_values",
]


@hookimpl
def register_model(register: Register) -> None:
    """Models: built-in ones for small images, for ImageNet and for text, and any of timm's."""
    add = _below(register, "models", input_shape=(1, 8, 8))
    add("small_cnn", "small_cnn:small_cnn", "three 3x3 convolutions and two linear layers")
    add = _below(register, "models", input_shape=(1, 28, 28))
    add("lenet300-100", "lenet:lenet300_100", "784-300-100-10 perceptron")
    add("mlp", "mlp:mlp", "784-1568x3-10 perceptron of CHTs, ReLU; any width and depth")
    add("lenet5", "lenet:lenet5", "two 5x5 convolutions, two linear layers")
    add = _below(register, "models", input_shape=(3, 32, 32))
    add("set-mlp", "set_mlp:set_mlp", "3072-4000-1000-4000-10 perceptron of SET, SReLU")
    add("alexnet-s", "alexnet:alexnet_s", "five strided convolutions; linear layers of 1024")
    add("alexnet-b", "alexnet:alexnet_b", "five strided convolutions; linear layers of 2048")
    add("vgg-c", "vgg:vgg_c", "VGG-16 with three 1x1 convolutions; linear layers of 512")
    add("vgg-d", "vgg:vgg_d", "VGG-16 with linear layers of 512")
    add("vgg-like", "vgg:vgg_like", "VGG-16 with one hidden linear layer of 512")
    add("vgg19", "vgg:vgg19", "sixteen 3x3 convolutions, one linear layer")
    add("cifar_resnet_20", "resnet:cifar_resnet_20", "16/32/64 wide, 3 blocks a stage")
    add("cifar_resnet_32", "resnet:cifar_resnet_32", "16/32/64 wide, 5 blocks a stage")
    add("wrn-22-2", "wrn:wrn_22_2", "wide, pre-activation: 32/64/128 wide, 3 blocks a stage")
    add("wrn-28-2", "wrn:wrn_28_2", "wide, pre-activation: 32/64/128 wide, 4 blocks a stage")
    add("wrn-22-8", "wrn:wrn_22_8", "wide, pre-activation: 128/256/512 wide, 3 blocks a stage")
    add("wrn-16-8", "wrn:wrn_16_8", "wide, pre-activation: 128/256/512 wide, 2 blocks a stage")
    add("wrn-16-10", "wrn:wrn_16_10", "wide, pre-activation: 160/320/640 wide, 2 blocks a stage")
    add("resnet18-cifar", "resnet:resnet18_cifar", "ResNet-18 for 32x32 images")
    add("resnet34-cifar", "resnet:resnet34_cifar", "ResNet-34 for 32x32 images")
    add("resnet50-cifar", "resnet:resnet50_cifar", "ResNet-50 for 32x32 images")
    add("vit", "vit:vit", "ViT-Lite 7/4: 7 layers, 4 heads, 256 wide, patches of 4x4")
    add("deit_tiny", "vit:deit_tiny", "DeiT-tiny with patches of 4x4")
    add = _below(register, "models", input_shape=(3, 224, 224))
    add("resnet18", "resnet:resnet18", "ResNet-18 for ImageNet")
    add("resnet34", "resnet:resnet34", "ResNet-34 for ImageNet")
    add("resnet50", "resnet:resnet50", "ResNet-50 v1.5 for ImageNet")
    add("timm:", "timm_models:timm_model", "any timm model, such as timm:resnet18")
    _language_models(register)


def _language_models(register: Register) -> None:
    """Models of tokens: at the vocabulary and the length that papers have them with."""
    add = _below(register, "models", input_shape=(64,), num_classes=65)
    add("gpt", "gpt:gpt", "nanoGPT: 4 layers, 4 heads, 128 wide; its head is tied to the embedding")
    add = _below(register, "models", input_shape=(256,), num_classes=32_000)
    add("llama", "llama:llama", "LLaMA of 60M parameters (CHTs): 8 layers, 8 heads, 512 wide")
    large = {"layers": 12, "heads": 12, "dim": 768, "hidden": 2048}
    summary = "LLaMA of 130M parameters (CHTs): 12 layers, 12 heads, 768 wide"
    _aliases(add)("llama-130m", "llama:llama", summary, **large)


@hookimpl
def register_dataset(register: Register) -> None:
    """Data sets: one that needs no download, torchvision's, image files by folder, and noise for throughput."""
    below = _below(register, "datasets", revision="1")

    def add(
        name: str,
        target: str,
        summary: str,
        images: tuple[int, int, int],  # to train, to validate, to test
        input_shape: tuple[int, ...],
        num_classes: int = 10,
        **metadata: Any,
    ) -> None:
        counts = zip(("train_images", "validation_images", "test_images"), images, strict=True)
        metadata |= {**dict(counts), "input_shape": input_shape, "num_classes": num_classes}
        below(name, target, summary, **metadata)

    small, grey, colour = "torchvision_sets", (1, 28, 28), (3, 32, 32)
    summary = "scikit-learn's 1,797 real 8x8 scans; ships with it"
    add("digits", "digits:Digits", summary, (1258, 180, 359), (1, 8, 8))
    summary = "70,000 handwritten digits, 28x28"
    add("mnist", f"{small}:MNIST", summary, (55_000, 5_000, 10_000), grey)
    summary = "70,000 pieces of clothing, 28x28"
    add("fashion-mnist", f"{small}:FashionMNIST", summary, (55_000, 5_000, 10_000), grey)
    add(
        "cifar10", f"{small}:CIFAR10", "60,000 photographs of 10 classes, 32x32",
        (45_000, 5_000, 10_000), colour,
        presets=("chase", "dsb", "itop", "mest", "plain", "rigl", "snfs"),
    )  # fmt: skip
    add(
        "cifar100", f"{small}:CIFAR100", "60,000 photographs of 100 classes, 32x32",
        (45_000, 5_000, 10_000), colour, 100,
        presets=("chase", "dsb", "itop", "mest", "plain"),
    )  # fmt: skip
    add(
        "tiny-imagenet", "image_folders:TinyImageNet",
        "110,000 photographs of 200 classes, 64x64, read from files",
        (90_000, 10_000, 10_000), (3, 64, 64), 200,
        presets=("dsb", "plain"),
    )  # fmt: skip
    add(
        "imagenet", "image_folders:ImageNet",
        "1,331,167 photographs of 1,000 classes, 224x224, read from files",
        (1_271_167, 10_000, 50_000), (3, 224, 224), 1000,
    )  # fmt: skip
    below("folder", "own_folder:ImageFolder", "images of your own, a folder a class")
    summary = "noise with learnable labels, for throughput"
    add("synthetic", "synthetic:Synthetic", summary, (2048, 512, 512), colour, epoch="images")
    add(
        "fables",
        "text:Fables",
        "a made-up text by characters; ships with it",
        (2025, 7_199, 7_999),
        (32,),
        35,
        epoch="windows",
    )
    add(
        "shakespeare-char", "text:ShakespeareChar", "tiny Shakespeare by characters, nanoGPT's split",
        (15_685, 0, 111_539), (64,), 65, epoch="windows",
    )  # fmt: skip
    below("text", "text:Text", "a text file of your own, by characters")
    below("tokens", "text:TokenFiles", "token ids of your own: train.bin and val.bin, as nanoGPT writes them")


@hookimpl
def register_executor(register: Register) -> None:
    """Executors: what runs the trials of a plan."""
    register(
        "local",
        "dstbench.runner.execution.order:carry_out",
        summary="one forked process a trial on this machine",
    )
    register("slurm", "dstbench.runner.cluster.slurm:Slurm", summary="arrays of workers in SLURM's queue")
    register("ray", "dstbench.runner.cluster.ray:Ray", summary="workers on a Ray cluster")
