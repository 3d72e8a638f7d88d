"""A model's graph without any input, by torch.fx: whole layers, norms and attention are its nodes."""

from __future__ import annotations

import torch.fx
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# Of timm: a norm with its activation, a linear layer that casts, and a convolution that pads by its input's size.
_LEAVES = {"BatchNormAct2d": _BatchNorm, "Linear": nn.Linear, "Conv2dSame": nn.Conv2d}


class _Tracer(torch.fx.Tracer):
    """Stops at layers and norms that timm derives, and at attention."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        base = _LEAVES.get(type(m).__name__)
        derived = base is not None and isinstance(m, base) and type(m).__module__.startswith("timm.")
        return derived or is_attention(m) or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: torch.fx.Proxy) -> bool:
        if self.scope.module_type.__name__ == "ConvMlp":  # timm's VGG pools a small input: no channel moves
            return False
        return super().to_bool(obj)


def trace(model: nn.Module) -> torch.fx.Graph:
    """The graph in the mode that the model is in. Raises whatever the model's own code does with proxies."""
    return _Tracer().trace(model)


def is_attention(module: nn.Module) -> bool:
    """timm's plain multi-head attention, whose heads meet in its projection alone."""
    parts = [getattr(module, name, None) for name in ("qkv", "proj", "norm")]
    return (
        type(module).__name__ == "Attention"
        and [type(part) for part in parts] == [nn.Linear, nn.Linear, nn.Identity]
        and getattr(module, "gate", None) is None
        and hasattr(module, "attn_dim")
    )
