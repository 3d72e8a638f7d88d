"""A tensor, a tuple or a dict as what a model is called with."""

from collections import UserDict

import numpy
import pytest
import torch
from torch import nn

from dstbench.core.network.inputs import (
    arguments,
    batch_size,
    call,
    described,
    each_tensor,
    first_sample,
    tensors,
    zero_input,
)
from dstbench.errors import BadInput


def shout(x, y=None, *, scale=1):
    return x if y is None else (x + y) * scale


ONE = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (ONE, 1),
        ((ONE,), 1),
        ((ONE, ONE), 2),
        ({"x": ONE, "y": ONE, "scale": 3}, 6),
        (UserDict(x=ONE, scale=3, y=ONE), 6),
    ],
    ids=["tensor", "one", "several", "keywords", "mapping"],
)
def test_a_model_is_called_with_them(inputs, expected):
    assert call(shout, inputs).unique().tolist() == [expected]
    assert all(tensor is ONE for tensor in tensors(inputs))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([ONE, ONE], r"example_input: expected a tensor, a tuple.*got list \(Tensor, Tensor\).*\(x,\)"),
        ({1: ONE}, r"a dict of keyword arguments, got dict \(Tensor\)"),
        (None, "got NoneType"),
        ((3,), r"no tensor in tuple \(int\)"),
        ({}, "no tensor in dict"),
    ],
)
def test_bad_inputs_are_named(inputs, message):
    with pytest.raises(BadInput, match=message):
        arguments(inputs)


def test_the_first_sample_of_every_tensor_that_is_as_long_as_the_batch():
    table = torch.zeros(5, 4)
    inputs = {"ids": torch.arange(6).view(3, 2), "deep": [torch.arange(3), table], "scale": torch.tensor(2)}
    assert batch_size(inputs) == 3
    first = first_sample(inputs)
    assert first["ids"].tolist() == [[0, 1]]
    assert first["deep"][0].tolist() == [0]
    assert first["deep"][1] is table
    assert first["scale"].item() == 2
    assert batch_size(torch.tensor(1.0)) == 1


def test_every_tensor_is_replaced_and_nothing_else():
    inputs = (ONE, {"mask": ONE}, 3, None)
    assert each_tensor(inputs, lambda tensor: tensor.to(torch.int8))[1]["mask"].dtype == torch.int8
    assert each_tensor(inputs, torch.neg)[2:] == (3, None)
    assert described(inputs) == "float32 [2, 3], float32 [2, 3]"


def test_a_zero_sample_is_of_the_models_dtype_and_device():
    assert zero_input(nn.Linear(2, 2).double(), (2,)).dtype == torch.float64
    assert zero_input(nn.Linear(2, 2, device="meta"), [5, 2]).shape == (1, 5, 2)
    assert zero_input(nn.Linear(2, 2, device="meta"), (2,)).device.type == "meta"
    assert zero_input(nn.ReLU(), ()).shape == (1,)
    assert zero_input(nn.ReLU(), (numpy.int64(3), 2)).shape == (1, 3, 2)
    for shape in (7, None, (3, "a"), (3, -1), "ab"):
        with pytest.raises(BadInput, match="input_shape: expected"):
            zero_input(nn.ReLU(), shape)
