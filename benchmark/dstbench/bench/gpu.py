"""Shuffled blocks on a GPU: ``python -m dstbench.bench gpu``.

Layers forward and backward, and a training step of vgg-d, beside cuDNN or cuBLAS in the dense layout that is fastest.
Everything runs as a CUDA graph, in one process, interleaved, in an order that rotates each round; figures are
medians. A layer's output and gradients are first compared with those of the masked dense layer. Sparse layers are
fed in each memory format: what turning activations round costs is in the figure, for the output and its gradient too.

``--device cpu`` tries all of that without a GPU, in Triton's interpreter (``TRITON_INTERPRET=1``) and with
``--shrink``: the comparisons are the same, the times mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.accel.kernels.groups import Columns, Groups, taps, to_mask
from dstbench.accel.kernels.triton.blocks import triton_executions
from dstbench.api import LayerCall, LayerInfo
from dstbench.bench.machine_peak import Work, compared, median_ms
from dstbench.bench.single_layers import PASSES
from dstbench.bench.subject import Part, Subject
from dstbench.core.cost.cost import cost
from dstbench.core.storage.condensed_layer import CondensedLayer, layer_call
from dstbench.core.storage.timing import time_interleaved
from dstbench.errors import BadInput
from dstbench.registration.registry import registry

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # relative, against the same dtype
Step = Callable[[], Any]
Layer = nn.Linear | _ConvNd


@dataclass(frozen=True)
class Case:
    """One layer at one density."""

    name: str
    density: float
    columns: Columns = "channel"
    block_size: int = 64
    dtype: torch.dtype = torch.bfloat16


CASES = [
    *(Case("linear", density) for density in (0.1, 0.05)),
    Case("linear", 0.1, block_size=16, dtype=torch.float32),
    *(Case("conv3x3", density, columns) for columns in ("channel", "entry") for density in (0.1, 0.05)),
    Case("conv3x3", 0.1, "channel", block_size=16, dtype=torch.float32),
]
LAYERS: dict[str, Callable[[int], tuple[Layer, tuple[int, ...]]]] = {  # shrunk so many times: layer, input
    "linear": lambda by: (nn.Linear(4096 // by, 4096 // by), (8192 // by, 4096 // by)),
    "conv3x3": lambda by: (nn.Conv2d(512 // by, 512 // by, 3, padding=1), (256 // by, 512 // by, 16, 16)),
}
MOST_SHRUNK = 64


def parts(options: argparse.Namespace) -> list[Part]:
    """Every layer, forward and with backward, and a training step. Raises BadInput where kernels can't run."""
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput("gpu: expected a CUDA device, found none: this benchmark times Triton kernels on one")
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BadInput(
            "gpu: --device cpu runs in Triton's interpreter: expected TRITON_INTERPRET=1 to be set"
        )
    if not 1 <= options.shrink <= MOST_SHRUNK:
        raise BadInput(f"gpu: --shrink: expected 1 to {MOST_SHRUNK}, got {options.shrink}")
    layers = [
        Part(
            f"{case.name}, density {case.density:g}, {case.columns}, {PASSES[training]}",
            partial(_exact, _layer_rows, case, training, options, device),
        )
        for case in CASES
        for training in (False, True)
    ]
    step = Part(f"{options.model}, training step", partial(_exact, _step_rows, options, device), "steps")
    return [*layers, step]


def _exact(rows: Callable[..., list[dict[str, Any]]], *arguments: Any) -> list[dict[str, Any]]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):  # float32 means float32
        return rows(*arguments)


