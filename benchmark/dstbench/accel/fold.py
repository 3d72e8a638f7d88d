"""What a network's graph lets it save: norms folded into convolutions for inference, activations in place."""

from __future__ import annotations

import operator
from collections import Counter

import torch
import torch.fx
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dstbench.core.network.trace import Untraceable, trace

_SUMS = (operator.add, torch.add)
_ACTIVATION = ("drop", "act")  # what a BatchNormAct2d of timm's calls behind its norm, in this order


def fold_norms(model: nn.Module) -> nn.Module:
    """Fold each batch norm that follows a convolution, and it alone, into its weight and bias; in place.

    The norm becomes the identity, one of timm's that holds an activation becomes that. Zeros of a weight stay
    zeros. A model that can't be traced stays as it is.
    """
    model.eval()
    for layer, norm, path in _pairs(model):
        assert norm.running_mean is not None  # _pairs takes no norm without
        assert norm.running_var is not None
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        model.set_submodule(path, _without_norm(norm))
    return model


def _without_norm(norm: _BatchNorm) -> nn.Module:
    """What a norm does besides: nothing, or the drop and the activation of a BatchNormAct2d of timm's."""
    rest = [getattr(norm, name) for name in _ACTIVATION if hasattr(norm, name)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def relus_in_place(model: nn.Module) -> nn.Module:
    """Let ReLUs overwrite what they are given, where nothing else reads it, in a backward pass neither; in place.

    That is what convolutions, linear layers, batch norms and additions make. A fresh output as large as an
    early layer's costs more than the ReLU.
    """
    allowed: dict[nn.ReLU, bool] = {}
    calls = _calls(model)
    for node, module in calls.items():
        if isinstance(module, nn.ReLU):
            [source] = node.all_input_nodes
            made = _makes_output(calls.get(source)) or _is_fresh_sum(source)
            allowed[module] = allowed.get(module, True) and made and len(source.users) == 1
    for module, safe in allowed.items():
        module.inplace = module.inplace or safe
    return model


def _makes_output(module: nn.Module | None) -> bool:
    """Whether a module's output is new memory that its own backward pass doesn't read, as an activation's does."""
    return isinstance(module, _ConvNd | nn.Linear | _BatchNorm) and not hasattr(module, "act")


def _is_fresh_sum(node: torch.fx.Node) -> bool:
    """Whether a node adds, and nothing but the sum is left of its left side: a trace can't tell ``+=`` from ``+``."""
    if node.target not in _SUMS:
        return False
    left = node.args[0]
    return not isinstance(left, torch.fx.Node) or (left.op != "placeholder" and len(left.users) == 1)


def _pairs(model: nn.Module) -> list[tuple[_ConvNd, _BatchNorm, str]]:
    """Convolutions with norms that alone read what they make, each called once, and the norms' paths."""
    called = _calls(model)
    calls = Counter(map(id, called.values()))
    pairs = []
    for node, layer in called.items():
        if not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd) or len(node.users) != 1:
            continue
        [user] = node.users
        norm = called.get(user)
        once = calls[id(layer)] == calls[id(norm)] == 1
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and once:
            pairs.append((layer, norm, str(user.target)))
    return pairs


def _calls(model: nn.Module) -> dict[torch.fx.Node, nn.Module]:
    """Every call of a module, in order; none of a model that can't be traced."""
    try:
        graph = trace(model)
    except Untraceable:
        return {}
    return {node: model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
