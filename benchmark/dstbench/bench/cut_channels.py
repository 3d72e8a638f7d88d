"""Compaction, measured: ResNet-50 without channels of its blocks and of its residual streams, vgg19 in training.

Which channels are dead is drawn at random; a network's speed depends on its widths alone. What is timed is inference
of the dense and of the compacted network, each in its faster memory layout, batch norms folded on both or neither;
and a training step of a network that loses its channels as it trains.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dstbench.accel.compact import compact
from dstbench.accel.fold import fold_norms
from dstbench.accel.throughput import inference_call, training_call
from dstbench.api import Coupling
from dstbench.bench.machine_peak import median_ms
from dstbench.bench.subject import FORMATS, Part, Subject, repeated
from dstbench.core.cost.cost import cost, width_cost
from dstbench.core.network.couplings import couplings
from dstbench.core.network.layers import maskable_layers
from dstbench.core.storage.timing import Call, time_interleaved
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.errors import BadInput
from dstbench.registration.registry import registry


def parts(options: argparse.Namespace) -> list[Part]:
    """Inference: how much faster than dense, and that as a share of how much smaller in multiply-accumulates.
    Training: a step of a network that was compacted as it trained, beside one from its start."""
    phases = options.phase or ("inference", "training")
    inference = [
        Part(f"inference, {widths}", partial(_inference, options, widths))
        for widths in options.widths or WIDTHS
        if "inference" in phases
    ]
    training = [Part("training, vgg19", partial(_in_training, options), "training")]
    return inference + training * ("training" in phases)


def _inference(options: argparse.Namespace, widths: str) -> list[dict[str, Any]]:
    """One row for each multiple, all timed against one dense network in the same rounds."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: expected a CUDA device, found none")
    torch.manual_seed(0)
    shape = (3, options.size, options.size)
    model: nn.Module = registry().build("model", options.model)(num_classes=1000, input_shape=shape)
    images = torch.randn(options.batch, *shape)
    return _measure(options, model.eval(), images, widths)


def _measure(
    options: argparse.Namespace, model: nn.Module, images: Tensor, widths: str
) -> list[dict[str, Any]]:
    masks = channel_masks(model, WIDTHS[widths](model, images.shape[1:]))
    multiples = options.multiple or (1, 8)
    small = [compact(model, masks, images[:1], multiple) for multiple in multiples]
    networks = [
        network if options.unfolded else fold_norms(copy.deepcopy(network)) for network in (model, *small)
    ]
    calls: list[Call] = []
    for network in networks:
        for memory_format in FORMATS.values():
            laid_out = copy.deepcopy(network).to(options.device).to(memory_format=memory_format)
            x = images.to(options.device).contiguous(memory_format=memory_format)
            calls.append(inference_call(laid_out, x))
    ms, peak = median_ms(calls, options, options.device)
    dense, *fast = (
        min(zip(ms[start : start + 2], FORMATS, strict=True)) for start in range(0, len(ms), len(FORMATS))
    )
    asked, macs = cost(model, masks, images.shape[1:]), cost(model, None, images.shape[1:]).inference_flops
    built = [cost(network, None, images.shape[1:]).inference_flops for network in small]
    return [
        {
            "widths": widths,
            "multiple": multiple,
            "macs_ratio": asked.hardware_flops / macs,
            "built_macs_ratio": built_macs / macs,
            "dense_ms": dense[0],
            "dense_format": dense[1],
            "compact_ms": best,
            "compact_format": memory_format,
            "speedup": dense[0] / best,
            "share_of_macs": dense[0] / best * asked.hardware_flops / macs,
            "dense_share": peak.share(2 * len(images) * macs, dense[0]),
            "compact_share": peak.share(2 * len(images) * built_macs, best),
            "peak_gflops": peak.flops / 1e9,
        }
        for multiple, built_macs, (best, memory_format) in zip(multiples, built, fast, strict=True)
    ]


def _chase(model: nn.Module, shape: Sequence[int]) -> dict[Coupling, int]:
    """Chase at S_c = 0.4: 40 % of all channels inside blocks, evenly from the blocks of the last two stages."""
    pool = {
        unit: width for unit, width in _widths(model).items() if len(unit.producers + unit.consumers) == 2
    }
    late = {unit: width for unit, width in pool.items() if unit.producers[0].startswith(("layer3", "layer4"))}
    if not late:
        raise BadInput("--widths 'chase 0.4': expected a ResNet with blocks in layer3 and layer4, found none")
    kept = 1 - 0.4 * sum(pool.values()) / sum(late.values())
    return {unit: round(kept * width) for unit, width in late.items()}


