"""Whole models beside dense ones: training steps, and inference with batch norms folded. Shuffled blocks, and a
perceptron without a structure.

What stays dense bounds the ratio (Amdahl): norms, attention, activations and the head of a transformer. A row says
which share of the dense model's time they take, and how much faster the rest could make it at most.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dstbench.accel.fold import fold_norms, relus_in_place
from dstbench.accel.inference import accelerate, describe
from dstbench.accel.throughput import Steps, inference_call, training_call
from dstbench.bench.machine_peak import Work, compared, median_ms
from dstbench.bench.subject import FORMATS, Part, Subject, repeated
from dstbench.core.cost.cost import cost
from dstbench.core.network.layers import maskable_layers
from dstbench.core.storage.condensed_layer import layer_call
from dstbench.core.storage.fastest import inputs_of, layer_pass
from dstbench.core.storage.timing import Call
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.registration.registry import registry

_CLASSES, _SHAPE = 10, (3, 32, 32)
_CHARACTERS, _TOKENS = 65, 64
PERCEPTRON = "mlp-2048"  # 784-2048-2048-10
TRANSFORMERS = {"gpt-cpu": "gpt", "vit-lite": "vit"}
"""What they are registered as: nanoGPT's for a CPU, on 64 characters a text, and ViT-Lite 7/4 on 32x32 images."""


@dataclass(frozen=True)
class Case:
    """A network and how it is made sparse."""

    model: nn.Module
    shape: tuple[int, ...]  # of a sample
    classes: int
    recipe: dict[str, Any]
    density: float
    batch: int  # samples, where none is asked for

    def examples(self, batch: int) -> tuple[Tensor, Tensor]:
        """Random inputs, images or token ids, and their targets."""
        if len(self.shape) > 1:
            return torch.randn(batch, *self.shape), torch.randint(0, self.classes, (batch,))
        ids, following = torch.randint(0, self.classes, (2, batch, *self.shape)).unbind()
        return ids, following


def parts(options: argparse.Namespace) -> list[Part]:
    """Training step and inference of every model."""
    return [
        Part(f"{name}, {phase}", partial(_measure, options, name, phase == "training"))
        for name in options.model or ("vgg-d", "resnet18-cifar", PERCEPTRON, *TRANSFORMERS)
        for phase in options.phase or ("training", "inference")
    ]


def _measure(options: argparse.Namespace, name: str, training: bool) -> list[dict[str, Any]]:
    """Milliseconds, and how much faster than the best dense layout."""
    case = _case(name, options)
    batch = options.batch or case.batch
    inputs, targets = case.examples(batch)
    formats = FORMATS if inputs.dim() == 4 else {"rows": torch.contiguous_format}
    last = list(formats.values())[-1]
    x, dense = _as(inputs, last), relus_in_place(case.model)  # on both sides
    fast = copy.deepcopy(dense).to(memory_format=last)
    sparsifier = Sparsifier(
        fast, _optimizer(fast), case.recipe, case.density, total_steps=1,
        storage="condensed" if training else "masked", example_input=x,
    )  # fmt: skip
    works = [
        Work(
            (6 if training else 2)
            * batch
            * cost(case.model, masks, case.shape, "mac-attention").inference_flops
        )
        for masks in (None, sparsifier.masks)
    ]
    alone = _layers_alone(dense, sparsifier, x, training)
    if training:
        ran, fast_call = describe(sparsifier.arrangement.paths), _step(fast, sparsifier, x, targets)
    else:
        fast = accelerate(fast, sparsifier.masks, sparsifier.method.structure, x)
        ran, dense = str(fast.execution_path), fold_norms(copy.deepcopy(dense))
        fast_call = inference_call(fast, x)
    calls: dict[str, Call] = {}
    for layout, memory_format in formats.items():
        copied = copy.deepcopy(dense).to(memory_format=memory_format)
        x = _as(inputs, memory_format)
        calls[layout] = (
            _step(copied, _optimizer(copied), x, targets) if training else inference_call(copied, x)
        )
    (fast_ms, alone_ms, *dense_ms), peak = median_ms([fast_call, alone, *calls.values()], options)
    best, layout = min(zip(dense_ms, calls, strict=True))
    elsewhere = max(0.0, 1 - alone_ms / best)
    row = {
        "model": name,
        "phase": "training step" if training else "inference",
        "density": sparsifier.density,
        "dense_ms": best,
        "dense_format": layout,
        "fast_ms": fast_ms,
        "elsewhere": elsewhere,  # the share of dense time outside of the layers that are sparse
        "at_most": 1 / elsewhere if elsewhere else float("inf"),  # if those took no time
        "ran": ran,
    }
    return [row | compared(works[0], best, works[1], fast_ms, peak)]


