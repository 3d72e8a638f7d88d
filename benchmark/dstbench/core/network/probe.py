"""Whether a layer multiplies with its weight as it is: a weight that is zero must be zero in what really runs."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dstbench.errors import in_a_line

_PLAIN = {
    nn.MultiheadAttention, nn.Linear, NonDynamicallyQuantizableLinear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
}  # fmt: skip
Module = TypeVar("Module", bound=nn.Module)
_aten = torch.ops.aten
_PRODUCTS = {
    _aten.convolution, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.mv, _aten.addmv,
}  # fmt: skip


def rewrites(module: nn.Linear | _ConvNd | nn.MultiheadAttention, field: str = "weight") -> str | None:
    """Why zeros of the module's weight needn't be zeros in what it multiplies with; None where they are.

    torch's own layers do nothing else. Any other, such as weight standardisation or fake quantisation, runs on a
    tiny input with some weights at zero, as a copy, and the operands of its products are looked at. What the run
    draws leaves the global generators as they were.
    """
    if type(module) in _PLAIN and "forward" not in module.__dict__ and not module._forward_pre_hooks:
        return None
    name = type(module).__name__
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.autocast("cpu", enabled=False):
            if isinstance(module, nn.MultiheadAttention):
                return _try_attention(_tame(module, field), field, name)
            return _try(_tame(module, field), name)
    except Exception as error:  # anyone's forward may raise anything
        return f"{name} couldn't be tried with a masked weight: {in_a_line(error)}"


def _tame(module: Module, field: str) -> Module:
    """A copy in float32 on the CPU, without zeros that would hide a parameter's part."""
    weight = module._parameters[field]
    assert weight is not None
    copied = copy.deepcopy(module)
    copied = copied.to_empty(device="cpu") if weight.is_meta else copied.cpu()
    copied = copied.float()
    rng = torch.Generator("cpu").manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.numel() and (weight.is_meta or not bool(parameter.any())):
                parameter.copy_(_draw(parameter.shape, rng))
        getattr(copied, field).copy_(_draw(weight.shape, rng))
    return copied


def _draw(shape: torch.Size, rng: torch.Generator) -> Tensor:
    """Values far from zero, the mean of which is, too: float32 [*shape]."""
    return torch.rand(shape, generator=rng, dtype=torch.float32, device="cpu") + 0.5


def _try(module: nn.Linear | _ConvNd, name: str) -> str | None:
    """Run with half of the weights at zero, in both modes."""
    rng = torch.Generator("cpu").manual_seed(1)
    weight = module.weight
    zero = torch.rand(weight.shape, generator=rng, dtype=torch.float32, device="cpu") < 0.5
    with torch.no_grad():
        weight.masked_fill_(zero, 0.0)
    before, x = weight.detach().clone(), _input(module)
    for training in (True, False):
        module.train(training)
        with _Products(weight) as seen:
            module(x)
        if module._parameters.get("weight") is not weight or not torch.equal(weight, before):
            return f"{name} writes to its weight when it runs"
        operands = list(seen.operands)
        if not operands:
            return f"{name} multiplies with something else than its weight"
        if not all(
            any(not bool(view[zero].any()) for view in _views(operand, weight)) for operand in operands
        ):
            return f"{name} rewrites its weight: zeros of it aren't zeros in what it multiplies with"
    return None


def _try_attention(module: nn.MultiheadAttention, field: str, name: str) -> str | None:
    """Run it with queries, keys and values of their own, in both modes: products alone may read the weight."""
    weight: Tensor = getattr(module, field)
    before, shape = weight.detach().clone(), [2, 3]
    inputs = [torch.ones([*shape, width]) for width in (module.embed_dim, module.kdim, module.vdim)]
    for training in (True, False):
        module.train(training)
        with _Readers(weight) as seen:
            module(*inputs)
        if module._parameters.get(field) is not weight or not torch.equal(weight.detach(), before):
            return f"{name} writes to {field} when it runs"
        if seen.others:
            return f"{name} doesn't multiply with {field} as it is: {seen.others[0]} reads it"
        if not seen.products:
            return f"{name} multiplies with something else than {field}"
    return None


def _input(module: nn.Linear | _ConvNd) -> Tensor:
    """The smallest input that every weight meets, of another size than the weight: float32."""
    if isinstance(module, nn.Linear):
        shape = [module.in_features]
    else:
        kernel = zip(module.kernel_size, module.dilation, strict=True)
        least = [1 if isinstance(module, _ConvTransposeNd) else d * (k - 1) + 1 for k, d in kernel]
        margin = max(module.padding) if isinstance(module.padding, tuple) else 0  # reflections need as much
        shape = [module.in_channels, *(side + margin + 1 for side in least)]
    batch = next(b for b in (2, 3, 5) if b * torch.Size(shape).numel() != module.weight.numel())
    rng = torch.Generator("cpu").manual_seed(2)
    return torch.randn([batch, *shape], generator=rng, dtype=torch.float32, device="cpu")


def _views(operand: Tensor, weight: Tensor) -> list[Tensor]:
    """An operand in the weight's shape, in each way that it may stand for the weight."""
    straight = operand.reshape(weight.shape)
    across = operand.mT.reshape(weight.shape) if operand.dim() >= 2 else straight
    return [straight, across]


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the operands, as large as a weight, of convolutions and matrix products."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._size = weight.numel()
        self.operands: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _PRODUCTS:
            may = (
                args[1:2] if func.overloadpacket is _aten.convolution else args
            )  # padded, an input may be as large
            tensors = [argument for argument in may if isinstance(argument, Tensor)]
            self.operands += [tensor.detach().clone() for tensor in tensors if tensor.numel() == self._size]
        return func(*args, **(kwargs or {}))


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products that read a weight or a part of it, and names what else does but to look at a part."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storage = weight.untyped_storage()._cdata
        self.products, self.others = 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(self._reads(tensor) for tensor in tree_leaves((args, kwargs))):
            made = tree_leaves(out)
            if func.overloadpacket in _PRODUCTS:
                self.products += 1
            elif not made or not all(self._reads(tensor) for tensor in made):
                self.others.append(str(func))
        return out

    def _reads(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata == self._storage
