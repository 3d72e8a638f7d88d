"""Which weights of a model can be masked, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import dropwhile
from typing import Any, Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter

from dstbench.api import LayerInfo
from dstbench.errors import BadInput, nearest

SPECIAL: dict[str, Callable[[LayerInfo], bool]] = {
    "@first_conv": lambda info: info.first_conv,
    "@classifier": lambda info: info.classifier,
}
"""Patterns of ``dense_layers`` for layers that have another name in every model."""

_WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel and torch.compile


@dataclass(frozen=True)
class Layer:
    """A maskable weight and the module that owns it."""

    info: LayerInfo
    module: nn.Linear | _ConvNd
    weight: nn.Parameter


def clean_name(name: str) -> str:
    """A module path without what wrappers put in front of it or into it; a bare layer is called "weight"."""
    parts = list(dropwhile(lambda part: part in _WRAPPERS, name.split(".")))
    return ".".join(part for part in parts if part != "_orig_mod") or "weight"


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def maskable_layers(model: nn.Module) -> dict[str, Layer]:
    """Every convolution and linear layer with a weight of its own, by module type, in definition order.

    A weight that two modules share appears once, under its first name. Biases, norms, embeddings and
    weights that a parametrization computes are never masked.
    """
    owned: dict[
        str, tuple[nn.Linear | _ConvNd, nn.Parameter, Literal["conv", "conv_transpose", "linear"]]
    ] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        weight = module._parameters.get("weight")
        if weight is None or id(weight) in seen:
            continue
        name = clean_name(path)
        if isinstance(weight, UninitializedParameter):
            raise BadInput(f"layer {name!r} has no shape yet: run one batch through the model first")
        seen.add(id(weight))
        owned[name] = (module, weight, _kind(module))
    modules = {name: module for name, (module, _, _) in owned.items()}
    classifier, first = _classifier(model, modules), _first_conv(model, modules)
    return {
        name: Layer(
            LayerInfo(name, tuple(weight.shape), kind, name == classifier, name == first), module, weight
        )
        for name, (module, weight, kind) in owned.items()
    }


def budgeted_layers(
    model: nn.Module, dense_layers: Sequence[str] = ()
) -> tuple[dict[str, Layer], dict[str, Layer]]:
    """Split the maskable layers into those in the budget and those that ``dense_layers`` leaves out.

    Patterns are globs on layer names, ``"@first_conv"`` and ``"@classifier"``; these two name nothing in a
    model that has no such layer. Raises BadInput for a glob that matches nothing, or if nothing is left to mask.
    """
    layers = maskable_layers(model)
    dense: dict[str, Layer] = {}
    for pattern in dense_layers:
        matched = {name: layer for name, layer in layers.items() if _matches(layer.info, pattern)}
        if not matched and pattern not in SPECIAL:
            raise BadInput(
                f"dense_layers: no layer matches {pattern!r}{nearest(pattern, [*layers, *SPECIAL])}"
            )
        dense |= matched
    sparse = {name: layer for name, layer in layers.items() if name not in dense}
    if not sparse:
        raise BadInput(f"{type(model).__name__} has no convolution or linear weight left to mask")
    return sparse, dense


def _matches(info: LayerInfo, pattern: str) -> bool:
    special = SPECIAL.get(pattern)
    return fnmatchcase(info.name, pattern) if special is None else special(info)


def _kind(module: nn.Module) -> Literal["conv", "conv_transpose", "linear"]:
    if isinstance(module, nn.Linear):
        return "linear"
    return "conv_transpose" if isinstance(module, _ConvTransposeNd) else "conv"


def _classifier(model: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    """The layer that makes the logits: what timm says it is, else the last linear layer."""
    inner = unwrap(model)
    get_classifier: Any = getattr(inner, "get_classifier", None)
    declared = get_classifier() if callable(get_classifier) else None
    for name, module in modules.items():
        if module is declared:
            return name
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _first_conv(model: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    """The convolution that sees the images: what timm says it is, else the first to be defined."""
    declared = getattr(unwrap(model), "pretrained_cfg", None)
    declared = declared.get("first_conv") if isinstance(declared, Mapping) else None
    convolutions = [name for name, module in modules.items() if isinstance(module, _ConvNd)]
    return declared if declared in convolutions else next(iter(convolutions), None)
