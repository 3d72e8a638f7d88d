"""Which weights of a model may be masked, which stay dense, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

from dstbench.api import LayerInfo
from dstbench.core.network.layers import PACKED, Layer, clean_names, maskable_layers, unwrap
from dstbench.core.network.probe import rewrites
from dstbench.errors import BadInput, nearest

SPECIAL: dict[str, Callable[[LayerInfo], bool]] = {
    "@first_conv": lambda info: info.first_conv,
    "@classifier": lambda info: info.classifier,
}
"""Patterns of ``dense_layers`` for layers that have another name in every model."""


@dataclass(frozen=True)
class LeftOut:
    """A matrix weight that stays dense."""

    shape: tuple[int, ...]
    reason: str
    expected: bool = False  # asked for, or an embedding, which is looked up rather than multiplied with

    @property
    def weights(self) -> int:
        """The number of its entries."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Ownership:
    """The matrix weights of a model: those in the budget of a training, and all others."""

    sparse: dict[str, Layer]
    dense: dict[str, Layer]  # maskable, but left out by ``dense_layers``
    left_out: dict[str, LeftOut]  # all others: layers by their names, other parameters by theirs

    @property
    def weights(self) -> int:
        """All matrix weights."""
        owned = (layer.info.numel for layers in (self.sparse, self.dense) for layer in layers.values())
        return sum(owned) + sum(left.weights for left in self.left_out.values())

    def warning(self) -> str | None:
        """What nobody asked to stay dense, with how many weights that are; None where there is nothing."""
        unasked = {name: left for name, left in self.left_out.items() if not left.expected}
        if not unasked:
            return None
        named = [f"{name} ({left.reason})" for name, left in list(unasked.items())[:_NAMED]]
        more = f" and {len(unasked) - _NAMED} more" if len(unasked) > _NAMED else ""
        total = sum(left.weights for left in unasked.values())
        return (
            f"{total} of {self.weights} matrix weights stay dense and don't count as maskable: "
            f"{', '.join(named)}{more}; summary() lists them"
        )


_NAMED = 4  # of a warning's parameters, by name
_UNEMBEDS = "the model's output embedding, a row for each token"


def owned(
    model: nn.Module, dense_layers: Sequence[str] = (), held: Collection[int] | None = None
) -> Ownership:
    """Split a model's matrix weights: convolutions, linear layers, attention's packed projections, and all other
    parameters of two or more dimensions.

    dense_layers: globs on layer names, ``"@first_conv"`` and ``"@classifier"``; these two name nothing in a
    model that has no such layer. held: the ids of the parameters that are trained; None: all of them.

    A weight may be masked where it is a plain tensor that is trained, that no other kind of module shares, and that
    its module multiplies with as it is. The layer that a language model names as its output embedding
    (``get_output_embeddings``, as Hugging Face's have it) stays dense: as in the papers, tied or not.

    Raises BadInput for a glob that matches nothing, for a sharded weight, or if nothing is left to mask.
    """
    layers = maskable_layers(model)
    uses = _uses(model)
    doubled = _doubled(uses)
    embedding = _output_embedding(model)
    why = {name: _reason(layer, uses[id(layer.weight)], doubled, held) for name, layer in layers.items()}
    why |= {name: why[name] or _UNEMBEDS for name, layer in layers.items() if layer.module is embedding}
    left_out = {
        name: LeftOut(layers[name].info.shape, reason, layers[name].module is embedding)
        for name, reason in why.items()
        if reason is not None
    }
    able = {name: layer for name, layer in layers.items() if name not in left_out}
    chosen = _chosen(layers, dense_layers)
    sparse = {name: layer for name, layer in able.items() if name not in chosen}
    if not sparse:
        reasons = "".join(f"; {name}: {left.reason}" for name, left in list(left_out.items())[:_NAMED])
        raise BadInput(f"{type(model).__name__} has no convolution or linear weight left to mask{reasons}")
    dense = {name: layer for name, layer in able.items() if name in chosen}
    left_out = {n: replace(left, expected=left.expected or n in chosen) for n, left in left_out.items()}
    return Ownership(sparse, dense, left_out | _others(uses, {id(layer.weight) for layer in layers.values()}))


def _output_embedding(model: nn.Module) -> nn.Module | None:
    """The layer that a language model says makes its logits; None of any other model."""
    named: Any = getattr(unwrap(model), "get_output_embeddings", None)
    embedding = named() if callable(named) else None
    return embedding if isinstance(embedding, nn.Module) else None


def patterns_of(given: object) -> tuple[str, ...]:
    """``dense_layers`` as it is given: patterns, or one alone. Raises BadInput for anything else."""
    held: tuple[Any, ...] = (given,)
    if isinstance(given, Iterable) and not isinstance(given, str | torch.Tensor):
        held = tuple(given)
    if not all(isinstance(pattern, str) for pattern in held):
        raise BadInput(f"dense_layers: expected patterns of layer names, got {given!r}")
    return held


def budgeted_layers(
    model: nn.Module, dense_layers: Sequence[str] = ()
) -> tuple[dict[str, Layer], dict[str, Layer]]:
    """The layers in the budget, and those that ``dense_layers`` leaves out: see ``owned``."""
    ownership = owned(model, patterns_of(dense_layers))
    return ownership.sparse, ownership.dense


