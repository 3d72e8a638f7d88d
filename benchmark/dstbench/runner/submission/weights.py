"""A submission's checkpoint: the active weights and where they stand, read as what a stranger wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dstbench.accel.export import VERSION, write_sparse
from dstbench.core.network.layers import maskable_layers
from dstbench.core.training import checkpoint
from dstbench.errors import BadInput

FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds, on the CPU."""

    state: Mapping[str, Tensor]  # a whole state dict, zeros where a weight is inactive
    masks: Mapping[str, Tensor]  # layer name -> bool [*w]; none for a network without masks


def write(model: nn.Module, masks: Mapping[str, Tensor], about: Mapping[str, str], file: Path) -> None:
    """Write a network's active weights, its masks as bits or gaps, whichever is smaller, and what is dense."""
    write_sparse(model, masks, about, file, keep_masks=True)


def read(file: Path, model: nn.Module) -> Weights:
    """What ``write`` wrote of a network like ``model``. Nothing in the file is run.

    Raises BadInput, naming the tensor, for anything else: other names, shapes or dtypes, positions that are outside,
    out of order or twice, figures that aren't finite.
    """
    from safetensors import SafetensorError, safe_open

    expected = model.state_dict()
    _check_size(file, expected)
    try:
        with safe_open(file, "pt") as opened:
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = opened.metadata() or {}
        shapes = json.loads(about.get("sparse", "null"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise BadInput(f"{FILE}: can't be read as safetensors: {error}") from error
    if about.get("format_version") != str(VERSION) or not isinstance(shapes, dict):
        raise BadInput(
            f"{FILE}: expected format_version {VERSION}, got {about.get('format_version', 'none')!r:.40}"
        )
    state, masks = _assembled(tensors, shapes, expected)
    layers = {layer.parameter: name for name, layer in maskable_layers(model).items()}
    return Weights(state, {layers.get(name, name): mask for name, mask in masks.items()})


def digest(file: Path) -> str:
    """sha256, hex, of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_size(file: Path, expected: Mapping[str, Tensor]) -> None:
    """A file larger than the dense network with a position for each weight is none of it: it isn't even read."""
    if not file.is_file() or file.is_symlink():
        raise BadInput(f"{FILE}: expected a plain file beside the record, got none")
    most = 2**20 + sum(value.nbytes + 5 * value.numel() for value in expected.values())
    if (size := file.stat().st_size) > most:
        raise BadInput(f"{FILE}: expected at most {most:,} bytes for this network, got {size:,}")


def _assembled(
    tensors: dict[str, Tensor], shapes: Mapping[str, object], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state dict, and the masks by the weights' names in it."""
    state: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name, like in expected.items():
        if name in shapes:
            if shapes[name] != list(like.shape):
                raise BadInput(f"{FILE}: {name}: expected shape {list(like.shape)}, got {shapes[name]!r:.60}")
            masks[name], state[name] = _dense(tensors, name, like)
        elif name in tensors:
            state[name] = tensors.pop(name)
        else:
            raise BadInput(f"{FILE}: no tensor {name!r}")
        _check(name, state[name], like)
    if extra := sorted({*tensors, *shapes} - expected.keys()):
        raise BadInput(f"{FILE}: the network has no tensor {extra[0]!r:.80}")
    return state, masks


def _dense(tensors: dict[str, Tensor], name: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mask and values of one sparse tensor; its parts are taken out of ``tensors``."""
    values, gaps, bits = (tensors.pop(f"{name}.{part}", None) for part in ("values", "gaps", "bits"))
    if values is None or values.dtype != like.dtype or values.dim() != 1 or (gaps is None) == (bits is None):
        raise BadInput(f"{FILE}: {name}: expected values of {like.dtype} and either gaps or bits")
    mask = torch.zeros(like.shape, dtype=torch.bool)
    if gaps is not None:
        at = gaps.to(torch.int64).cumsum(0) if gaps.dim() == 1 else gaps.new_zeros(0)
        ordered = len(at) == len(values) and bool((at.diff() > 0).all())
        if not ordered or (len(at) and not 0 <= int(at[0]) <= int(at[-1]) < like.numel()):
            raise BadInput(
                f"{FILE}: {name}: expected {len(values)} positions below {like.numel()}, each once"
            )
        mask.view(-1)[at] = True
    elif bits is not None:
        if bits.dtype != torch.uint8 or bits.shape != (-(-like.numel() // 8),):
            raise BadInput(f"{FILE}: {name}: expected {-(-like.numel() // 8)} bytes of bits")
        mask = checkpoint.unpack(bits, mask)
        if int(mask.count_nonzero()) != len(values):
            raise BadInput(
                f"{FILE}: {name}: {int(mask.count_nonzero())} bits are set for {len(values)} values"
            )
    dense = torch.zeros(like.shape, dtype=like.dtype)
    dense[mask] = values
    return mask, dense


def _check(name: str, value: Tensor, like: Tensor) -> None:
    if value.dtype != like.dtype or value.shape != like.shape:
        raise BadInput(
            f"{FILE}: {name}: expected {like.dtype} {list(like.shape)}, got {value.dtype} {list(value.shape)}"
        )
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise BadInput(f"{FILE}: {name}: {int((~value.isfinite()).sum())} values aren't finite")
