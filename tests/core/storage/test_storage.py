"""Storages: whatever the parameters hold, training is that of masked dense, and checkpoints are logical."""

import copy
from itertools import permutations

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Recipe, StrategyError
from dstbench.core.storage import fastest
from dstbench.core.storage.condensed_layer import CondensedLayer, expanded
from dstbench.errors import BadInput
from fakes.engine import settle
from fakes.executions import Offering

IMAGES = (4, 3, 8, 8)


@pytest.fixture(autouse=True)
def always_faster(monkeypatch):
    """What a measurement would say is not the subject here."""
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)


def network(seed=0):
    layers = (
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5),
    )
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    return settle(nn.Sequential(*layers, *head), seed)


def sparsify(model, storage, structure=None, density=0.3, total_steps=24, **parts):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    options = {"grow": "gradient", "schedule": {"name": "constant", "delta_t": 4}, **parts}
    method = Recipe(structure=structure or Offering(), **options)
    return dstbench.Sparsifier(
        model,
        optimizer,
        method,
        density,
        total_steps=total_steps,
        storage=storage,
        example_input=torch.zeros(IMAGES),
    )


def losses(steps=24, skip=0, shape=IMAGES):
    draw = torch.Generator().manual_seed(1)
    for step in range(steps):
        batch = torch.randn(shape, generator=draw), torch.randint(4, shape[:1], generator=draw)
        if step >= skip:
            yield batch


def train(model, sparsifier, steps=24, skip=0, parts=1):
    """The loss is held over the next forward pass, as loops do: its graph is still alive when shapes change."""
    for images, labels in losses(steps, skip):
        sparsifier.optimizer.zero_grad()
        for some, same in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            loss = nn.functional.cross_entropy(model(some), same) / parts
            loss.backward()
        sparsifier.step()


def trained(storage, structure=None, make=network, parts=1, **options):
    model = make()
    sparsifier = sparsify(model, storage, structure, **options)
    train(model, sparsifier, parts=parts)
    return model, sparsifier


def assert_same(one, other, tolerance=1e-5):
    (model_a, a), (model_b, b) = one, other
    assert all(torch.equal(a.masks[name], b.masks[name]) for name in a.masks)
    assert (a.steps, a.active, a.budget, a.explored, a.kept) == (
        b.steps,
        b.active,
        b.budget,
        b.explored,
        b.kept,
    )
    for (key, x), (other_key, y) in zip(*(m.state_dict().items() for m in (model_a, model_b)), strict=True):
        assert key == other_key
        assert x.shape == y.shape
    images = next(losses())[0]
    assert torch.allclose(model_a.eval()(images), model_b.eval()(images), atol=tolerance)
    states = (each.optimizer.state_dict()["state"] for each in (a, b))
    for x, y in zip(*(state.values() for state in states), strict=True):
        assert x["momentum_buffer"].shape == y["momentum_buffer"].shape


@pytest.mark.parametrize("parts", [1, 2])
def test_condensed_training_is_that_of_masked_dense(parts):
    masked, condensed = trained("masked", parts=parts), trained("condensed", parts=parts)
    assert len(masked[1].history) == 5
    assert all(isinstance(condensed[0].get_submodule(name), CondensedLayer) for name in condensed[1].masks)
    assert_same(masked, condensed)
    for (_, x), (_, y) in zip(masked[0].state_dict().items(), condensed[0].state_dict().items(), strict=True):
        assert torch.allclose(x.float(), y.float(), atol=1e-5)
    for x, y in zip(
        *(s.optimizer.state_dict()["state"].values() for _, s in (masked, condensed)), strict=True
    ):
        assert torch.allclose(x["momentum_buffer"], y["momentum_buffer"], atol=1e-5)


def test_only_active_weights_are_held_and_stay_where_they_are():
    model = network()
    sparsifier = sparsify(model, "condensed")
    weights = [model.get_submodule(name).weight for name in sparsifier.masks]
    before = [weight.data_ptr() for weight in weights]
    train(model, sparsifier)
    assert sparsifier.history[0].grown > 0
    assert [weight.data_ptr() for weight in weights] == before
    assert [weight.numel() for weight in weights] == list(sparsifier.active.values())
    assert sum(weight.numel() for weight in weights) == round(0.3 * sparsifier.size)
    held = {id(p) for group in sparsifier.optimizer.param_groups for p in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}
    momentum = [sparsifier.optimizer.state[weight]["momentum_buffer"] for weight in weights]
    assert [each.shape for each in momentum] == [weight.shape for weight in weights]


