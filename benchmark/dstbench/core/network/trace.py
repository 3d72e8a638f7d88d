"""A model's graph, by torch.fx: whole layers, norms and attention are its nodes.

A model is traced without any input where it lets itself be. One whose code asks for sizes is traced on an example,
on which its operators are run once: sizes are numbers then, and the graph is the one that inputs of this shape take.
timm's models say themselves what they usually take.

Where there is an example, every node has in its ``meta`` the shape of its tensor, and the value itself where that
doesn't depend on what the example holds.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import getitem
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.fx.node import Argument, Node, Target, map_aggregate
from torch.nn.modules.batchnorm import _BatchNorm

from dstbench.core.network.inputs import Inputs, arguments

# Of timm: norms, some with an activation, a linear layer that casts, a convolution that pads by its input's size.
_LEAVES = {
    "BatchNormAct2d": _BatchNorm, "Linear": nn.Linear, "Conv2dSame": nn.Conv2d, "LayerNorm": nn.LayerNorm,
    "LayerNorm2d": nn.LayerNorm, "LayerNormAct2d": nn.LayerNorm, "GroupNorm": nn.GroupNorm,
    "GroupNorm1": nn.GroupNorm, "GroupNormAct": nn.GroupNorm, "RmsNorm": nn.Module,
}  # fmt: skip
_MOVES_TENSORS = {
    "view",
    "reshape",
    "transpose",
    "permute",
    "flatten",
    "expand",
    "cat",
    "getitem",
    "chunk",
    "split",
}
_SIZES = {
    "size",
    "dim",
    "numel",
    "stride",
    "ndimension",
    "nelement",
    "is_contiguous",
    "get_device",
    "element_size",
}


class Untraceable(Exception):
    """Why a model has no graph."""


class _Tracer(torch.fx.Tracer):
    """Stops at layers and norms that timm derives, and at attention."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        base = _LEAVES.get(type(m).__name__)
        derived = (
            base is not None
            and isinstance(m, base)
            and type(m).__module__.startswith(("timm.", "torchvision."))
        )
        return (
            derived
            or is_attention(m)
            or is_response_norm(m)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def to_bool(self, obj: torch.fx.Proxy) -> bool:
        # of the model itself there is no type
        if getattr(self.scope.module_type, "__name__", "") == "ConvMlp":  # timm's VGG pools a small input
            return False
        return super().to_bool(obj)


class _Inside(_Tracer):
    """Doesn't stop at attention, but at modules of some kinds."""

    def __init__(self, leaves: Sequence[type[nn.Module]]) -> None:
        super().__init__()
        self.leaves = tuple(leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_attention(m):
            return False
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)


class _Seen(torch.fx.Proxy):
    """A proxy that knows what it stands for in one run: its sizes are numbers."""

    value: Any

    def __getattr__(self, name: str) -> Any:
        known = getattr(self.__dict__.get("value"), name, None)
        if name in _SIZES and known is not None:
            return known
        if known is None or callable(known):
            return super().__getattr__(name)
        return (
            self.tracer.create_proxy("call_function", getattr, (self, name), {}) if _holds(known) else known
        )

    def __len__(self) -> int:
        return len(self.__dict__["value"]) if "value" in self.__dict__ else super().__len__()

    def __iter__(self) -> Iterator[Any]:
        return (self.tracer.create_proxy("call_function", getitem, (self, i), {}) for i in range(len(self)))


class _OnExample(_Tracer):
    """Runs every operator that it records."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self.given, self.running = given, False

    def proxy(self, node: Node) -> _Seen:
        return _Seen(node, self)

    def create_proxy(
        self, kind: str, target: Target, args: Any, kwargs: Any, *more: Any, **named: Any
    ) -> Any:
        proxy: Any = super().create_proxy(kind, target, args, kwargs, *more, **named)
        if kind == "placeholder":
            if target in self.given:
                proxy.value = self.given[str(target)]
                _note(proxy.node, proxy.value)
            return proxy
        try:
            args, kwargs = map_aggregate(args, _value), map_aggregate(kwargs, _value)
        except KeyError:  # of an argument that wasn't given
            return proxy
        self.running = True
        try:
            proxy.value = self._run(kind, target, args, kwargs)
            _note(proxy.node, proxy.value)
        finally:
            self.running = False
        return proxy

    def _run(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "call_function":
            return target(*args, **kwargs)
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if kind == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        value: Any = self.root  # get_attr
        for name in target.split("."):
            value = getattr(value, name)
        return value

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)


def _value(argument: Argument) -> Any:
    """What an argument stands for. Raises KeyError where that isn't known."""
    return argument.__dict__["value"] if isinstance(argument, torch.fx.Proxy) else argument


def _holds(value: object) -> bool:
    return isinstance(value, Tensor) or (
        type(value) is tuple and any(isinstance(item, Tensor) for item in value)
    )


@torch.no_grad()
def trace(model: nn.Module, example: Inputs | None = None) -> torch.fx.Graph:
    """The graph in the mode that the model is in. Raises Untraceable with the reason."""
    alike = _alike(model)
    try:
        graph = _Tracer().trace(alike)
        _annotate(graph, alike, _usual(model) if example is None else example)
        return graph
    except Exception as error:  # tracing runs the model's own code on proxies: anything can happen
        example = _usual(model) if example is None else example
        if example is None:
            raise Untraceable(_reason(error)) from error
    alike = _alike(model)
    try:
        given, rest = _bound(alike, example)
        return _OnExample(given).trace(alike, rest)
    except Exception as error:
        raise Untraceable(_reason(error)) from error


def trace_general(model: nn.Module, leaves: Sequence[type[nn.Module]] = ()) -> torch.fx.Graph:
    """The graph that inputs of every shape take, in the mode that the model is in; attention is traced, too.

    leaves: kinds of modules that are nodes, whatever they are made of. Raises Untraceable with the reason.
    """
    try:
        return _Inside(leaves).trace(_alike(model))
    except Exception as error:
        raise Untraceable(_reason(error)) from error


class _Watched(torch.fx.Interpreter):
    """Writes down what each node was."""

    def walk(self, *inputs: Any) -> None:
        """As ``run``, without its progress bar: that holds a semaphore, left behind by a trial's abrupt end."""
        self.args_iter = iter(inputs)
        for node in self.graph.nodes:
            self.env[node] = self.run_node(node)
            for used in self.user_to_last_uses.get(node, ()):
                del self.env[used]

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        _note(n, value)
        return value


def _annotate(graph: torch.fx.Graph, model: nn.Module, example: Inputs | None) -> None:
    """Run a graph that was made without an example on one, where that can tell anything."""
    moved = any(
        node.target in _MOVES_TENSORS or _named(node.target) in _MOVES_TENSORS for node in graph.nodes
    )
    if example is None or not moved:
        return
    try:
        given, rest = _bound(model, example)
        given |= rest
        inputs = [given[str(node.target)] for node in graph.nodes if node.op == "placeholder"]
        _Watched(model, graph=graph).walk(*inputs)
    except Exception:  # of arguments that are no tensors, or of a shape that the graph doesn't take
        return


def _named(target: object) -> str:
    return str(getattr(target, "__name__", target))


def _note(node: Node, value: Any) -> None:
    """Keep the shape, and what no input's values decide: what comes from parameters and sizes alone."""
    node.meta["shape"] = getattr(value, "shape", None)
    if is_fixed(node):
        node.meta["value"] = value


def is_fixed(node: Node) -> bool:
    """Whether a node's value comes from parameters, buffers and sizes alone."""
    if "fixed" not in node.meta:
        sizes = node.op == "call_method" and node.target in _SIZES
        shape = (
            node.op == "call_function"
            and node.target is getattr
            and node.args[1] in ("shape", "ndim", "dtype", "device")
        )
        node.meta["fixed"] = (
            sizes
            or shape
            or (
                node.op not in ("placeholder", "output")
                and all(is_fixed(source) for source in node.all_input_nodes)
            )
        )
    return bool(node.meta["fixed"])


def _alike(model: nn.Module) -> nn.Module:
    """A copy with the same parameters: models keep what they compute, such as LeViT its biases, and proxies then."""
    try:
        return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    except Exception:  # of whatever its attributes and hooks hold
        return model


def _usual(model: nn.Module) -> Tensor | None:
    """An image as timm's models say that they take it, or as they were built for: by the size that their patches
    divide, and the channels that their first convolution reads."""
    said, weight = getattr(model, "pretrained_cfg", None), next(iter(model.parameters()), None)
    size = said.get("input_size") if isinstance(said, Mapping) else None
    if size is None or weight is None:
        return None
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = size[0] if stem is None or stem.groups > 1 else stem.in_channels
    return weight.new_zeros(1, channels, *(built or size[1:]))


def _bound(model: nn.Module, example: Inputs) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the model's ``forward`` is called with, by name: tensors, of which there are copies, and all else."""
    args, kwargs = arguments(example)
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    given = {name: value.clone() for name, value in bound.arguments.items() if isinstance(value, Tensor)}
    return given, {name: value for name, value in bound.arguments.items() if name not in given}


def _reason(error: BaseException) -> str:
    """What went wrong, and the innermost code of the model's own where it did."""
    place, traceback = "", error.__traceback__
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            place = f" (in {type(owner).__name__}.{traceback.tb_frame.f_code.co_name})"
        traceback = traceback.tb_next
    return f"{error or type(error).__name__}{place}"


def is_attention(module: nn.Module) -> bool:
    """timm's plain multi-head attention, whose heads meet in its projection alone."""
    parts = [getattr(module, name, None) for name in ("qkv", "proj", "norm")]
    return (
        type(module).__name__ == "Attention"
        and [type(part) for part in parts] == [nn.Linear, nn.Linear, nn.Identity]
        and getattr(module, "gate", None) is None
        and hasattr(module, "attn_dim")
    )


def is_response_norm(module: nn.Module) -> bool:
    """timm's global response normalisation: each channel by its norm, relative to the channels' mean."""
    return type(module).__name__ == "GlobalResponseNorm" and type(module).__module__.startswith("timm.")