def _residual(model: nn.Module, shape: Sequence[int]) -> dict[Coupling, int]:
    """The same fraction of every channel, residual streams among them, that leaves 40 % of the operations."""
    pool, low, high = _widths(model), 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        rows = {unit.producers[0]: middle * width for unit, width in pool.items()}
        low, high = (low, middle) if width_cost(model, rows, shape).macs_ratio > 0.4 else (middle, high)
    return {unit: round(low * width) for unit, width in pool.items()}


WIDTHS = {"chase 0.4": _chase, "residual 40 %": _residual}


def _widths(model: nn.Module) -> dict[Coupling, int]:
    """All channels that can be removed: how many there are of each coupling."""
    layers = maskable_layers(model)
    return {
        unit: layers[unit.producers[0]].info.shape[0] for unit in couplings(model, layers) if not unit.stream
    }


def channel_masks(model: nn.Module, widths: Mapping[Coupling, int]) -> dict[str, Tensor]:
    """Masks, bool [*w], as a removal of channels leaves them: so many rows of each unit live, drawn at random,
    and the columns that read the others are dead."""
    masks = {
        name: torch.ones(layer.info.shape, dtype=torch.bool) for name, layer in maskable_layers(model).items()
    }
    for unit, kept in widths.items():
        gone = torch.randperm(len(masks[unit.producers[0]]))[kept:]
        for name in unit.producers:
            masks[name][gone] = False
        for name in unit.consumers:
            masks[name][:, gone] = False
    return masks


def _in_training(options: argparse.Namespace) -> list[dict[str, Any]]:
    """vgg19 under Chase with S_c = 0.5, compacted as it trains: a plain step behind the last removal, beside one
    before the first. It trains a few steps on noise: which channels go follows the initial weights."""
    steps, labels = 10, torch.randint(0, 10, (128,))
    images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def training(total_steps: int, delta_t: int) -> tuple[Sparsifier, Call]:
        torch.manual_seed(0)
        model: nn.Module = registry().build("model", "vgg19")(num_classes=10, input_shape=(3, 32, 32))
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        recipe = {"name": "chase", "channel_sparsity": 0.5, "delta_t": delta_t}
        sparsifier = Sparsifier(model, optimizer, recipe, 0.1, total_steps=total_steps, storage="compact")
        return sparsifier, training_call(model, sparsifier, images, labels)

    (sparsifier, late), (_, early) = training(steps, 1), training(10**6, 10**5)
    for _ in range(steps):
        late()
    end, start = time_interleaved([late, early], options.rounds, options.warmup)
    row = {
        "start_ms": statistics.median(start) * 1e3,
        "end_ms": statistics.median(end) * 1e3,
        "end_over_start": statistics.median(e / s for e, s in zip(end, start, strict=True)),
        "rows_left": {name: len(rows) for name, rows in sparsifier.arrangement.rows.items()},
    }
    return [row]


COMPACT = Subject(
    "channels cut out, beside dense",
    parts,
    columns=(
        "widths", "multiple", "macs_ratio", "dense_ms", "dense_share", "compact_ms", "compact_share", "speedup",
        "share_of_macs",
    ),
    rounds=9,
    warmup=2,
    quick={"rounds": 3, "warmup": 1, "batch": 2, "phase": ["inference"], "multiple": [1]},
    options={
        "--model": {"default": "timm:resnet50"},
        "--batch": {"type": int, "help": "by default 8"},
        "--size": {"type": int, "default": 224, "help": "pixels, square"},
        "--widths": repeated(choices=list(WIDTHS)),
        "--multiple": repeated("of kept channels: 1, 8", type=int),
        "--unfolded": {"action": "store_true", "help": "batch norms folded on neither side"},
        "--phase": repeated(choices=["inference", "training"]),
        "--device": {"choices": ["cpu", "cuda"], "default": "cpu", "help": "where inference runs"},
    },
    defaults={"batch": 8},
)  # fmt: skip