def test_the_dense_gradient_is_made_only_where_an_update_reads_it():
    model = network()
    sparsifier = sparsify(model, "condensed")
    seen = []
    for step, (images, labels) in enumerate(losses(12), start=1):
        sparsifier.optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        seen.append((step, model[0].dense_gradient is not None))
        sparsifier.step()
    assert [step for step, made in seen if made] == [4, 8, 12]


def test_a_step_that_never_came_leaves_no_gradient_behind():
    """Without an optimizer step, as where a loss scaler skips it, the next backward pass starts anew."""
    model = network()
    sparsifier = sparsify(model, "condensed", total_steps=24, schedule={"name": "constant", "delta_t": 1})
    (images, labels), (other, also) = losses(2)
    nn.functional.cross_entropy(model(images), labels).backward()
    sparsifier.optimizer.zero_grad()
    nn.functional.cross_entropy(model(other), also).backward()
    found = model[0].dense_gradient.clone()
    sparsifier.optimizer.zero_grad()
    nn.functional.cross_entropy(model(other), also).backward()
    assert torch.equal(found, model[0].dense_gradient)


def test_a_layer_that_is_not_one_of_its_own_stays_dense():
    shared, tied = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
    other = nn.Linear(6, 6, bias=False)
    other.weight = tied.weight

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.again, self.tied, self.other, self.own = (
                shared,
                shared,
                tied,
                other,
                nn.Linear(6, 6),
            )
            self.twice = nn.Linear(6, 6)

        def forward(self, x):
            return self.own(self.twice(self.twice(self.other(self.tied(self.again(self.one(x)))))))

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = Recipe(structure=Offering(), schedule="never")
    example = torch.zeros(2, 6)
    sparsifier = dstbench.Sparsifier(
        model, optimizer, method, 0.5, total_steps=4, storage="condensed", example_input=example
    )
    assert [n for n, path in sparsifier.arrangement.paths.items() if path == "scattered"] == ["own"]
    sparsifier = dstbench.Sparsifier(
        alone := nn.Linear(4, 4), torch.optim.SGD(alone.parameters()), method, 0.5, total_steps=4,
        storage="condensed", example_input=torch.zeros(1, 4),
    )  # fmt: skip
    assert set(sparsifier.arrangement.paths.values()) == {"masked-dense"}


def lives(model, sparsifier):
    """Everything that a checkpoint holds, through a file."""
    states = {
        "model": model.state_dict(),
        "optimizer": sparsifier.optimizer.state_dict(),
        "masks": sparsifier.state_dict(),
    }
    return copy.deepcopy(states)


def resumed(saved, storage, structure=None, make=network, steps=24, **options):
    model = make(7)
    sparsifier = sparsify(model, storage, structure, **options)
    model.load_state_dict(saved["model"])
    sparsifier.optimizer.load_state_dict(saved["optimizer"])
    sparsifier.load_state_dict(saved["masks"])
    train(model, sparsifier, steps, skip=saved["masks"]["steps"])
    return model, sparsifier


FORMS = [(a, b) for a in ("masked", "condensed") for b in ("masked", "condensed")]


@pytest.mark.parametrize(("before", "after"), FORMS)
@pytest.mark.parametrize("step", [3, 4, 10])
def test_a_checkpoint_of_either_form_goes_on_in_either(before, after, step):
    whole = trained("masked")
    model = network()
    sparsifier = sparsify(model, before)
    train(model, sparsifier, step)
    assert_same(whole, resumed(lives(model, sparsifier), after))


