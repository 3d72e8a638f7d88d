"""Which weights of a model can be masked, and what they are called."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter
from torch.optim.swa_utils import AveragedModel

from dstbench.api import Heads, LayerInfo
from dstbench.core.network.heads import heads_of
from dstbench.errors import BadInput

PACKED = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""The projections that torch's attention holds itself: queries, keys and values in one, or each its own."""


@dataclass(frozen=True)
class Layer:
    """A maskable weight and the module that owns it."""

    info: LayerInfo
    module: nn.Linear | _ConvNd | nn.MultiheadAttention
    field: str = "weight"  # of the module; else one of PACKED

    @property
    def weight(self) -> nn.Parameter:
        """Whichever the module holds now."""
        weight: nn.Parameter = self.module._parameters[self.field]  # type: ignore[assignment]
        return weight

    @property
    def packed(self) -> bool:
        """Whether the weight is one of several that a module of attention holds, and calls no layer with."""
        return self.field in PACKED

    @property
    def called(self) -> nn.Linear | _ConvNd:
        """The module, which multiplies with the weight when it is called: not of what is packed."""
        assert not isinstance(self.module, nn.MultiheadAttention)
        return self.module

    @property
    def parameter(self) -> str:
        """The weight's name in the model's state dict."""
        return self.info.name if self.packed else f"{self.info.name}.weight"


def wrapped(module: nn.Module) -> nn.Module | None:
    """The module inside a wrapper of torch's: data parallel, averaged or compiled; None of any other module."""
    if isinstance(module, DistributedDataParallel | DataParallel | AveragedModel):
        inner: nn.Module = module.module
        return inner
    compiled = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", None)
    return module._orig_mod if compiled is not None and isinstance(module, compiled) else None


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside all wrappers."""
    while (inner := wrapped(model)) is not None:
        model = inner
    return model


def clean_names(model: nn.Module) -> dict[str, str]:
    """Each path of ``named_modules``, duplicates too, without what wrappers put into it; the model itself, a bare
    layer perhaps, is called "weight"."""
    modules, clean = dict(model.named_modules(remove_duplicate=False)), {"": ""}
    for path, module in modules.items():
        if path:
            parent, _, own = path.rpartition(".")
            inside = clean[parent]
            clean[path] = inside if wrapped(modules[parent]) is module else f"{inside}.{own}".lstrip(".")
    return {path: name or "weight" for path, name in clean.items()}


def maskable_layers(model: nn.Module) -> dict[str, Layer]:
    """Every convolution and linear layer with a weight of its own, and the projections that torch's attention packs
    into weights of its own, by module type, in definition order. The latter are called as their parameters are.

    A weight that two modules share appears once, under its first name. Biases, norms, embeddings and
    weights that a parametrization computes are none. Which of them may be masked: see ``owned``.
    """
    owned: dict[str, tuple[nn.Linear | _ConvNd | nn.MultiheadAttention, str]] = {}
    heads: dict[str, Heads] = {}
    modules = dict(model.named_modules())
    seen: set[int] = set()
    names = clean_names(model)
    for path, module in modules.items():
        if not isinstance(module, _ConvNd | nn.Linear | nn.MultiheadAttention):
            continue
        for field in PACKED if isinstance(module, nn.MultiheadAttention) else ("weight",):
            weight = module._parameters.get(field)
            if weight is None or id(weight) in seen:
                continue
            name = names[path] if field == "weight" else f"{names[path]}.{field}" if path else field
            if isinstance(weight, UninitializedParameter):
                raise BadInput(f"layer {name!r} has no shape yet: run one batch through the model first")
            seen.add(id(weight))
            owned[name] = (module, field)
            if not isinstance(module, _ConvNd):
                parent, _, own = path.rpartition(".")
                attention, own = (module, field) if field in PACKED else (modules.get(parent), own)
                count = None if attention is None else heads_of(attention, own, len(weight))
                heads |= {} if count is None else {name: count}
    held = {name: module for name, (module, _) in owned.items()}
    classifier, first = _classifier(model, held), _first_conv(model, held)
    opening = next((module for module in modules.values() if [*module.parameters(recurse=False)]), None)
    layers = {}
    for name, (module, field) in owned.items():
        shape = tuple(module._parameters[field].shape)  # type: ignore[union-attr]
        flags = name == classifier, name == first
        sees = module is opening and isinstance(
            module, nn.Linear
        )  # the first to be defined that has parameters
        info = LayerInfo(name, shape, _kind(module), *flags, heads.get(name), sees)
        layers[name] = Layer(info, module, field)
    return layers


@torch.no_grad()
def impose(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Exact zeros where the masks, bool [*w] by layer, are inactive; in place."""
    layers = maskable_layers(model)
    for name, mask in masks.items():
        weight = layers[name].weight
        weight.mul_(mask.to(weight).view_as(weight))
    return model


def _kind(module: nn.Module) -> Literal["conv", "conv_transpose", "linear"]:
    if isinstance(module, _ConvTransposeNd):
        return "conv_transpose"
    return "conv" if isinstance(module, _ConvNd) else "linear"


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
