"""Single layers of shuffled blocks beside masked dense ones, in whichever memory format each runs best in."""

from __future__ import annotations

import argparse
import copy
import statistics
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.accel.packed import Packed
from dstbench.api import Execution, LayerCall, LayerInfo, LayerView
from dstbench.bench.machine_peak import Work, compared, median_ms
from dstbench.bench.subject import FORMATS, Part, Subject, repeated
from dstbench.core.engine.structures import EngineStructure, as_structure
from dstbench.core.storage.condensed_layer import CondensedLayer, layer_call
from dstbench.core.storage.fastest import choose, layer_pass
from dstbench.core.storage.timing import Call, time_interleaved
from dstbench.registration.registry import registry

CASES: dict[str, tuple[nn.Linear | _ConvNd, tuple[int, ...]]] = {
    "linear": (nn.Linear(2048, 2048), (128, 2048)),
    "conv3x3-512": (nn.Conv2d(512, 512, 3, padding=1, bias=False), (64, 512, 8, 8)),
    "conv3x3-256": (nn.Conv2d(256, 256, 3, padding=1, bias=False), (64, 256, 16, 16)),
    "conv1x1-1024": (nn.Conv2d(256, 1024, 1, bias=False), (64, 256, 14, 14)),
}
"""The layers that are measured, with their inputs. Convolutions have no bias, as in front of a norm."""
PASSES = {False: "forward", True: "forward+backward"}


@dataclass(frozen=True)
class Candidate:
    """One way to compute the layer, in one memory format."""

    role: str  # "dense", "fast" or "chosen": by the dispatcher
    path: str
    memory_format: str
    call: Call


def parts(options: argparse.Namespace) -> list[Part]:
    """Every layer at every density, forward and with backward, and how long blocks take to be extracted."""
    spec = {
        "name": "shuffled_block",
        "block_size": options.block_size,
        "columns": options.columns,
        "balanced": not options.ragged,
    }
    structure = as_structure(registry().build("structure", spec))
    return [
        *(
            Part(
                f"{name}, density {density:g}, {PASSES[training]}",
                partial(_measure, options, structure, name, density, training),
            )
            for name in CASES
            for density in options.density or (0.5, 0.25, 0.1, 0.05)
            for training in (False, True)
        ),
        Part("extraction", partial(_extraction, structure, options.rounds), "extraction"),
    ]


def draw_mask(structure: EngineStructure, shape: tuple[int, ...], density: float) -> Tensor:
    """The blocks that the structure extracts from random magnitudes: bool [*shape]."""
    active = round(density * torch.Size(shape).numel())
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    empty = torch.zeros(shape, dtype=torch.bool)
    info = LayerInfo("layer", shape, "conv" if len(shape) > 2 else "linear")
    view = LayerView(info, scores, empty, empty, active, active)
    return structure.fill(view, structure.merge(empty, None, scores, active), active)


def _measure(
    options: argparse.Namespace, structure: EngineStructure, name: str, density: float, training: bool
) -> list[dict[str, Any]]:
    """One row: dense, every execution, and what the dispatcher picks, in every memory format."""
    layer, size = copy.deepcopy(CASES[name][0]), CASES[name][1]
    info = LayerInfo(name, tuple(layer.weight.shape), "conv" if len(size) == 4 else "linear")
    mask = draw_mask(structure, info.shape, density)
    with torch.no_grad():
        layer.weight.mul_(mask)
    call = layer_call(layer, info, device=torch.device("cpu"), dtype=torch.float32, training=training)
    assert call is not None
    executions: list[Execution] = list(structure.accelerate(call, mask))
    candidates = []
    for memory_format, x in _inputs(size).items():
        chosen = choose(layer, call, executions, x)
        runs = [("dense", "dense", None), ("chosen", chosen.path, chosen.execution)]
        runs += [("fast", execution.path, execution) for execution in executions]
        candidates += [
            Candidate(role, path, memory_format, layer_pass(_module(layer, call, execution, x), call, x))
            for role, path, execution in runs
        ]
    medians, peak = median_ms([candidate.call for candidate in candidates], options)

    def best(role: str) -> tuple[Candidate, float]:
        mine = [pair for pair in zip(candidates, medians, strict=True) if pair[0].role == role]
        return min(mine, key=lambda pair: pair[1], default=(candidates[0], float("nan")))

    (dense, dense_ms), (fast, fast_ms), (chosen_run, chosen_ms) = best("dense"), best("fast"), best("chosen")
    works = [work(layer, size, active, training) for active in (mask.numel(), int(mask.sum()))]
    row = {
        "layer": name,
        "density": float(mask.float().mean()),
        "pass": PASSES[training],
        "dense_ms": dense_ms,
        "dense_format": dense.memory_format,
        "fast_ms": fast_ms,
        "path": fast.path,
        "format": fast.memory_format,
        "dispatched_ratio": dense_ms / chosen_ms,
        "dispatched": chosen_run.path,
    }
    return [row | compared(works[0], dense_ms, works[1], fast_ms, peak)]


def work(layer: nn.Linear | _ConvNd, size: tuple[int, ...], active: int, training: bool) -> Work:
    """What a pass over a layer with so many active weights has to do at least: with gradients, three products,
    each of which reads two of input, output and weights and writes the third, in float32."""
    with torch.no_grad():
        out = layer(torch.zeros(size))
    positions = out.numel() // layer.weight.shape[0]
    moved = 4 * (torch.Size(size).numel() + out.numel() + active)
    passes = 3 if training else 1
    return Work(passes * 2 * positions * active, passes * moved)


def _inputs(size: tuple[int, ...]) -> dict[str, Tensor]:
    """One input in each memory format that it can have."""
    x = torch.randn(size)
    if x.dim() == 2:
        return {"rows": x}
    return {name: x.contiguous(memory_format=memory_format) for name, memory_format in FORMATS.items()}


def _module(layer: nn.Linear | _ConvNd, call: LayerCall, execution: Execution | None, x: Tensor) -> nn.Module:
    """What runs: the dense layer in the format of its input, or an execution."""
    if execution is None:
        last = x.dim() == 4 and not x.is_contiguous()
        memory_format = torch.channels_last if last else torch.contiguous_format
        dense: nn.Module = copy.deepcopy(layer).to(memory_format=memory_format)
        return dense
    return (
        CondensedLayer(copy.deepcopy(layer), call, execution)
        if call.training
        else Packed(layer, call, execution)
    )


def _extraction(structure: EngineStructure, rounds: int) -> list[dict[str, Any]]:
    """In how many milliseconds blocks of a 512x4608 weight are extracted at density 0.1."""
    seconds = time_interleaved([lambda: draw_mask(structure, (512, 512, 3, 3), 0.1)], rounds, 1)[0]
    return [{"layer": "512x4608", "density": 0.1, "fast_ms": statistics.median(seconds) * 1e3}]


LAYERS = Subject(
    "single layers, shuffled blocks beside dense",
    parts,
    columns=(
        "layer", "density", "pass", "dense_ms", "dense_share", "fast_ms", "fast_share", "ratio", "roofline",
        "path",
    ),
    rounds=15,
    warmup=3,
    quick={"rounds": 5, "warmup": 1, "density": [0.1]},
    options={
        "--density": repeated("0.5, 0.25, 0.1, 0.05", type=float),
        "--block-size": {"type": int, "default": 64},
        "--columns": {"choices": ["entry", "channel"], "default": "channel"},
        "--ragged": {"action": "store_true", "help": "groups needn't have equally many columns"},
    },
)  # fmt: skip
