"""A trained network as a file that runs without dstbench: an exported program, ONNX, or sparse safetensors.

``pt2`` and ``onnx`` hold a network to run, ``safetensors`` the weights of the model that its metadata names: of
each tensor whichever is smallest, all its values, or the active ones and where they stand. Reading that takes
safetensors and PyTorch alone::

    import json, torch
    from safetensors import safe_open

    with safe_open("model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        shapes = json.loads(file.metadata()["sparse"])
    for name, shape in shapes.items():
        values, dense = tensors.pop(f"{name}.values"), torch.zeros(shape)
        if f"{name}.gaps" in tensors:  # from each active position to the next, the first from 0
            at = tensors.pop(f"{name}.gaps").long().cumsum(0)
        else:  # one bit a position of the flattened tensor, the highest bit of a byte first
            at = (tensors.pop(f"{name}.bits")[:, None] >> torch.arange(7, -1, -1)).bitwise_and(1).flatten().nonzero()
        dense.view(-1)[at.flatten()] = values
        tensors[name] = dense
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from dstbench.core.network.layers import maskable_layers
from dstbench.core.training import checkpoint
from dstbench.errors import BadInput, nearest

VERSION = 1
"""Of what the metadata and the tensors' names in a safetensors file mean."""

Outputs = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """What is exported. All on the CPU, in eval mode."""

    masked: nn.Module  # with zeros where the masks are inactive: what every file must compute
    running: nn.Module  # the same function in plain PyTorch, maybe smaller: what is written to be run
    masks: Mapping[str, Tensor]  # layer name -> bool [*w]
    example: Tensor  # float [batch, ...], batch > 1: 1 would be taken for a constant
    about: Mapping[str, str]  # for the file's metadata


@dataclass(frozen=True)
class Format:
    """One kind of file: how a network is written, and how to compute with what was written."""

    write: Callable[[Network, Path], None]
    load: Callable[[Network, Path], Outputs]
    runs: bool = True  # whether it holds ``running``; else the weights of ``masked``
    needs: tuple[str, ...] = ()  # packages of the extra ``export``


def get_format(name: str) -> Format:
    """A format by name. Raises BadInput for an unknown one, and for one whose packages aren't installed."""
    if name not in FORMATS:
        raise BadInput(f"format: unknown {name!r}{nearest(name, FORMATS)}")
    missing = [package for package in FORMATS[name].needs if find_spec(package) is None]
    if missing:
        raise BadInput(f"format: {name!r} needs {', '.join(missing)}: pip install 'dstbench[export]'")
    return FORMATS[name]


def load_export(file: str | Path) -> dict[str, Tensor]:
    """The state dict in a file of format ``safetensors``, dense: zeros where a weight is inactive.

    ``dstbench.accel.export`` says how to read such a file without dstbench, in ten lines. Raises BadInput
    where the file isn't one that ``dstbench export`` wrote.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{file}: can't be read as safetensors: {error}") from error
    if about.get("format_version") != str(VERSION):
        version = about.get("format_version", "none")
        raise BadInput(f"{file}: expected an export of format_version {VERSION}, got {version}")
    for name, shape in json.loads(about["sparse"]).items():
        tensors[name] = _dense(tensors, name, tuple(shape))
    return tensors


def _dense(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Take one sparse tensor's parts out of ``tensors`` and put them together."""
    values = tensors.pop(f"{name}.values")
    dense = values.new_zeros(shape)
    if f"{name}.gaps" in tensors:
        dense.view(-1)[tensors.pop(f"{name}.gaps").long().cumsum(0)] = values
    else:
        dense[checkpoint.unpack(tensors.pop(f"{name}.bits"), dense)] = values
    return dense


def _sparse(tensor: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """A tensor's active values and where they stand, as bits or as gaps: by what they are called in the file."""
    values, at = tensor[mask], mask.flatten().nonzero()[:, 0]
    gaps = at.diff(prepend=at.new_zeros(1))
    longest = int(gaps.max()) if len(gaps) else 0
    dtype = next(d for d in (torch.uint8, torch.uint16, torch.uint32) if longest <= torch.iinfo(d).max)
    if len(gaps) * dtype.itemsize * 8 < mask.numel():
        return {"values": values, "gaps": gaps.to(dtype)}
    return {"values": values, "bits": checkpoint.pack(mask)}


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _write_safetensors(network: Network, file: Path) -> None:
    write_sparse(network.masked, network.masks, network.about, file)


def write_sparse(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    about: Mapping[str, str],
    file: Path,
    *,
    keep_masks: bool = False,
) -> None:
    """Write a model's state with the active values alone of layers with a mask, bool [*w] by layer.

    about: texts for the file's metadata. keep_masks: also where all the values would take less room, so that the
    file says which weights are active.
    """
    from safetensors.torch import save_file

    by_weight = {id(layer.weight): masks.get(name) for name, layer in maskable_layers(model).items()}
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        tensor, mask = value.detach().clone(memory_format=torch.contiguous_format), by_weight.get(id(value))
        parts = {} if mask is None else _sparse(tensor, mask)
        if parts and (keep_masks or _size(parts) < tensor.nbytes):
            tensors |= {f"{name}.{part}": content for part, content in parts.items()}
            shapes[name] = list(tensor.shape)
        else:
            tensors[name] = tensor
    metadata = {"format": "pt", "format_version": str(VERSION), "sparse": json.dumps(shapes), **about}
    save_file(tensors, file, metadata=metadata)


def _load_safetensors(network: Network, file: Path) -> Outputs:
    def outputs(images: Tensor) -> Tensor:
        computed: Tensor = torch.func.functional_call(
            network.masked, load_export(file), (images,), strict=True
        )
        return computed

    return outputs


def _write_pt2(network: Network, file: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # the exporter's, about its own internals
        batch = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.export.export(network.running, (network.example,), dynamic_shapes=batch)
        with file.open("wb") as opened:
            torch.export.save(program, opened, extra_files={"dstbench.json": json.dumps(dict(network.about))})


def _load_pt2(network: Network, file: Path) -> Outputs:
    with warnings.catch_warnings(action="ignore"), file.open("rb") as opened:
        return torch.export.load(opened).module()


def _write_onnx(network: Network, file: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            network.running,
            (network.example,),
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(network.about)
    program.save(file)


def _load_onnx(network: Network, file: Path) -> Outputs:
    with warnings.catch_warnings(action="ignore"):
        import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def outputs(images: Tensor) -> Tensor:
        [logits] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        return torch.from_numpy(logits)

    return outputs


FORMATS: Mapping[str, Format] = {
    "pt2": Format(_write_pt2, _load_pt2),
    "onnx": Format(_write_onnx, _load_onnx, needs=("onnx", "onnxscript", "onnxruntime")),
    "safetensors": Format(_write_safetensors, _load_safetensors, runs=False),
}