def _step(model: nn.Module, optimizer: Steps, x: Tensor, targets: Tensor) -> Call:
    """A training step, on the cross-entropy of every target."""
    return training_call(model, optimizer, x, targets, loss_of=_cross_entropy)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def _layers_alone(dense: nn.Module, sparsifier: Sparsifier, x: Tensor, training: bool) -> Call:
    """The dense layers that are to be sparse, one after another, each on the input that it sees in the model."""
    layers = {name: layer for name, layer in maskable_layers(dense).items() if name in sparsifier.masks}
    passes = []
    for name, seen in inputs_of(dense, {name: layer.module for name, layer in layers.items()}, x).items():
        layer = layers[name]
        call = layer_call(layer.module, layer.info, device=seen.device, dtype=seen.dtype, training=training)
        if call is not None:
            passes.append(layer_pass(copy.deepcopy(layer.module), call, seen))

    def run() -> None:
        for layer_run in passes:
            layer_run()

    return run


def _case(name: str, options: argparse.Namespace) -> Case:
    """Blocks of uniform density in channel columns, equally many in every group, the first convolution dense; of the
    perceptron its hidden layers, at 2 % and without a structure. No updates."""
    torch.manual_seed(0)
    if name == PERCEPTRON:
        hidden = [nn.Flatten(), nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU()]
        parts: dict[str, Any] = {"init": "uniform", "schedule": "never", "dense_layers": ["@classifier"]}
        model = nn.Sequential(*hidden, nn.Linear(2048, _CLASSES))
        return Case(model, (1, 28, 28), _CLASSES, parts, options.density or 0.02, 128)
    recipe = {
        "name": "ssb-fast",
        "block_size": options.block_size,
        "init": {"name": "magnitude", "share": "uniform"},
        "dense_layers": ["@first_conv"],
    }
    if name in TRANSFORMERS:
        recipe["dense_layers"] = ["@first_conv", "@classifier"]
    shape, classes = ((_TOKENS,), _CHARACTERS) if name == "gpt-cpu" else (_SHAPE, _CLASSES)
    factory = registry().build("model", TRANSFORMERS.get(name, name))
    model = factory(num_classes=classes, input_shape=shape)
    return Case(model, shape, classes, recipe, options.density or 0.1, 64 if name in TRANSFORMERS else 128)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def _as(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    return images.contiguous(memory_format=memory_format)


MODELS = Subject(
    "whole models, shuffled blocks beside dense",
    parts,
    columns=(
        "model", "phase", "density", "dense_ms", "dense_share", "fast_ms", "fast_share", "ratio", "elsewhere",
        "at_most", "ran",
    ),
    rounds=9,
    warmup=2,
    quick={"rounds": 3, "warmup": 1, "model": ["resnet18-cifar", PERCEPTRON], "batch": 32},
    options={
        "--model": repeated(f"vgg-d, resnet18-cifar, {PERCEPTRON}, {', '.join(TRANSFORMERS)}"),
        "--density": {"type": float, "help": "by default 0.1, of the perceptron 0.02"},
        "--block-size": {"type": int, "default": 64},
        "--batch": {"type": int, "help": "by default 128, of transformers 64"},
        "--phase": repeated(choices=["training", "inference"]),
    },
)  # fmt: skip
