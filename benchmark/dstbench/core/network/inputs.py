"""What a model is called with: one tensor, a tuple of positional arguments, or a dict of keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from dstbench.errors import BadInput

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""``model(x)``, ``model(*x)`` or ``model(**x)``. An argument may be anything: other dtypes, lists, None. A model
whose one argument is itself a tuple, a list or a dict is given a tuple of one: ``(x,)``."""


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments. Raises BadInput for what is neither a tensor, a tuple nor a dict of names,
    and for one without any tensor."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
        args, kwargs = (), dict(inputs)
    elif isinstance(inputs, tuple):
        args, kwargs = inputs, {}
    else:
        raise BadInput(
            "example_input: expected a tensor, a tuple of positional arguments or a dict of keyword arguments, got "
            f"{_kind(inputs)}; one argument that is a list or a dict itself is given as (x,)"
        )
    if not tensors(inputs):
        raise BadInput(f"example_input: there is no tensor in {_kind(inputs)}")
    return args, kwargs


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """What the model returns for them. Raises BadInput as ``arguments`` does, and what the model raises."""
    args, kwargs = arguments(inputs)
    return model(*args, **kwargs)


def tensors(inputs: Inputs) -> list[Tensor]:
    """All tensors in them, at any depth, in order."""
    return [leaf for leaf in tree_leaves(_plain(inputs)) if isinstance(leaf, Tensor)]


def each_tensor(inputs: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    """The same arguments with every tensor, at any depth, replaced by the function's result."""
    mapped: Inputs = tree_map_only(Tensor, function, _plain(inputs))
    return mapped


def batch_size(inputs: Inputs) -> int:
    """The samples of a batch: the length of the first tensor; 1 where that is a scalar."""
    first = tensors(inputs)[0]
    return len(first) if first.dim() else 1


def first_sample(inputs: Inputs) -> Inputs:
    """A batch of one: the first entry, [1, ...], of each tensor that is as long as the batch."""
    batch = batch_size(inputs)
    return each_tensor(inputs, lambda tensor: tensor[:1] if tensor.dim() and len(tensor) == batch else tensor)


def zero_input(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """One zero sample, [1, *shape], of the dtype and on the device of the model's first floating weight; token ids,
    int64, where the model says that it looks its input up (``get_input_embeddings``, as Hugging Face's have it).

    Raises BadInput for a shape that is none.
    """
    sizes = list(shape) if isinstance(shape, Sequence) else None
    if sizes is None or not all(isinstance(size, Integral) and size >= 0 for size in sizes):
        raise BadInput(
            f"input_shape: expected channels, height and width, or a number of tokens, got {shape!r}"
        )
    weight = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    if weight is None:
        return torch.zeros(1, *sizes, dtype=torch.float32)
    dtype = torch.int64 if _reads_tokens(model) else weight.dtype
    return torch.zeros(1, *sizes, dtype=dtype, device=weight.device)


def _reads_tokens(model: nn.Module) -> bool:
    named: Any = getattr(model, "get_input_embeddings", None)
    return callable(named) and isinstance(named(), nn.Embedding)


def described(inputs: Inputs) -> str:
    """Dtypes and shapes of the tensors, for a message."""
    return ", ".join(
        f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for tensor in tensors(inputs)
    )


def _plain(inputs: Inputs) -> Inputs:
    """A dict in place of a mapping that torch's trees don't know, such as a tokenizer's output."""
    return inputs if isinstance(inputs, Tensor | tuple) or type(inputs) is dict else dict(inputs)


def _kind(value: object) -> str:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    named = ", ".join(type(part).__name__ for part in parts)
    return f"{type(value).__name__} ({named})" if named else type(value).__name__
