"""Whole models beside dense ones: training steps, and inference with batch norms folded. Shuffled blocks, and a
perceptron without a structure."""

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
from dstbench.accel.throughput import inference_call, training_call
from dstbench.bench.machine_peak import Work, compared, median_ms
from dstbench.bench.subject import FORMATS, Part, Subject, repeated
from dstbench.core.cost.cost import cost
from dstbench.core.storage.timing import Call
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.registration.registry import registry

_CLASSES, _SHAPE = 10, (3, 32, 32)
PERCEPTRON = "mlp-2048"  # 784-2048-2048-10


@dataclass(frozen=True)
class Case:
    """A network and how it is made sparse."""

    model: nn.Module
    shape: tuple[int, ...]  # of an image
    recipe: dict[str, Any]
    density: float


def parts(options: argparse.Namespace) -> list[Part]:
    """Training step and inference of every model."""
    return [
        Part(f"{name}, {phase}", partial(_measure, options, name, phase == "training"))
        for name in options.model or ("vgg-d", "resnet18-cifar", PERCEPTRON)
        for phase in options.phase or ("training", "inference")
    ]


def _measure(options: argparse.Namespace, name: str, training: bool) -> list[dict[str, Any]]:
    """Milliseconds, and how much faster than the best dense layout."""
    case = _case(name, options)
    images, labels = torch.randn(options.batch, *case.shape), torch.randint(0, _CLASSES, (options.batch,))
    x, dense = _as(images, torch.channels_last), relus_in_place(case.model)  # on both sides
    fast = copy.deepcopy(dense).to(memory_format=torch.channels_last)
    sparsifier = Sparsifier(
        fast, _optimizer(fast), case.recipe, case.density, total_steps=1,
        storage="condensed" if training else "masked", example_input=x,
    )  # fmt: skip
    works = [
        Work((6 if training else 2) * options.batch * cost(case.model, masks, case.shape).inference_flops)
        for masks in (None, sparsifier.masks)
    ]
    if training:
        ran, fast_call = describe(sparsifier.arrangement.paths), training_call(fast, sparsifier, x, labels)
    else:
        fast = accelerate(fast, sparsifier.masks, sparsifier.method.structure, x)
        ran, dense = str(fast.execution_path), fold_norms(copy.deepcopy(dense))
        fast_call = inference_call(fast, x)
    calls: dict[str, Call] = {}
    for layout, memory_format in FORMATS.items():
        copied = copy.deepcopy(dense).to(memory_format=memory_format)
        x = _as(images, memory_format)
        calls[layout] = (
            training_call(copied, _optimizer(copied), x, labels) if training else inference_call(copied, x)
        )
    (fast_ms, *dense_ms), peak = median_ms([fast_call, *calls.values()], options)
    best, layout = min(zip(dense_ms, calls, strict=True))
    row = {
        "model": name,
        "phase": "training step" if training else "inference",
        "density": sparsifier.density,
        "dense_ms": best,
        "dense_format": layout,
        "fast_ms": fast_ms,
        "ran": ran,
    }
    return [row | compared(works[0], best, works[1], fast_ms, peak)]


def _case(name: str, options: argparse.Namespace) -> Case:
    """Blocks of uniform density in channel columns, equally many in every group, the first convolution dense; of the
    perceptron its hidden layers, at 2 % and without a structure. No updates."""
    torch.manual_seed(0)
    if name == PERCEPTRON:
        hidden = [nn.Flatten(), nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU()]
        parts: dict[str, Any] = {"init": "uniform", "schedule": "never", "dense_layers": ["@classifier"]}
        model = nn.Sequential(*hidden, nn.Linear(2048, _CLASSES))
        return Case(model, (1, 28, 28), parts, options.density or 0.02)
    recipe = {
        "name": "ssb-fast",
        "block_size": options.block_size,
        "init": {"name": "magnitude", "share": "uniform"},
        "dense_layers": ["@first_conv"],
    }
    model = registry().build("model", name)(num_classes=_CLASSES, input_shape=_SHAPE)
    return Case(model, _SHAPE, recipe, options.density or 0.1)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def _as(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    return images.contiguous(memory_format=memory_format)


MODELS = Subject(
    "whole models, shuffled blocks beside dense",
    parts,
    columns=("model", "phase", "density", "dense_ms", "dense_share", "fast_ms", "fast_share", "ratio", "ran"),
    rounds=9,
    warmup=2,
    quick={"rounds": 3, "warmup": 1, "model": ["resnet18-cifar", PERCEPTRON], "batch": 32},
    options={
        "--model": repeated(f"vgg-d, resnet18-cifar, {PERCEPTRON}"),
        "--density": {"type": float, "help": "by default 0.1, of the perceptron 0.02"},
        "--block-size": {"type": int, "default": 64},
        "--batch": {"type": int, "help": "by default 128"},
        "--phase": repeated(choices=["training", "inference"]),
    },
    defaults={"batch": 128},
)