@pytest.mark.parametrize("order", [*permutations(["model", "optimizer", "masks"])], ids="-".join)
@pytest.mark.parametrize("used", [0, 5], ids=["new", "used"])
@pytest.mark.parametrize("storage", ["masked", "condensed", "compact"])
def test_states_are_loaded_in_any_order(order, used, storage):
    """Into a training that is new, or at another point of its way."""
    parts = {**CHASE} if storage == "compact" else {"make": chain}
    if storage == "compact" and used:
        pytest.skip("cut channels don't come back: refused")
    make, options = parts.pop("make"), parts
    model = make()
    sparsifier = sparsify(model, storage, **options)
    train(model, sparsifier, 11)
    saved = lives(model, sparsifier)
    train(model, sparsifier, skip=11)
    again = make(7)
    other = sparsify(again, storage, **options)
    train(again, other, used)
    loads = {"model": again, "optimizer": other.optimizer, "masks": other}
    for each in order:
        loads[each].load_state_dict(copy.deepcopy(saved[each]))
    train(again, other, skip=11)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in sparsifier.masks.items())
    for (name, one), two in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_rewinding_a_condensed_training_keeps_its_mask_when_told_to():
    model = network()
    first = copy.deepcopy(model.state_dict())
    sparsifier = sparsify(model, "condensed")
    train(model, sparsifier, 6)
    model.load_state_dict(first)
    with pytest.raises(StrategyError, match=r"another mask; load .* or keep .* enforce\(\)"):
        model(next(losses())[0])
    sparsifier.enforce()
    for name, mask in sparsifier.masks.items():
        assert torch.equal(model.state_dict()[f"{name}.weight"], first[f"{name}.weight"] * mask)
    train(model, sparsifier, 12, skip=6)


def test_a_training_measures_each_sort_of_layer_once_for_itself(monkeypatch):
    measured = []
    monkeypatch.setattr(fastest, "speedup", lambda layer, *_: measured.append(type(layer)) or 2.0)
    twins = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)]
    for _ in range(2):
        model = settle(nn.Sequential(*copy.deepcopy(twins), nn.Flatten(), nn.Linear(3 * 8 * 8, 4)))
        sparsify(model, "condensed", init="uniform")
    assert measured == [nn.Conv2d, nn.Linear] * 2


def test_a_resumed_training_runs_as_it_was_measured_first(monkeypatch):
    first = trained("condensed", Offering(("scattered", "other")))
    saved = lives(*first)
    monkeypatch.setattr(
        fastest, "speedup", lambda layer, call, execution, example: 0.5
    )  # a busy machine, say
    model, sparsifier = resumed(saved, "condensed", Offering(("scattered", "other")))
    assert sparsifier.arrangement.paths == first[1].arrangement.paths
    assert isinstance(model[0], CondensedLayer)
    saved["masks"]["paths"]["0"] = "scatered"
    with pytest.raises(BadInput, match=r"layer '0'.*can't run 'scatered' here; did you mean 'scattered'"):
        resumed(saved, "condensed", Offering(("scattered", "other")))


def test_weights_of_another_mask_are_never_run():
    model, _ = trained("condensed")
    dense = network(3)
    model.load_state_dict(dense.state_dict())
    with pytest.raises(StrategyError, match="layer '0': the weights loaded are of another mask"):
        model(next(losses())[0])


def test_what_can_not_be_condensed_is_refused_with_a_reason():
    with pytest.raises(BadInput, match=r"init .* reads gradients"):
        sparsify(network(), "condensed", init="snip")
    with pytest.raises(BadInput, match="momentum growth"):
        sparsify(network(), "condensed", grow="momentum")
    wrapped = nn.DataParallel(network())
    with pytest.raises(BadInput, match=r"before DDP or torch.compile"):
        sparsify(wrapped, "condensed")


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # torch's own, of what it traces
def test_a_condensed_model_compiles_clips_and_runs_under_autocast():
    model = network()
    sparsifier = sparsify(model, "condensed")
    compiled = torch.compile(model, backend="eager")
    for images, labels in losses(6):
        sparsifier.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(compiled(images), labels)
        loss.backward()
        sparsifier.mask_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        sparsifier.step()
    assert torch.isfinite(loss)
    assert len(sparsifier.history) == 1


