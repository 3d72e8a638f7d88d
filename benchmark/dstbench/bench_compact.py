"""Compaction, measured: ResNet-50 with channels of its blocks, and of its residual streams, removed.

Which channels are dead is drawn at random; a network's speed depends on its widths alone. What is timed is inference
of the dense and of the compacted network, each in its faster memory layout, batch norms folded on both or neither.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dstbench.accel.compact import compact
from dstbench.accel.throughput import inference_call
from dstbench.api import Coupling
from dstbench.core.cost import compacted, cost
from dstbench.core.flow import follow
from dstbench.core.graph import couplings
from dstbench.core.layers import maskable_layers
from dstbench.core.timing import Call, time_interleaved
from dstbench.registration.registry import registry

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``compact``."""
    parser.add_argument("--model", default="timm:resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels, square")
    parser.add_argument("--widths", choices=list(WIDTHS), action="append", help="may be repeated")
    parser.add_argument(
        "--multiple", type=int, action="append", help="of kept channels; may be repeated: 1, 8"
    )
    parser.add_argument("--unfolded", action="store_true", help="batch norms folded on neither side")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=2)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """How much faster than dense, and that as a share of how much smaller in multiply-accumulates."""
    torch.manual_seed(0)
    shape = (3, options.size, options.size)
    model: nn.Module = registry().build("model", options.model)(num_classes=1000, input_shape=shape)
    images = torch.randn(options.batch, *shape)
    rows = [
        row for widths in options.widths or WIDTHS for row in _measure(options, model.eval(), images, widths)
    ]
    return {"rows": rows}


def _measure(
    options: argparse.Namespace, model: nn.Module, images: Tensor, widths: str
) -> list[dict[str, Any]]:
    """One row for each multiple, all timed against one dense network in the same rounds."""
    masks = channel_masks(model, WIDTHS[widths](model, images.shape[1:]))
    multiples = options.multiple or (1, 8)
    small = [compact(model, masks, images[:1], multiple) for multiple in multiples]
    networks = [each if options.unfolded else _folded(each) for each in (model, *small)]
    calls: list[Call] = []
    for network in networks:
        for memory_format in FORMATS.values():
            laid_out = copy.deepcopy(network).to(memory_format=memory_format)
            calls.append(inference_call(laid_out, images.contiguous(memory_format=memory_format)))
    seconds = time_interleaved(calls, options.rounds, options.warmup)
    ms = [statistics.median(each) * 1e3 for each in seconds]
    dense, *fast = (
        min(zip(ms[start : start + 2], FORMATS, strict=True)) for start in range(0, len(ms), len(FORMATS))
    )
    asked, macs = cost(model, masks, images.shape[1:]), cost(model, None, images.shape[1:]).inference_flops
    return [
        {
            "widths": widths,
            "multiple": multiple,
            "macs_ratio": asked.hardware_flops / macs,
            "built_macs_ratio": cost(network, None, images.shape[1:]).inference_flops / macs,
            "dense_ms": dense[0],
            "dense_format": dense[1],
            "compact_ms": best,
            "compact_format": memory_format,
            "speedup": dense[0] / best,
            "share_of_macs": dense[0] / best * asked.hardware_flops / macs,
        }
        for multiple, network, (best, memory_format) in zip(multiples, small, fast, strict=True)
    ]


def _chase(model: nn.Module, shape: Sequence[int]) -> dict[Coupling, int]:
    """Chase at S_c = 0.4: 40 % of all channels inside blocks, evenly from the blocks of the last two stages."""
    pool = {
        unit: width for unit, width in _widths(model).items() if len(unit.producers + unit.consumers) == 2
    }
    late = {unit: width for unit, width in pool.items() if unit.producers[0].startswith(("layer3", "layer4"))}
    kept = 1 - 0.4 * sum(pool.values()) / sum(late.values())
    return {unit: round(kept * width) for unit, width in late.items()}


def _residual(model: nn.Module, shape: Sequence[int]) -> dict[Coupling, int]:
    """The same fraction of every channel, residual streams among them, that leaves 40 % of the operations."""
    pool, low, high = _widths(model), 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        rows = {unit.producers[0]: middle * width for unit, width in pool.items()}
        low, high = (low, middle) if compacted(model, rows, shape).macs_ratio > 0.4 else (middle, high)
    return {unit: round(low * width) for unit, width in pool.items()}


WIDTHS = {"chase 0.4": _chase, "residual 40 %": _residual}


def _widths(model: nn.Module) -> dict[Coupling, int]:
    """All channels that can be removed: how many there are of each coupling."""
    layers = maskable_layers(model)
    return {unit: layers[unit.producers[0]].info.shape[0] for unit in couplings(model, layers)}


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


def _folded(model: nn.Module) -> nn.Module:
    """A copy with every norm that directly follows a convolution in its weights."""
    copied = copy.deepcopy(model)
    modules = dict(copied.named_modules())
    for layer, norms in follow(copied).behind.items():
        fused = fuse_conv_bn_eval(modules[layer], modules[norms[0]])
        copied.set_submodule(layer, fused)
        copied.set_submodule(norms[0], nn.Identity())
    return copied


def main() -> None:
    """Parse, measure, print."""
    import json

    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    add_arguments(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(measure(options), indent=2))


if __name__ == "__main__":
    main()
