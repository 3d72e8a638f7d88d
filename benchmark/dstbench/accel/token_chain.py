"""Several operations on tokens in one pass: norms, sparse linear layers, activations, sums and products.

Each alone reads all tokens and writes them again, and a linear layer turns them over twice besides. In a chain some
tokens at a time go through all of it, feature by feature, while they lie near the processor.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dstbench.accel.kernels.compiled.build import load
from dstbench.accel.kernels.compiled.ragged import RaggedExecution, RaggedLayer, chunk_width
from dstbench.accel.kernels.stock import workspace
from dstbench.accel.packed import Packed
from dstbench.core.network.eager import eagerly

__all__ = ["Chain", "Combination", "activation_number", "is_linear", "is_norm"]

_LINEAR, _LAYER_NORM, _RMS_NORM = range(3)  # ragged_chain.h's kinds; Combination's follow
_COMBINATIONS = {"add": 3, "multiply": 4}


class Combination(nn.Module):
    """The sum or the product of two tensors."""

    def __init__(self, how: str) -> None:
        """how: "add" or "multiply"."""
        super().__init__()
        self.how = how

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Of tensors as PyTorch broadcasts them."""
        return x + other if self.how == "add" else x * other

    def extra_repr(self) -> str:
        """Which of the two."""
        return self.how


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer that the kernel of chains can compute."""
    return (
        isinstance(module, Packed)
        and isinstance(module.execution, RaggedExecution)
        and not module.call.stride
    )


def is_norm(module: nn.Module) -> bool:
    """Whether a module norms the last dimension alone, by LayerNorm or RMSNorm: torch's, or timm's of that name."""
    kinds = (nn.LayerNorm, nn.RMSNorm)
    alike = type(module) in kinds or (
        isinstance(module, nn.LayerNorm) and type(module).__name__ == "LayerNorm"
    )
    return alike and len(module.normalized_shape) == 1  # type: ignore[arg-type]


def activation_number(module: nn.Module) -> int | None:
    """What ragged_activations.h knows an activation as; None of any other module."""
    if type(module) is nn.GELU:
        return {"none": 2, "tanh": 3}.get(module.approximate)
    return {nn.ReLU: 1, nn.SiLU: 4}.get(type(module))


class _Operation(ctypes.Structure):
    """``Operation`` of ragged_chain.h."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("activation", ctypes.c_int64),
        ("eps", ctypes.c_double),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("layer", "weight", "bias", "other")),
    )


@dataclass(frozen=True)
class _Prepared:
    """What a call hands over, but for the tensors that go through."""

    operations: ctypes.Array[_Operation]
    combined: Sequence[int]  # which of them take another tensor
    layers: Sequence[RaggedLayer]  # which the operations point at
    pointers: tuple[int, ...]  # of the parameters: memory may be another after a move


class Chain(nn.Module):
    """The modules ``parts`` as one operation: linear layers, norms, combinations, and activations behind layers.

    Its arguments are the tokens, float [..., features], and for each ``Combination`` another tensor of its shape.
    What the kernel can't take goes through the parts one after another: another dtype or shape, and whatever
    gradients are asked of.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self._prepared: _Prepared | None = None

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """The last part's output."""
        out: Tensor = self._run(x, *others)
        return out

    @eagerly
    def _run(self, x: Tensor, *others: Tensor) -> Tensor:
        if not self._takes(x, others):
            return self.one_by_one(x, *others)
        prepared = self._prepare()
        x, others = x.contiguous(), tuple(other.contiguous() for other in others)
        operations = type(prepared.operations).from_buffer_copy(prepared.operations)
        for index, other in zip(prepared.combined, others, strict=True):
            operations[index].other = other.data_ptr()
        tokens, last = x.numel() // x.shape[-1], operations[len(operations) - 1].outputs
        out = workspace.empty((*x.shape[:-1], last), x.dtype)
        threads = torch.get_num_threads()
        arguments = x.data_ptr(), tokens, chunk_width(tokens, 1, threads), out.data_ptr(), threads
        _kernel()(operations, len(operations), *arguments)
        return out

    def one_by_one(self, x: Tensor, *others: Tensor) -> Tensor:
        """The same, part by part."""
        left = iter(others)
        for part in self.parts:
            x = part(x, next(left)) if isinstance(part, Combination) else part(x)
        return x

    def _takes(self, x: Tensor, others: Sequence[Tensor]) -> bool:
        tensors = [x, *others, *self.parameters(), *self.buffers()]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return False
        if any(t.is_nested or t.device.type != "cpu" or t.dtype != torch.float32 for t in tensors):
            return False
        features, combined = x.shape[-1] if x.dim() else 0, []
        for part in self.parts:
            takes = part.call.info.shape[1] if isinstance(part, Packed) else features
            takes = part.normalized_shape[0] if is_norm(part) else takes  # type: ignore[index, assignment]
            if takes != features:
                return False
            features = part.call.info.shape[0] if isinstance(part, Packed) else features
            combined += [features] if isinstance(part, Combination) else []
        shapes = [(*x.shape[:-1], width) for width in combined]
        return x.numel() > 0 and shapes == [tuple(other.shape) for other in others]

    def _prepare(self) -> _Prepared:
        pointers = tuple(tensor.data_ptr() for tensor in itertools.chain(self.parameters(), self.buffers()))
        if self._prepared is None or self._prepared.pointers != pointers:
            self._prepared = _prepared(list(self.parts), pointers)
        return self._prepared

    def __getstate__(self) -> dict[str, object]:
        """Without pointers: of a copy these are others."""
        return {**self.__dict__, "_prepared": None}


def _prepared(parts: Sequence[nn.Module], pointers: tuple[int, ...]) -> _Prepared:
    """Activations become part of the layers before them."""
    operations: list[_Operation] = []
    layers: list[RaggedLayer] = []
    combined: list[int] = []
    for part in parts:
        features = operations[-1].outputs if operations else 0
        if isinstance(part, Packed):
            assert isinstance(part.execution, RaggedExecution)
            layers.append(part.execution.layer())
            outputs, inputs = part.call.info.shape
            address = ctypes.addressof(layers[-1])
            weights = _pointer(part.get_buffer("weight")), _pointer(part._buffers["bias"])
            operations.append(_Operation(_LINEAR, 0, 0.0, inputs, outputs, address, *weights, None))
        elif is_norm(part):
            operations.append(_norm(part))
        elif isinstance(part, Combination):
            combined.append(len(operations))
            operations.append(
                _Operation(_COMBINATIONS[part.how], 0, 0.0, features, features, None, None, None, None)
            )
        else:
            number = activation_number(part)
            assert number is not None
            assert operations[-1].kind == _LINEAR
            assert not operations[-1].activation
            operations[-1].activation = number
    return _Prepared((_Operation * len(operations))(*operations), combined, layers, pointers)


def _norm(norm: nn.Module) -> _Operation:
    assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
    kind = _LAYER_NORM if isinstance(norm, nn.LayerNorm) else _RMS_NORM
    eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
    features = norm.normalized_shape[0]
    weights = _pointer(norm.weight), _pointer(getattr(norm, "bias", None))
    return _Operation(kind, 0, eps, features, features, None, *weights, None)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _kernel() -> ctypes._NamedFuncPointer:
    kernel = load("ragged").chain
    if kernel.argtypes is None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        kernel.restype = None
        kernel.argtypes = [pointer, number, pointer, number, number, pointer, ctypes.c_int]
    return kernel