def chain(seed=0):
    """Three convolutions in a row, with norms, and a classifier behind a flatten."""
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, bias=False))
    more = (
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    return settle(nn.Sequential(*layers, *more, nn.Linear(48, 4)), seed)


CHASE = {
    "structure": {
        "name": "emergent_channel",
        "channel_sparsity": 0.5,
        "delta_t": 4,
        "floor": 0.2,
        "stop": 0.7,
    },
    "make": chain,
    "schedule": {"name": "constant", "delta_t": 4, "stop": 0.9},
}


def test_compact_training_is_that_of_masked_dense_and_smaller():
    masked, compact = trained("masked", **CHASE), trained("compact", **CHASE)
    assert_same(masked, compact)
    assert len(masked[1].removals) == len(compact[1].removals) > 1
    assert compact[1].arrangement.generation == len(compact[1].removals)
    model, sparsifier = compact
    rows = {"0": 8} | {
        name: int(support.flatten(1).any(1).sum()) for name, support in sparsifier.support.items()
    }
    assert (model[0].out_channels, model[3].in_channels, model[1].num_features) == (rows["0"],) * 3
    assert model[0].weight.shape == (rows["0"], 3, 3, 3)
    assert model[3].weight.shape == (rows["3"], rows["0"], 3, 3)
    assert model[6].weight.shape == (12, rows["3"], 1, 1)
    assert rows["0"] + rows["3"] == 10
    buffers = [sparsifier.optimizer.state[p]["momentum_buffer"].shape == p.shape for p in model.parameters()]
    assert all(buffers)
    smaller = sum(p.numel() for p in model.parameters())
    assert smaller < sum(p.numel() for p in masked[0].parameters())


@pytest.mark.parametrize(
    ("before", "after"),
    [("masked", "compact"), ("compact", "masked"), ("compact", "compact"), ("compact", "condensed")],
)
@pytest.mark.parametrize("step", [1, 6, 11])
def test_a_compact_checkpoint_goes_on_in_either_form(before, after, step):
    whole = trained("masked", **CHASE)
    model = chain()
    options = {key: value for key, value in CHASE.items() if key != "make"}
    sparsifier = sparsify(model, before, **options)
    train(model, sparsifier, step)
    assert_same(whole, resumed(lives(model, sparsifier), after, **CHASE))


class Residual(nn.Module):
    """Two blocks on one stream, a depthwise convolution in one; 3 x 8 x 8 in, 4 logits out."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.up, self.up_norm = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.depthwise, self.deep_norm = (
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
            nn.BatchNorm2d(12),
        )
        self.down, self.down_norm = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.conv_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        inner = torch.relu(self.up_norm(self.up(x)))
        inner = torch.relu(self.deep_norm(self.depthwise(inner)))
        x = torch.relu(x + self.down_norm(self.down(inner)))
        x = torch.relu(x + self.conv_norm(self.conv(x)))
        return self.head(self.pool(x)).flatten(1)


STREAM = {
    "structure": {**CHASE["structure"], "scope": "residual", "channel_sparsity": 0.4, "floor": 1.0},
    "make": lambda seed=0: settle(Residual(), seed),
    "schedule": CHASE["schedule"],
}


def test_a_residual_stream_and_a_depthwise_convolution_shrink_as_they_train():
    masked, compact = trained("masked", **STREAM), trained("compact", **STREAM)
    assert_same(masked, compact)
    model, sparsifier = compact
    assert sparsifier.removals
    stream, inner = model.stem.out_channels, model.up.out_channels
    assert stream < 8 or inner < 12
    assert (model.norm.num_features, model.up.in_channels, model.conv.out_channels) == (stream,) * 3
    assert (model.down.out_channels, model.head.in_channels, model.conv_norm.num_features) == (stream,) * 3
    depthwise = model.depthwise
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (inner,) * 3
    assert depthwise.weight.shape == (inner, 1, 3, 3)
    assert_same(compact, resumed(lives(*compact), "compact", **STREAM))


def test_a_condensed_model_is_expanded_to_the_layers_it_stands_for():
    model, _ = trained("condensed")
    whole = expanded(model)
    assert [type(module) for module in whole] == [type(module) for module in network()]
    images = next(losses())[0]
    assert torch.allclose(whole.eval()(images), model.eval()(images), atol=1e-6)
    assert whole.state_dict().keys() == network().state_dict().keys()
    [linear] = [module for module in model if isinstance(module, CondensedLayer) and not module.call.stride]
    assert isinstance(expanded(linear), nn.Linear)


def test_channels_that_are_cut_out_do_not_come_back():
    model, options = chain(), {key: value for key, value in CHASE.items() if key != "make"}
    sparsifier = sparsify(model, "compact", **options)
    train(model, sparsifier, 1)
    saved = lives(model, sparsifier)
    train(model, sparsifier, 24, skip=1)
    with pytest.raises(BadInput, match=r"channels of .* cut out here: load it into a new model"):
        sparsifier.load_state_dict(saved["masks"])
