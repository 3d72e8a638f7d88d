"""A network's outputs: computed in evaluation mode, and compared with another's, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dstbench.core.network.inputs import Inputs, call, tensors

_COARSE = {
    torch.bfloat16: 1e-1,
    torch.float16: 2e-2,
}  # what rounding makes of a deep network's largest output
_TF32 = 5e-3  # GPUs may round the factors of float32 products to ten bits
_FINE = 1e-2  # of a float32 tolerance, in float64; models may compute a few steps in float32


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; every module of it has its own mode back at the end, whatever happened."""
    training = [module for module in model.modules() if module.training]
    try:
        yield model.eval()
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class Comparison:
    """How near one network's outputs came to another's on the same input."""

    compared: tuple[str, ...]  # each tensor: where it stands in the output, dtype and shape
    difference: (
        float  # the largest, relative to the largest value of its tensor; infinite where any isn't alike
    )
    limit: float
    where: str  # the tensor that differs most

    @property
    def ok(self) -> bool:
        """Whether they are as near as their dtype lets them be."""
        return self.difference <= self.limit

    def __str__(self) -> str:
        """What was compared, and how near."""
        apart = "not alike" if self.difference == float("inf") else f"{self.difference:.1e} of its size apart"
        return f"{self.where}: {apart} (limit {self.limit:.0e}), of {', '.join(self.compared)}"


@torch.no_grad()
def compare(model: nn.Module, reference: nn.Module, inputs: Inputs, exact: float) -> Comparison:
    """Run both on the same input, in the mode that they are in. exact: the limit in float32."""
    expected = call(reference, inputs)
    return comparison(call(model, inputs), expected, tolerance(exact, reference, inputs, expected))


def comparison(outputs: Any, expected: Any, limit: float) -> Comparison:
    """Compare outputs that are there already. Raises TypeError for one without any tensor."""
    mine, theirs = dict(_parts(outputs)), dict(_parts(expected))
    compared = tuple(_described(name, part) for name, part in theirs.items() if isinstance(part, Tensor))
    if not compared:
        raise TypeError(f"expected an output with a tensor in it, got {type(expected).__name__}")
    if mine.keys() != theirs.keys():
        where = next(name for name in [*theirs, *mine] if (name in mine) != (name in theirs))
        return Comparison(compared, float("inf"), limit, where)
    apart = {name: _apart(part, theirs[name]) for name, part in mine.items()}
    worst = max(apart, key=lambda name: apart[name])
    return Comparison(compared, apart[worst], limit, worst)


def difference(outputs: Any, expected: Any) -> float:
    """The largest difference, relative to the largest expected value of its tensor; infinite where shapes, NaNs,
    integers, or the parts of nested outputs differ."""
    return comparison(outputs, expected, 0.0).difference


def tolerance(exact: float, model: nn.Module, inputs: Inputs, outputs: Any) -> float:
    """What outputs may differ by where float32 ones may by ``exact``: it follows the coarsest dtype that takes
    part, in weights, input, output or autocast, since a model may hand on float32 that it computed in less."""
    held = [*model.parameters(), *tensors(inputs), *(p for _, p in _parts(outputs) if isinstance(p, Tensor))]
    dtypes = {tensor.dtype for tensor in held if tensor.is_floating_point()}
    dtypes |= {
        torch.get_autocast_dtype(t) for t in {h.device.type for h in held} if torch.is_autocast_enabled(t)
    }
    coarse = [_COARSE[dtype] for dtype in dtypes if dtype in _COARSE]
    if coarse:
        return max(exact, *coarse)
    if torch.float32 in dtypes and any(tensor.device.type == "cuda" for tensor in held):
        return max(exact, _TF32)
    return exact * _FINE if dtypes == {torch.float64} else exact


def _parts(outputs: Any, name: str = "output") -> Iterator[tuple[str, Any]]:
    """The leaves of nested outputs, by where they stand: ``output['logits'][0]``."""
    if isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from _parts(value, f"{name}[{key!r}]")
    elif isinstance(outputs, list | tuple):
        for index, value in enumerate(outputs):
            yield from _parts(value, f"{name}[{index}]")
    elif is_dataclass(outputs) and not isinstance(outputs, type):
        for field in fields(outputs):
            yield from _parts(getattr(outputs, field.name), f"{name}.{field.name}")
    elif hasattr(outputs, "__dict__") and not callable(outputs) and not isinstance(outputs, Tensor):
        for key, value in vars(outputs).items():
            yield from _parts(value, f"{name}.{key}")
    else:
        yield name, outputs


def _described(name: str, tensor: Tensor) -> str:
    return f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def _apart(mine: Any, theirs: Any) -> float:
    """How far two leaves are apart; what is neither finite nor a number must be equal."""
    if not (isinstance(mine, Tensor) and isinstance(theirs, Tensor)):
        return 0.0 if type(mine) is type(theirs) and (mine is theirs or mine == theirs) else float("inf")
    if mine.shape != theirs.shape:
        return float("inf")
    mine, theirs = (
        x.to_dense() if x.layout != torch.strided else x for x in (mine.detach(), theirs.detach())
    )
    if not (theirs.is_floating_point() or theirs.is_complex()):
        return 0.0 if torch.equal(mine, theirs) else float("inf")
    finite = theirs.isfinite()
    dtype = torch.promote_types(torch.promote_types(mine.dtype, theirs.dtype), torch.float32)
    mine, theirs = mine.to(dtype), theirs.to(dtype)
    if not bool(
        torch.where(finite, mine.isfinite(), (mine == theirs) | (mine.isnan() & theirs.isnan())).all()
    ):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    gap = (mine[finite] - theirs[finite]).abs().max()
    return float(gap / theirs[finite].abs().max().clamp_min(1e-12))
