"""Which operations of a network can run as one ``Chain``: those around sparse linear layers, by the network's graph.

A norm in front of a layer, activations and further layers behind it, a sum with a shortcut, a product with a gate:
as long as nothing else reads what is between them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx.node import Node
from torch.nn import functional

from dstbench.accel.packed import Packed
from dstbench.accel.token_chain import Chain, Combination, activation_number, is_linear, is_norm
from dstbench.core.network.trace import Untraceable, trace_general

_COMBINATIONS = {operator.add: "add", torch.add: "add", operator.mul: "multiply", torch.mul: "multiply"}
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Modules that hand on what they are given, in eval mode, and functions that do."""
_DROPS = ("dropout", "alpha_dropout", "stochastic_depth")


@dataclass
class _Found:
    """A chain as it grows: the nodes that it takes the place of, and what they are."""

    nodes: list[Node]
    parts: list[nn.Module]
    others: list[tuple[Node, int]] = field(
        default_factory=list
    )  # the second operands: whose argument, and which

    def add(self, node: Node, part: nn.Module | None) -> None:
        self.nodes.append(node)
        self.parts += [] if part is None else [part]


def fuse(model: nn.Module) -> tuple[nn.Module, set[Packed]]:
    """A network in eval mode whose packed linear layers run in chains, where there are any; and these layers.

    Whatever has a graph that holds for inputs of every shape is rewritten, the model itself or parts of it: it is
    changed, or what takes its place is returned.
    """
    if not any(is_linear(module) for module in model.modules()):
        return model, set()
    try:
        graph = trace_general(model, [Packed])
    except Untraceable:
        chained: set[Packed] = set()
        for name, child in list(model.named_children()):
            replacement, more = fuse(child)
            chained |= more
            if replacement is not child:
                model.set_submodule(name, replacement)
        return model, chained
    chains = _chains(model, graph)
    if not chains:
        return model, set()
    for number, chain in enumerate(chains):
        _replace(model, graph, chain, f"chain_{number}")
    graph.lint()
    rewritten = GraphModule(model, graph, type(model).__name__)
    for number in range(len(chains)):
        delattr(model, f"chain_{number}")
    return rewritten.eval(), {part for chain in chains for part in chain.parts if isinstance(part, Packed)}


def _chains(model: nn.Module, graph: torch.fx.Graph) -> list[_Found]:
    """All that there are, none of which overlap. A layer alone is none."""
    _ask_sources(model, graph)
    taken: set[Node] = set()
    chains = []
    for node in graph.nodes:
        module = _module(model, node)
        if node in taken or module is None or not is_linear(module):
            continue
        chain = _Found([], [])
        source = node.args[0]
        norm = _module(model, source)
        if norm is not None and is_norm(norm) and len(source.users) == 1 and source not in taken:
            chain.add(source, norm)
        chain.add(node, module)
        while _grow(model, chain, taken):
            pass
        if len(chain.parts) > 1:
            chains.append(chain)
            taken.update(chain.nodes)
    return chains


def _ask_sources(model: nn.Module, graph: torch.fx.Graph) -> None:
    """Have shapes be read of what a norm is given, so that nothing but a layer reads what it makes."""
    for node in graph.nodes:
        if (
            node.op == "call_function"
            and node.target is getattr
            and node.args[1] in ("shape", "ndim", "dtype")
        ):
            source = node.args[0]
            module = _module(model, source)
            if module is not None and is_norm(module):
                node.replace_input_with(source, source.args[0])


def _grow(model: nn.Module, chain: _Found, taken: Collection[Node]) -> bool:
    """Add what alone reads a chain's output, if it can belong to the chain."""
    last = chain.nodes[-1]
    if len(last.users) != 1:
        return False
    [user] = last.users
    if user in taken or user.op == "output":
        return False
    if _does_nothing(model, user):
        chain.add(user, None)
        return True
    module = _module(model, user) or _functional_activation(user)
    if module is not None and (is_linear(module) or is_norm(module)):
        chain.add(user, module)
        return True
    if module is not None and activation_number(module) is not None:
        if not isinstance(chain.parts[-1], Packed):
            return False
        chain.add(user, module)
        return True
    how = _COMBINATIONS.get(user.target) if user.op == "call_function" else None  # type: ignore[arg-type]
    if how is not None and len(user.args) == 2 and not user.kwargs:
        other = 1 if user.args[0] is last else 0
        argument = user.args[other]
        if isinstance(argument, Node) and argument is not last and argument.op != "get_attr":
            chain.add(user, Combination(how))
            chain.others.append((user, other))
            return True
    return False


def _module(model: nn.Module, node: object) -> nn.Module | None:
    """What a node calls with one argument, if that is a module."""
    if isinstance(node, Node) and node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        return model.get_submodule(str(node.target))
    return None


def _does_nothing(model: nn.Module, node: Node) -> bool:
    """Whether a node hands on what it is given, in eval mode."""
    if type(_module(model, node)) in _NOTHING:
        return True
    named = getattr(node.target, "__name__", "") in _DROPS
    training = node.kwargs.get("training", node.args[-1] if len(node.args) > 1 else True)
    return node.op == "call_function" and named and training is False


def _functional_activation(node: Node) -> nn.Module | None:
    """The module of an activation that is written as a function."""
    if node.op != "call_function" or len(node.args) != 1:
        return None
    if node.target is functional.gelu and set(node.kwargs) <= {"approximate"}:
        return nn.GELU(**node.kwargs)  # type: ignore[arg-type]
    plain = {functional.relu: nn.ReLU, torch.relu: nn.ReLU, functional.silu: nn.SiLU}
    kind = plain.get(node.target)  # type: ignore[arg-type]
    return kind() if kind is not None and not node.kwargs.get("inplace") else None


def _replace(model: nn.Module, graph: torch.fx.Graph, chain: _Found, name: str) -> None:
    """Have a graph call the chain, under this name, in place of its nodes."""
    model.add_module(name, Chain(chain.parts))
    first, last = chain.nodes[0], chain.nodes[-1]
    with graph.inserting_before(last):
        call = graph.call_module(name, (first.args[0], *(node.args[index] for node, index in chain.others)))
    last.replace_all_uses_with(call)
    for node in reversed(chain.nodes):
        graph.erase_node(node)
