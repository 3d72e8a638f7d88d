"""Operations on tokens that run together compute what they do one by one, and run together only where they may."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from dstbench.accel.chains import fuse
from dstbench.accel.inference import accelerate
from dstbench.accel.kernels.compiled.ragged import ragged_executions
from dstbench.accel.packed import Packed
from dstbench.accel.token_chain import Chain, Combination
from dstbench.core.storage import fastest
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.registration.registry import registry
from fakes.compiled import called, needs_compiler, random_mask

pytestmark = needs_compiler
STRUCTURE = {"name": "shuffled_block", "block_size": 8, "columns": "channel"}


def sparse_linear(inputs, outputs, bias=True, block_size=8):
    """A masked layer."""
    layer = nn.Linear(inputs, outputs, bias)
    with torch.no_grad():
        layer.weight *= random_mask((outputs, inputs), block_size, 0.4)
    return layer


def packed(layer, block_size=8):
    call = called(layer, training=False)
    (execution,) = ragged_executions(call, layer.weight.detach() != 0, block_size)
    return Packed(layer, call, execution)


def norm(kind, features):
    """A norm whose weights aren't the ones that it starts with."""
    made = kind(features)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def chained(model, block_size=8):
    """The model in eval mode with all its linear layers packed, and what runs in chains then."""
    model = nn.Sequential(copy.deepcopy(model).eval())  # a layer may be the whole of it
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(name, packed(module, block_size))
    fused, layers = fuse(model)
    chains = [module for module in fused.modules() if isinstance(module, Chain)]
    assert sum(isinstance(part, Packed) for chain in chains for part in chain.parts) == len(layers)
    return fused, [[type(part).__name__ for part in chain.parts] for chain in chains]


def assert_close(fast, model, *inputs):
    """To 1e-5 of the largest value of the model in float64."""
    with torch.no_grad():
        expected = copy.deepcopy(model).eval().double()(*(x.double() for x in inputs))
        got = fast(*inputs)
        assert got.dtype == torch.float32
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert torch.equal(got, fast(*inputs))