@dataclass(frozen=True)
class _Use:
    """One place where a model holds a tensor."""

    path: str
    module: nn.Module
    field: str
    tensor: Tensor

    @property
    def plain(self) -> bool:
        """Whether it is the weight of a convolution or linear layer, or such a one that attention packs."""
        if isinstance(self.module, nn.MultiheadAttention):
            return self.field in PACKED
        return self.field == "weight" and isinstance(self.module, _ConvNd | nn.Linear)

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.field if self.path == "weight" else f"{self.path}.{self.field}"


def _uses(model: nn.Module) -> dict[int, list[_Use]]:
    """Where a model holds each of its parameters and buffers, by their ids, in definition order."""
    names, uses = clean_names(model), defaultdict(list)
    for path, module in model.named_modules():
        for field, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and not isinstance(tensor, UninitializedParameter):
                uses[id(tensor)].append(_Use(names[path], module, field, tensor))
    return uses


def _reason(
    layer: Layer, uses: Sequence[_Use], doubled: Mapping[int, str], held: Collection[int] | None
) -> str | None:
    """Why a layer's weight stays dense; None where it may be masked."""
    weight = layer.weight
    kind = type(weight) if type(weight) is not nn.Parameter else type(weight.data)
    if hasattr(weight, "device_mesh"):
        raise BadInput(
            f"layer {layer.info.name!r}: its weight is sharded (DTensor), which a Sparsifier can't mask; "
            "DistributedDataParallel works"
        )
    if kind is not Tensor:
        return f"its weight is a {kind.__name__}, not a plain tensor"
    if not weight.is_floating_point() or weight.layout is not torch.strided:
        return f"its weight is of {weight.dtype}, {weight.layout}, not of dense floating-point numbers"
    if weight.dim() < 2 or not weight.numel():
        return f"its weight is {tuple(weight.shape)}: sharded or packed, perhaps"
    if not weight.requires_grad:
        return "it is frozen (requires_grad=False)"
    for use in uses:
        if not use.plain:
            return f"it shares its weight with {use.path!r}, of type {type(use.module).__name__}"
    if id(weight) in doubled:
        return f"the memory of its weight is that of {doubled[id(weight)]}, too"
    if held is not None and id(weight) not in held:
        return "no optimizer that was given holds it"
    tried = (rewrites(use.module, use.field) for use in uses)  # type: ignore[arg-type]
    return next((reason for reason in tried if reason is not None), None)


def _doubled(uses: Mapping[int, Sequence[_Use]]) -> dict[int, str]:
    """The tensors some entries of which are stored where another's are, by id, with the other's name."""
    spans = sorted(
        (*_span(use.tensor), use.name, id(use.tensor))
        for use, *_ in uses.values()
        if type(use.tensor) in (Tensor, nn.Parameter) and use.tensor.numel() and not use.tensor.is_meta
    )
    doubled: dict[int, str] = {}
    reach, name, own = 0, "", 0  # of what ends last so far
    for start, end, other, its in spans:
        if start < reach:
            doubled |= {own: other, its: name}
        if end > reach:
            reach, name, own = end, other, its
    return doubled


def _span(tensor: Tensor) -> tuple[int, int]:
    """Where in memory a tensor's entries lie, in bytes: from, to."""
    if tensor.layout is not torch.strided:  # its parts lie elsewhere
        return 0, 0
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (reach + 1) * tensor.element_size()


def _others(uses: Mapping[int, Sequence[_Use]], known: set[int]) -> dict[str, LeftOut]:
    """The matrix weights that no convolution or linear layer has as its weight."""
    first = [use for tensor, (use, *_) in uses.items() if tensor not in known]
    return {
        use.name: LeftOut(
            tuple(use.tensor.shape), _kind(use), isinstance(use.module, nn.Embedding | nn.EmbeddingBag)
        )
        for use in first
        if isinstance(use.tensor, nn.Parameter) and _is_matrix(use.tensor)
    }


def _is_matrix(tensor: Tensor) -> bool:
    """At least two dimensions longer than one, and the first among them: else it is broadcast, not multiplied with,
    as position embeddings and scales are."""
    return tensor.dim() >= 2 and tensor.shape[0] > 1 and sum(size > 1 for size in tensor.shape) >= 2


def _kind(use: _Use) -> str:
    module = use.module
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "an embedding, which is looked up"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "recurrent weights"
    if isinstance(module, ParametrizationList):
        return "a parametrization computes a weight from it"
    if isinstance(module, _ConvNd | nn.Linear):
        return f"{type(module).__name__} computes with it besides, or instead of, its weight"
    return f"a parameter of {type(module).__name__}, which is no convolution or linear layer"


def _chosen(layers: Mapping[str, Layer], patterns: Sequence[str]) -> set[str]:
    """The layers that some pattern matches."""
    chosen: set[str] = set()
    for pattern in patterns:
        matched = list(_matching(layers, pattern))
        if not matched and pattern not in SPECIAL:
            raise BadInput(
                f"dense_layers: no layer matches {pattern!r}{nearest(pattern, [*layers, *SPECIAL])}"
            )
        chosen.update(matched)
    return chosen


def _matching(layers: Mapping[str, Layer], pattern: str) -> Iterator[str]:
    special = SPECIAL.get(pattern)
    for name, layer in layers.items():
        if fnmatchcase(name, pattern) if special is None else special(layer.info):
            yield name
