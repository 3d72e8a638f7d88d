"""Sums over what passes through layers, against what ``unfold`` and autograd say."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

import dstbench
from dstbench.api import Policy, Signal, StrategyError
from dstbench.api.accumulators import Folding
from dstbench.core.network.layers import maskable_layers
from dstbench.core.training.activity import Activity
from dstbench.errors import BadInput
from fakes.engine import mlp, recipe, sgd

REGISTRY = dstbench.registry()


def watched(model, *names, step=1):
    """The sums of these accumulators' entries, from the next forward pass on."""
    foldings = {name: Folding.of(REGISTRY.build("accumulator", name), name) for name in names}
    activity = Activity(maskable_layers(model), model, seed=0)
    activity.watch(foldings, step)
    return activity


def seen(activity, name, layer, device="cpu"):
    return activity.everywhere(name, [layer], torch.device(device))[layer]


CONVS = [
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0), "dilation": (1, 2)},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 4},
    {"kernel_size": 3, "padding": "same", "padding_mode": "circular"},
]


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_squares_of_a_convolution_are_those_of_unfold(options):
    module = nn.Conv2d(4, 8, **options)
    activity = watched(model := nn.Sequential(module), "input_norm")
    x = torch.randn(3, 4, 7, 6)
    model(x)
    pads = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    patches = functional.unfold(
        functional.pad(x, pads, mode), module.kernel_size, module.dilation, 0, module.stride
    )
    squares = patches.square().sum((0, 2)).view(module.groups, *module.weight.shape[1:])
    rows = squares.repeat_interleave(8 // module.groups, 0)
    assert torch.allclose(seen(activity, "input_norm", "0").expand(8, *rows.shape[1:]), rows, atol=1e-4)


def test_one_dimension_and_a_single_sample():
    module = nn.Conv1d(2, 3, 3, padding=1)
    activity = watched(nn.Sequential(module), "input_size")
    x = torch.randn(2, 5)
    module(x)
    padded = functional.pad(x, (1, 1)).abs()
    expected = torch.stack([padded[:, tap : tap + 5].sum(1) for tap in range(3)], 1)
    assert torch.allclose(seen(activity, "input_size", "0"), expected[None])


def test_linear_layers_sum_over_all_but_their_features_and_over_calls():
    module = nn.Linear(3, 2)
    activity = watched(nn.Sequential(module), "input_norm", "output_gradient_size")
    x = torch.randn(2, 4, 3)
    (module(x) * 2).sum().backward()
    (module(input=x[0, 0])).sum().backward()
    expected = x.square().sum((0, 1)) + x[0, 0].square()
    assert torch.allclose(seen(activity, "input_norm", "0"), expected[None])
    assert torch.equal(seen(activity, "output_gradient_size", "0"), torch.full((2, 1), 8 * 2 + 1.0))


def test_passes_without_gradients_do_not_count_and_nothing_stays_behind():
    module = nn.Linear(3, 2)
    activity = watched(nn.Sequential(module), "input_norm")
    with torch.no_grad():
        module(torch.ones(5, 3))
    assert activity.everywhere("input_norm", ["0"], torch.device("cpu")) == {}
    activity.stop()
    module(torch.ones(5, 3))
    assert not module._forward_hooks
    assert not activity.sums["input_norm"]


@pytest.mark.parametrize("module", [nn.Linear(5, 4), nn.Conv2d(5, 4, 3, padding=1, stride=2)])
def test_signed_sums_multiply_to_the_gradient_in_expectation(module):
    names = "signed_input", "signed_output_gradient"
    model = nn.Sequential(module)
    shape = (3, 5) if isinstance(module, nn.Linear) else (2, 5, 4, 4)
    x, total = torch.randn(shape), torch.zeros_like(module.weight)
    activity = watched(model, *names)
    for step in range(1, 1501):
        activity.watch({name: activity._foldings[name] for name in names}, step)
        model.zero_grad()
        model(x).square().sum().backward()
        inputs, outputs = (seen(activity, name, "0") for name in names)
        total += inputs * outputs
    gradient = module.weight.grad
    error = (total / 1500 - gradient).norm() / gradient.norm()
    assert error < 0.25  # of one draw it is several times the gradient
    assert functional.cosine_similarity(total.flatten(), gradient.flatten(), 0) > 0.97


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 4}])
def test_attention_of_torch_shows_its_projections(dropout, widths):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True, **widths)
    model = nn.ModuleDict({"attention": attention})
    activity = watched(model, "input_norm")
    q = torch.randn(2, 3, 8)
    k, v = (torch.randn(2, 3, widths.get(name, 8)) for name in ("kdim", "vdim"))
    draws = torch.get_rng_state()
    out = attention(q, k, v)[0]
    after = torch.get_rng_state()
    squares = {name: x.square().sum((0, 1)) for name, x in zip("qkv", (q, k, v), strict=True)}
    if widths:
        for letter in "qkv":
            got = seen(activity, "input_norm", f"attention.{letter}_proj_weight")
            assert torch.allclose(got, squares[letter][None])
    else:
        got = seen(activity, "input_norm", "attention.in_proj_weight")
        assert torch.allclose(got[[0, 8, 16]], torch.stack([*squares.values()]))
    weight, bias = attention.out_proj.weight, attention.out_proj.bias
    mixed = torch.linalg.solve(weight.double(), (out - bias).double().flatten(0, 1).T).T
    got = seen(activity, "input_norm", "attention.out_proj")
    assert torch.allclose(got[0].double(), mixed.square().sum(0), rtol=1e-3)
    activity.stop()
    torch.set_rng_state(draws)
    assert torch.equal(attention(q, k, v)[0], out)
    assert torch.equal(torch.get_rng_state(), after)  # looking drew nothing


