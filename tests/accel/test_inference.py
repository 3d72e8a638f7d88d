"""Condensed and accelerated models compute what the masked model does, and say what runs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dstbench.accel.fold import fold_norms, relus_in_place
from dstbench.accel.inference import accelerate, describe
from dstbench.accel.packed import Packed
from dstbench.api import StrategyError
from dstbench.core.storage import fastest
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.registration.registry import registry
from fakes.engine import chain_net
from fakes.executions import Offering, Scattered

STRUCTURE = {"name": "shuffled_block", "block_size": 8, "columns": "channel", "balanced": True}


@pytest.fixture
def always_faster(monkeypatch):
    """Every execution is measured to be twice as fast, and every network the faster the more was done to it."""
    monkeypatch.setattr(fastest, "speedup", lambda *args, **kwargs: 2.0)
    monkeypatch.setattr(fastest, "network_speedups", lambda networks, _: range(1, len(networks) + 1))


def sparse(name="cifar_resnet_20", width=1.0, structure=STRUCTURE):
    """A model with norms that have seen data, its masks, and a batch."""
    torch.manual_seed(0)
    model = registry().build("model", name)(num_classes=5, input_shape=(3, 32, 32), width=width)
    recipe = {"name": "ssb", "init": "uniform", "structure": structure, "dense_layers": ["@first_conv"]}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = dict(Sparsifier(model, optimizer, recipe, 0.25, total_steps=1).masks)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        model.train()(images)
    return model, masks, images


@pytest.mark.parametrize("name", ["cifar_resnet_20", "vgg-d", "vgg-c"])
def test_an_accelerated_model_computes_what_the_masked_one_does(name, always_faster):
    model, masks, images = sparse(name, 1.0 if "resnet" in name else 0.25)
    before = copy.deepcopy(model.state_dict())
    fast = accelerate(model, masks, STRUCTURE, images)
    assert any(isinstance(module, Packed) for module in fast.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert "shuffled-block" in fast.execution_path
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model.eval()(images), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_layers_stay_dense_where_nothing_is_faster(monkeypatch):
    monkeypatch.setattr(fastest, "speedup", lambda *args, **kwargs: 1.0)
    model, masks, images = sparse()
    assert accelerate(model, masks, STRUCTURE, images).execution_path == "masked-dense"


def test_a_single_layer_is_packed_itself(always_faster):
    layer = nn.Linear(16, 8)
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[:, 3:5] = True
    x = torch.randn(3, 16)
    fast = accelerate(layer, {"weight": mask}, STRUCTURE, x)
    assert isinstance(fast, Packed)
    assert fast.execution_path == "shuffled-block bmm"
    torch.testing.assert_close(fast(x), nn.functional.linear(x, layer.weight * mask, layer.bias))


def test_what_ran_is_described_with_the_number_of_layers():
    assert describe({"a": "x", "b": "y", "c": "y"}) == "y (2); x (1)"
    assert describe({"a": "x"}) == "x"


class Shared(nn.Module):
    """A convolution that is read by more than its norm, one with a norm, and a norm that is called twice."""

    def __init__(self):
        super().__init__()
        self.read = nn.Conv2d(3, 4, 3)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.plain = nn.Conv2d(4, 4, 1, bias=False)
        self.twice = nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        x = self.read(x)
        x = x + self.norm1(x)
        x = self.norm2(self.plain(x))
        return self.twice(self.twice(x))


def test_norms_are_folded_only_where_that_is_exact():
    torch.manual_seed(0)
    model = Shared()
    images = torch.randn(5, 3, 6, 6)
    model(images)
    expected = model.eval()(images)
    folded = fold_norms(copy.deepcopy(model))
    torch.testing.assert_close(folded(images), expected, rtol=1e-5, atol=1e-6)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["norm1", "twice"]


class Relus(nn.Module):
    """ReLUs that may overwrite their input, behind a norm and a sum, and ones that may not."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.behind_norm, self.behind_sum = nn.ReLU(), nn.ReLU()
        self.read_twice, self.behind_pool, self.often = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.behind_norm(self.norm(self.conv(x)))
        x = self.behind_sum(x + 1)
        x = self.behind_pool(self.pool(x))
        x = x - 0.1
        x = x + self.read_twice(x)
        return self.often(self.often(x + 1))


def test_relus_work_in_place_only_where_nothing_else_reads_their_input():
    torch.manual_seed(0)
    model = Relus()
    images = torch.randn(5, 3, 8, 8)
    changed = relus_in_place(copy.deepcopy(model))
    assert [name for name, module in changed.named_modules() if getattr(module, "inplace", False)] == [
        "behind_norm", "behind_sum",
    ]  # fmt: skip
    for network in (model, changed):
        network(images).square().sum().backward()
    for mine, reference in zip(changed.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine.grad, reference.grad)


class Doubles(Scattered):
    """Computes something else than masked dense."""

    def __call__(self, x, packed, bias):
        return 2 * super().__call__(x, packed, bias)


class Wrong(Offering):
    """A structure whose only execution is broken."""

    def accelerate(self, call, mask):
        return [Doubles(call, mask.flatten().nonzero().flatten())]


def test_a_copy_that_computes_something_else_is_refused(always_faster):
    layer = nn.Linear(6, 4)
    mask = torch.ones(4, 6, dtype=torch.bool)
    accelerate(layer, {"weight": mask}, Offering(), torch.randn(3, 6))
    with pytest.raises(StrategyError, match="accelerate: outputs differ from the masked model's by"):
        accelerate(layer, {"weight": mask}, Wrong(), torch.randn(3, 6))


class Alias(nn.Module):
    """``+=`` writes to what is read again behind the ReLU."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        y = self.first(x)
        z = y
        y += self.second(x)
        return self.relu(y) - z


def test_relus_spare_what_an_in_place_sum_shares():
    torch.manual_seed(0)
    model, x = Alias(), torch.randn(5, 4)
    expected = model(x)
    assert torch.equal(relus_in_place(copy.deepcopy(model))(x), expected)


@pytest.mark.parametrize("structure", ["channel", {"name": "emergent_channel", "stop": 0.1}])
def test_a_trainings_own_structure_takes_the_path_of_the_named_one(structure):
    """A support that removes channels is any mask to the engine, and compacts all the same."""
    torch.manual_seed(0)
    model, x = chain_net(), torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, {"structure": structure}, 0.5, total_steps=2000)
    for asked in (structure, sparsifier.method.structure, sparsifier.method.structure.component):
        assert accelerate(model, sparsifier.masks, asked, x).execution_path == "compacted"