def draw_mask(shape: tuple[int, ...], case: Case, device: torch.device) -> Tensor:
    """Groups of random rows with equally many random columns, bool [*shape]."""
    random = torch.Generator().manual_seed(0)
    width = shape[1] * taps(shape, "channel") // taps(shape, case.columns)
    count, kept = -(-shape[0] // case.block_size), max(1, round(case.density * width))
    columns = torch.rand(count, width, generator=random).topk(kept).indices.sort().values
    ptr = torch.arange(count + 1) * kept
    groups = Groups(torch.randperm(shape[0], generator=random), ptr, columns.flatten().int())
    return to_mask(groups, shape, case.block_size, case.columns).to(device)


def _layer_rows(
    case: Case, training: bool, options: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """One row for each memory format of the sparse layer's input, each with the path that is fastest in it."""
    torch.manual_seed(0)
    layer, size = LAYERS[case.name](options.shrink)
    layer = layer.to(device, case.dtype)
    spatial = isinstance(layer, _ConvNd)
    info = LayerInfo(case.name, tuple(layer.weight.shape), "conv" if spatial else "linear")
    mask = draw_mask(info.shape, case, device)
    with torch.no_grad():
        layer.weight.mul_(mask)
    call = layer_call(layer, info, device=device, dtype=case.dtype, training=training)
    assert call is not None
    x = torch.randn(size, device=device, dtype=case.dtype)
    gradient = torch.randn_like(layer(x))
    sparse = triton_executions(call, mask, case.block_size, case.columns)
    steps: dict[tuple[str, str], Step] = {}  # by path and memory format
    for memory_format in ("contiguous", "channels_last", "feature-major"):
        turned = _turn(x, memory_format, call), _turn(gradient, memory_format, call)
        if memory_format == "channels_last" and not spatial:
            continue
        if memory_format != "feature-major":
            dense = copy.deepcopy(layer)
            if memory_format == "channels_last":
                dense = dense.to(memory_format=torch.channels_last)
            steps["dense", memory_format] = _graph(_pass(dense, *turned, training), device)
        for execution in sparse:
            fast = CondensedLayer(copy.deepcopy(layer), call, execution)
            _compare(fast, layer, mask, *turned)
            steps[execution.path, memory_format] = _graph(_pass(fast, *turned, training), device)
    ms, peak = median_ms(list(steps.values()), options, device, case.dtype)
    works = [_work(layer, x, gradient, active, training) for active in (mask.numel(), int(mask.sum()))]
    return [
        {
            "layer": case.name,
            "pass": PASSES[training],
            "dtype": str(case.dtype).removeprefix("torch."),
            "density": case.density,
            "block_size": case.block_size,
            "columns": case.columns,
            **row,
            **compared(works[0], row["dense_ms"], works[1], row["fast_ms"], peak),
        }
        for row in _ratios(dict(zip(steps, ms, strict=True)))
    ]


def _work(layer: Layer, x: Tensor, out: Tensor, active: int, training: bool) -> Work:
    """What a pass over a layer with so many active weights has to do at least."""
    positions, passes = out.numel() // layer.weight.shape[0], 3 if training else 1
    moved = x.element_size() * (x.numel() + out.numel() + active)
    return Work(passes * 2 * positions * active, passes * moved)


def _ratios(medians: dict[tuple[str, str], float]) -> Iterator[dict[str, Any]]:
    """The fastest path of every memory format beside the fastest dense one."""
    dense, dense_ms = min(((key, ms) for key, ms in medians.items() if key[0] == "dense"), key=lambda p: p[1])
    for memory_format in dict.fromkeys(form for _, form in medians):
        fast = {path: ms for (path, form), ms in medians.items() if form == memory_format and path != "dense"}
        if not fast:
            continue
        path = min(fast, key=fast.__getitem__)
        yield {
            "format": memory_format,
            "path": path,
            "fast_ms": fast[path],
            "dense_format": dense[1],
            "dense_ms": dense_ms,
            "ratio": dense_ms / fast[path],
        }


def _turn(x: Tensor, memory_format: str, call: LayerCall) -> Tensor:
    """x in another memory format: [channels, ..., batch] in memory where that is feature-major."""
    if memory_format == "feature-major":
        return x.movedim(0, -1).contiguous().movedim(-1, 0) if call.stride else x.mT.contiguous().mT
    if memory_format == "channels_last" and call.stride:
        return x.contiguous(memory_format=torch.channels_last)
    return x.clone()


def _compare(fast: CondensedLayer, layer: Layer, mask: Tensor, x: Tensor, gradient: Tensor) -> None:
    """Raise AssertionError unless a condensed layer computes what the masked dense one does."""
    inputs = [x.detach().requires_grad_() for _ in range(2)]
    outputs = [module(mine) for module, mine in zip((fast, layer), inputs, strict=True)]
    for out, mine, module in zip(outputs, inputs, (fast, layer), strict=True):
        module.zero_grad()
        out.backward(gradient, inputs=[mine, *module.parameters()])
    stored = layer.weight.grad.flatten()[fast.execution.positions.clamp(min=0)]  # type: ignore[union-attr]
    pairs = [
        tuple(outputs),
        tuple(mine.grad for mine in inputs),
        (fast.weight.grad, stored.masked_fill(fast.execution.positions < 0, 0)),
        (fast.bias.grad, layer.bias.grad),  # type: ignore[union-attr]
    ]
    for mine, exact in pairs:
        assert mine is not None
        assert exact is not None
        mine, exact = mine.detach().float(), exact.detach().float()
        error = float((mine - exact).norm() / exact.norm())
        assert error < _TOLERANCE[x.dtype], f"{fast.execution.path}: relative error {error:.1e}"


def _pass(module: nn.Module, x: Tensor, gradient: Tensor, training: bool) -> Step:
    """Forward, and all gradients where the layer trains."""
    leaves = [x.requires_grad_(training), *module.parameters()]

    def run() -> object:
        if not training:
            with torch.no_grad():
                return module(x)
        return torch.autograd.grad(module(x), leaves, gradient)

    return run


def _graph(step: Step, device: torch.device) -> Step:
    """A step as a CUDA graph, after warming up: by then kernels are tuned and tables made. The step on a CPU."""
    if device.type == "cpu":
        return step
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Step = graph.replay
    return replay


def _step_rows(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A training step on images of CIFAR's size, batch 128, uniform 10 %, B = 64, under bfloat16 autocast."""
    torch.manual_seed(0)
    side = max(8, 32 // options.shrink)
    size = (3, side, side)
    build, batch = registry().build("model", options.model), 128 // options.shrink
    model: nn.Module = build(num_classes=10, input_shape=size).to(device)
    images, labels = torch.randn(batch, *size, device=device), torch.randint(0, 10, (batch,), device=device)
    steps: dict[tuple[str, str], Step] = {}
    for name in ("contiguous", "channels_last"):
        form = torch.channels_last if name == "channels_last" else torch.contiguous_format
        x = images.contiguous(memory_format=form)
        dense = copy.deepcopy(model).to(memory_format=form)
        steps["dense", name] = _graph(_training_step(dense, x, labels), device)
        fast = copy.deepcopy(dense)
        steps[_condense(fast, x, min(5, options.rounds)), name] = _graph(
            _training_step(fast, x, labels), device
        )
    ms, peak = median_ms(list(steps.values()), options, device, torch.bfloat16)
    flops = 6 * len(images) * cost(model, None, size).inference_flops
    return [
        {
            "model": options.model,
            **row,
            "dense_share": peak.share(flops, row["dense_ms"]),
            "peak_gflops": peak.flops / 1e9,
        }
        for row in _ratios(dict(zip(steps, ms, strict=True)))
    ]


def _condense(model: nn.Module, images: Tensor, rounds: int) -> str:
    """Put the fastest path in the place of every convolution but the first, and say how many run on which."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    inputs = _inputs(model, images, layers)
    ran: Counter[str] = Counter()
    for name, layer in list(layers.items())[1:]:
        fastest = _fastest(name, layer, inputs[name].to(torch.bfloat16), rounds)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, fastest)
        ran[fastest.execution.path if isinstance(fastest, CondensedLayer) else "masked-dense"] += 1
    return ", ".join(f"{path} {count}" for path, count in ran.items())


def _inputs(model: nn.Module, images: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """What each layer is given."""
    inputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name, layer in layers.items()
    ]
    with torch.no_grad(), _autocast(images.device):
        model(images)
    for hook in hooks:
        hook.remove()
    return inputs


def _fastest(name: str, layer: nn.Conv2d, x: Tensor, rounds: int) -> nn.Module:
    """The layer, masked to 10 %, or the execution that takes its place: by their graphs' times in bfloat16."""
    info = LayerInfo(name, tuple(layer.weight.shape), "conv")
    call = layer_call(layer, info, device=x.device, dtype=x.dtype, training=True)
    assert call is not None
    mask = draw_mask(info.shape, Case(name, 0.1), x.device)
    with torch.no_grad():
        layer.weight.mul_(mask)
        gradient = torch.randn_like(layer(x.float())).to(x.dtype)
    sparse = triton_executions(call, mask, 64, "channel")
    candidates = [layer, *(CondensedLayer(copy.deepcopy(layer), call, execution) for execution in sparse)]
    steps = [
        _graph(_pass(copy.deepcopy(module).to(x.dtype), x, gradient, training=True), x.device)
        for module in candidates
    ]
    times = [statistics.median(seconds) for seconds in time_interleaved(steps, rounds, 1)]
    return candidates[times.index(min(times))]


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(
        device.type, torch.bfloat16, cache_enabled=False
    )  # a graph can't hold autocast's cache


def _training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=True)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(images.device):
            loss = nn.functional.cross_entropy(model(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()

    return run


GPU = Subject(
    "Triton kernels of shuffled blocks beside dense, on a GPU",
    parts,
    columns=(
        "layer", "model", "density", "pass", "dtype", "columns", "format", "dense_ms", "dense_share", "fast_ms",
        "fast_share", "ratio", "path",
    ),
    rounds=20,
    warmup=3,
    quick={"rounds": 5, "warmup": 1},
    options={
        "--device": {"choices": ["cuda", "cpu"], "default": "cuda"},
        "--shrink": {"type": int, "default": 1, "help": "divide widths, batches and images by this"},
        "--model": {"default": "vgg-d", "help": "of the training step"},
    },
)  # fmt: skip