def test_layers_that_nobody_sees_are_named():
    with pytest.raises(BadInput, match=r"layer '0': .* transposed convolution"):
        watched(nn.Sequential(nn.ConvTranspose2d(2, 3, 3)), "input_norm")
    model = nn.ModuleDict({"a": nn.MultiheadAttention(4, 1)})
    watched(model, "output_gradient_size")
    x = torch.randn(2, 1, 4)
    with pytest.raises(BadInput, match=r"gradients inside torch's attention"):
        model["a"](x, x, x)


def test_two_micro_batches_are_one_step_and_evaluation_is_none():
    """A plugin's own statistic, Σ x⁴ of two micro-batches: what one batch of both gives."""

    @dataclass(frozen=True)
    class Fourth:
        needs: ClassVar[Signal] = Signal.INPUTS
        dtype: ClassVar[torch.dtype] = torch.float32

        def entry(self, values):
            return values**4

        def fold(self, total, layer, clock):
            return total + layer.extra["seen"]

    @dataclass(frozen=True)
    class Reads:
        accumulators: ClassVar[dict] = {"fourth": Fourth()}

        def __call__(self, layer, rng):
            return layer.weight.abs() * layer.extra["fourth"]

    x, totals = torch.randn(8, 12), []
    for parts in ([x], [x[:4], x[4:]]):
        model = mlp()
        sparsifier = dstbench.Sparsifier(
            model, sgd(model), recipe("constant", 3) | {"prune": Policy(Reads())}, 0.5, total_steps=9
        )
        for part in parts:
            model(part).square().sum().backward()
        model.eval()
        with torch.no_grad():
            model(x)
        sparsifier.step()
        totals.append(sparsifier.evolution.foldings.totals["fourth"])
    assert torch.allclose(totals[0]["0"], (x**4).sum(0)[None], rtol=1e-5)
    assert all(torch.allclose(total, totals[1][name], rtol=1e-4) for name, total in totals[0].items())


def test_a_step_in_which_nothing_was_seen_is_no_silent_one():
    """As where a compiled model doesn't call its modules."""
    model = mlp()
    parts = recipe("constant", 3) | {"prune": "wanda"}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.5, total_steps=9)
    for _ in range(2):  # outside the window
        model(torch.randn(4, 12)).square().sum().backward()
        sparsifier.step()
    for module in model:
        module.forward = None
        if isinstance(module, nn.Linear):
            module.weight.grad = torch.ones_like(module.weight)
    with pytest.raises(StrategyError, match=r"'input_norm' saw nothing pass .* before step 3"):
        sparsifier.step()