ACTIVATIONS = [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ReLU()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("tokens", [(1,), (3, 15), (2, 32)])
def test_a_perceptron_behind_a_norm_is_one_chain(activation, tokens):
    torch.manual_seed(0)
    first, second = sparse_linear(29, 70), sparse_linear(70, 24, bias=False)
    model = nn.Sequential(norm(nn.LayerNorm, 29), first, activation, nn.Dropout(0.5), second, nn.Identity())
    fast, chains = chained(model)
    assert chains == [["LayerNorm", "Packed", type(activation).__name__, "Packed"]]
    assert_close(fast, model, torch.randn(*tokens, 29) * 3)


class Gated(nn.Module):
    """A norm that two layers read, a gate, a shortcut, and a norm of the sum."""

    def __init__(self):
        super().__init__()
        self.before, self.after = norm(nn.RMSNorm, 20), norm(nn.LayerNorm, 20)
        self.gate, self.up, self.down = (sparse_linear(*size) for size in ((20, 50), (20, 50), (50, 20)))

    def forward(self, x):
        y = self.before(x)
        return self.after(x + self.down(self.up(y) * functional.silu(self.gate(y))))


def test_products_sums_and_norms_behind_layers_belong_to_a_chain():
    torch.manual_seed(0)
    model = Gated()
    fast, chains = chained(model)
    assert ["Packed", "Combination", "Packed", "Combination", "LayerNorm"] in chains
    assert_close(fast, model, torch.randn(2, 21, 20))


def test_threads_share_tokens_and_unstructured_masks_are_chained():
    torch.manual_seed(0)
    model = nn.Sequential(sparse_linear(16, 40, block_size=1), nn.GELU(), sparse_linear(40, 16, block_size=1))
    fast, chains = chained(model, 1)
    assert chains == [["Packed", "GELU", "Packed"]]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_close(fast, model, torch.randn(101, 16))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_are_exact_from_end_to_end(activation):
    """Of x itself: a layer that hands it on. Four times the 1.2e-6 that torch's own GELU is off by, at most."""
    layer = nn.Linear(8, 8, bias=False)
    nn.init.eye_(layer.weight)
    chain = Chain([packed(layer, 1), activation, Combination("add")])
    x = torch.cat([torch.linspace(-7, 7, 8000), torch.tensor([-1e4, -88.0, -20, 20, 88, 1e4, 0, -0.0])]).view(
        -1, 8
    )
    expected = activation(x.double())
    difference = (chain(x, torch.zeros_like(x)) - expected).abs()
    assert (difference <= 5e-6 + 3e-7 * x.abs()).all()
    assert chain(torch.full((1, 8), float("nan")), torch.zeros(1, 8)).isnan().all()


class Read(nn.Module):
    """What is between the layers is read again."""

    def __init__(self):
        super().__init__()
        self.norm = norm(nn.LayerNorm, 16)
        self.first, self.second = sparse_linear(16, 16), sparse_linear(16, 16)

    def forward(self, x):
        y = self.norm(x)
        z = self.first(y)
        return self.second(functional.gelu(z)) + z + y


class Alias(nn.Module):
    """``+=`` writes to what is read again; a graph can't tell."""

    def __init__(self):
        super().__init__()
        self.first, self.second = sparse_linear(16, 16), sparse_linear(16, 16)

    def forward(self, x):
        y = self.first(x)
        z = y
        y += self.second(x)
        return y - z + y


class Iterates(nn.Module):
    """Reads its perceptron layer by layer, which it can't any more once it is one operation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(sparse_linear(16, 16), nn.ReLU(), sparse_linear(16, 16))

    def forward(self, x):
        if x.sum() > 1e9:  # no graph
            return x
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def all_faster(monkeypatch):
    """Whatever can be done to a network makes it faster."""
    monkeypatch.setattr(
        fastest, "speedup", lambda layer, call, execution, x: 1 + ("compiled" in execution.path)
    )
    monkeypatch.setattr(fastest, "network_speedups", lambda networks, _: range(1, len(networks) + 1))


def masks_of(model):
    return {
        name: module.weight != 0 for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }


def test_what_is_read_elsewhere_stays_what_it_is(all_faster):
    torch.manual_seed(0)
    model, x = Read(), torch.randn(5, 16)
    assert chained(model)[1] == [["Packed", "Combination", "Combination"]]
    fast = accelerate(model, masks_of(model), STRUCTURE, x)
    assert fast.execution_path == "shuffled-block compiled (1); shuffled-block compiled, in chains (1)"
    assert_close(fast, model, x)


@pytest.mark.parametrize("kind", [Alias, Iterates])
def test_a_chain_that_computes_something_else_is_refused(kind, all_faster):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(5, 16)
    fast = accelerate(model, masks_of(model), STRUCTURE, x)
    assert fast.execution_path == "shuffled-block compiled"
    assert_close(fast, model, x)


def test_gradients_other_dtypes_and_shapes_go_part_by_part():
    torch.manual_seed(0)
    layer = sparse_linear(16, 24)
    chain = Chain([packed(layer), nn.GELU(), Combination("add")])
    x = torch.randn(7, 16, requires_grad=True)
    chain(x, torch.zeros(24)).sum().backward()  # a shift is no tensor of the output's shape
    expected = x.detach().clone().requires_grad_()
    functional.gelu(layer(expected)).sum().backward()
    torch.testing.assert_close(x.grad, expected.grad)
    with torch.no_grad(), pytest.warns(UserWarning, match="masked dense in torch.float64"):
        out = copy.deepcopy(chain).double()(x.double(), torch.zeros(7, 24, dtype=torch.float64))
    torch.testing.assert_close(out, functional.gelu(copy.deepcopy(layer).double()(x.double())))


@pytest.mark.parametrize("name", ["gpt", "llama", "vit", "deit_tiny"])
def test_transformers_run_in_chains(name, all_faster):
    """Every masked layer but those to which nothing can be added: of llama what reads the same norm."""
    images = name in ("vit", "deit_tiny")
    classes, shape = (5, (3, 8, 8)) if images else (11, (12,))
    torch.manual_seed(0)
    size = {"width": 0.25} if images else {"layers": 2, "dim": 32, "heads": 4}
    model = registry().build("model", name)(num_classes=classes, input_shape=shape, **size)
    recipe = {
        "name": "ssb",
        "init": "uniform",
        "structure": STRUCTURE,
        "dense_layers": ["@first_conv", "@classifier"],
    }
    sparsifier = Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), recipe, 0.3, total_steps=1)
    x = torch.randn(3, *shape) if images else torch.randint(classes, (3, *shape))
    fast = accelerate(model, sparsifier.masks, STRUCTURE, x)
    path = "shuffled-block compiled"
    assert fast.execution_path == (
        f"{path} (8); {path}, in chains (6)" if name == "llama" else f"{path}, in chains"
    )
    assert fast.check.difference < 1e-5
    assert fast(x[:2]).shape == model(x[:2]).shape  # of another batch, too


def test_a_network_whose_layers_gain_less_than_they_cost_stays_dense(monkeypatch, all_faster):
    model, x = Read(), torch.randn(5, 16)
    monkeypatch.setattr(fastest, "network_speedups", lambda networks, _: [1.0] + [1.04] * (len(networks) - 1))
    fast = accelerate(model, masks_of(model), STRUCTURE, x)
    assert fast.execution_path == "masked-dense"
    assert not any(isinstance(module, Packed) for module in fast.modules())
