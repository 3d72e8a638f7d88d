"""The products that a model computes, as the operators that run, and the weight that each of them reads."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """One product that ran: of a weight with activations, or, where ``weight`` is None, of two activations."""

    operator: str
    weight: str | None
    macs: int  # multiply-accumulates
    outputs: int  # elements
    input_shape: tuple[int, ...]  # of the first operand
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """What a tensor was computed from."""

    weights: tuple[str, ...] = ()  # parameters and buffers
    varies: bool = False  # with the model's inputs
    multiplied: bool = False  # in a product: what a layer gave, no weight anymore
    gathered: bool = False  # entries of a table, such as of relative positions

    @property
    def is_weight(self) -> bool:
        """Whether it is a weight: cast, scaled or a part of one, perhaps."""
        return bool(self.weights) and not self.varies and not self.multiplied


VARIES, CONSTANT = Origin(varies=True), Origin()


def derived(origins: Sequence[Origin]) -> Origin:
    """The origin of what an operator other than a product makes of them: a weight plus low-rank factors, themselves
    multiplied, is that weight still."""
    if any(origin.varies for origin in origins):
        return VARIES
    told = [origin for origin in origins if origin.weights]
    names = dict.fromkeys(name for origin in told for name in origin.weights)
    multiplied = bool(told) and all(origin.multiplied for origin in told)
    return Origin(tuple(names), False, multiplied, gathered=any(origin.gathered for origin in told))


# Operators without a formula in torch's counter: multiply-accumulates by their arguments and output.


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return q.numel() * k.shape[-2] + prod(q.shape[:-1]) * k.shape[-2] * v.shape[-1]


_SCALED_DOT_PRODUCTS = (
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
    aten._scaled_dot_product_attention_math_for_mps,
)
_MACS: Mapping[Any, Callable[..., int]] = {
    **dict.fromkeys(_SCALED_DOT_PRODUCTS, _attention),
    aten.mv: lambda matrix, *_, **__: matrix.numel(),
    aten.addmv: lambda _, matrix, *__, **___: matrix.numel(),
    aten.dot: lambda vector, *_, **__: vector.numel(),
    aten.addbmm: lambda _, a, b, **__: a.numel() * b.shape[-1],
    aten._int_mm: lambda a, b, **_: a.numel() * b.shape[-1],
    aten._grouped_mm: lambda a, *_, out_val, **__: out_val.numel() * a.shape[-1],
    aten._trilinear: lambda x, weight, *_, **__: prod(x.shape[:-1]) * weight.numel(),  # nn.Bilinear
}
_FACTORS = {
    **dict.fromkeys(
        (aten.mm, aten.bmm, aten.mv, aten.dot, aten._int_mm, aten._grouped_mm, aten._scaled_mm), slice(0, 2)
    ),
    **dict.fromkeys((aten.convolution, aten._convolution, aten.cudnn_convolution), slice(0, 2)),
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv, aten.addbmm), slice(1, 3)),
    **dict.fromkeys((aten._trilinear, *_SCALED_DOT_PRODUCTS), slice(0, 3)),
}
"""The arguments that are multiplied; of other operators every tensor may be."""
_BATCHED = {aten.bmm, aten.baddbmm}
_RECURRENT = {
    aten.mkldnn_rnn_layer: slice(1, 3),
    aten._cudnn_rnn: slice(1, 2),
    aten.miopen_rnn: slice(1, 2),
    aten._lstm_mps: slice(2, 3),
}
"""Whole recurrent layers, which multiply each token by each matrix among these arguments. Elsewhere they run as
products of matrices."""
_GATHER = {aten.index, aten.index_select, aten.gather, aten.embedding, aten.take_along_dim}
_NEW = {
    aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like,
    aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full,
}  # fmt: skip


def macs(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int | None:
    """Multiply-accumulates of one call; None where the operator is no product that is known."""
    if operator in _MACS:
        return _MACS[operator](*args, **kwargs, out_val=out)
    formula: Callable[..., int] | None = flop_registry.get(operator)
    return None if formula is None else formula(*args, **kwargs, out_val=out) // 2


@dataclass
class Observed:
    """What was seen while a model ran."""

    products: list[Product] = field(default_factory=list)
    opaque: dict[str, str] = field(
        default_factory=dict
    )  # weight -> operator, without a formula, that read it


@contextmanager
def observe(
    parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> Iterator[Observed]:
    """Record the products computed inside, compiled code running as it was written and attention by operators.

    parameters, buffers: by name; of several that a product could be said to read, the first one of its size.
    inputs: what the model is called with.
    """
    observer = _Observer(parameters, buffers, inputs)
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.clear_autocast_cache()  # casts made before could not be told from activations
    with ExitStack() as stack:
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_attention)
        if "torch._dynamo" in sys.modules:  # nothing is compiled otherwise
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(observer)
        yield observer.seen


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below autograd, and follows where its tensors come from."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch asks. Yes would load the compiler, a second of every plan; ``observe`` has all run eagerly."""
        return False

    def __init__(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Sequence[Tensor]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = Observed()
        self.fixed, weights = set(buffers), {**parameters, **buffers}
        self.sizes = {name: weight.numel() for name, weight in weights.items()}
        self.ranks = {name: rank for rank, name in enumerate(weights)}
        self.origins = WeakTensorKeyDictionary()
        self.stored: dict[int, list[tuple[range, str]]] = defaultdict(
            list
        )  # storage -> what lies where in it
        for name, weight in weights.items():
            if (storage := _storage(weight)) is not None:
                where = range(offset := weight.storage_offset(), offset + max(weight.numel(), 1))
                self.stored[storage].append((where, name))
        for tensor in inputs:
            self.origins[tensor] = VARIES
        for name in reversed(list(weights)):
            self.origins[weights[name]] = Origin((name,))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, operator = kwargs or {}, getattr(func, "_overloadpacket", func)
        known = operator in flop_registry or operator in _MACS or operator is torch.ops.prim.device
        if not known and not isinstance(func, OpOverload):
            raise NotImplementedError(f"what the operator {func} computes can't be counted")
        if not known:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        origin = self._record(operator, func, args, kwargs, out)
        mutates = isinstance(func, OpOverload) and func._schema.is_mutable
        for made in _tensors(out):
            self.origins[made] = origin
            if mutates and made._base is not None:
                self.origins[made._base] = derived([self._origin(made._base), origin])
        return out

    def _record(
        self, operator: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> Origin:
        """Note what an operator multiplied; what its output was computed from."""
        if operator in _RECURRENT:
            self._recurrent(operator, args)
            return VARIES
        count = macs(operator, args, kwargs, out)
        if count is None:
            read = _tensors((args, kwargs))
            self._note_opaque(func, read)
            origin = CONSTANT if operator in _NEW else derived([self._origin(tensor) for tensor in read])
            return replace(origin, gathered=True) if operator in _GATHER else origin
        if operator in _FACTORS:
            factors = _tensors(args[_FACTORS[operator]])
        else:
            factors = sorted(_tensors((args, kwargs)), key=Tensor.numel)
        origins = [self._origin(factor) for factor in factors]
        whole = derived(origins)
        if (
            whole.varies or operator in flop_registry
        ):  # torch's counter leaves out such as spectral norms of weights
            name = self._weight(operator, factors, origins)
            self._add(operator, name, count, factors[0].shape, _tensors(out)[0].shape)
        return replace(whole, multiplied=True)

    def _recurrent(self, operator: Any, args: tuple[Any, ...]) -> None:
        tokens = args[0].numel() // args[0].shape[-1]
        for weight in _tensors(args[_RECURRENT[operator]]):
            if weight.dim() == 2:
                name = self._weight(operator, [weight], [self._origin(weight)])
                self._add(operator, name, tokens * weight.numel(), args[0].shape, (tokens, len(weight)))

    def _add(
        self, operator: Any, weight: str | None, count: int, first: Sequence[int], out: Sequence[int]
    ) -> None:
        name = str(operator).removeprefix("aten.").removeprefix("_")
        self.seen.products.append(Product(name, weight, count, prod(out), tuple(first), tuple(out)))

    def _weight(self, operator: Any, factors: Sequence[Tensor], origins: Sequence[Origin]) -> str | None:
        """The name of the weight that a product reads, if one does; of two the second, as layers have it."""
        if operator in _SCALED_DOT_PRODUCTS:
            return None
        batched = operator in _BATCHED and len(factors[0]) > 1
        for factor, origin in reversed(list(zip(factors, origins, strict=True))):
            if origin.is_weight and not (batched and self._is_attention(origin, origins)):
                size = factor.numel()
                return min(origin.weights, key=lambda name: (self.sizes[name] != size, self.ranks[name]))
        # A matrix that is itself a product of weights, as of low rank, is a weight of its own; in a batch of
        # matrices it is the learned side of attention.
        made = [origin for origin in origins if origin.multiplied and origin.weights]
        return None if not made or operator in _BATCHED else f"({' @ '.join(made[-1].weights)})"

    def _is_attention(self, weight: Origin, origins: Sequence[Origin]) -> bool:
        """Whether a product of batches is attention's with a learned or fixed side: relative positions looked up in
        a table, rotations, one-hot positions. Stacked matrices that meet activations, such as experts', are weights.
        """
        fixed = all(name in self.fixed for name in weight.weights)
        return weight.gathered or fixed or not any(origin.varies for origin in origins)

    def _origin(self, tensor: Tensor) -> Origin:
        known: Origin | None = self.origins.get(tensor)  # type: ignore[no-untyped-call]
        if known is None and (storage := _storage(tensor)) in self.stored:  # ``.data``, or a view made before
            offset = tensor.storage_offset()
            known = Origin(tuple(name for where, name in self.stored[storage] if offset in where))
        return known or CONSTANT

    def _note_opaque(self, func: OpOverload, read: Sequence[Tensor]) -> None:
        """A custom operator may multiply by the matrices that it reads."""
        if func.namespace in ("aten", "prim", "prims"):
            return
        for tensor in read:
            origin = self._origin(tensor)
            if origin.is_weight and tensor.dim() > 1:
                self.seen.opaque |= dict.fromkeys(origin.weights, str(func))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int | None:
    """What names a tensor's memory; None for a kind of tensor that has none, such as a sparse one."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None
