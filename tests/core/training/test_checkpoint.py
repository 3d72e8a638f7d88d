"""Checkpoints: interrupted anywhere, a training goes on bit for bit; no pickle needed."""

import copy

import pytest
import torch

import dstbench
from dstbench.core.training.checkpoint import pack, unpack
from dstbench.errors import BadInput
from fakes.engine import assert_masked, conv_net, mlp, recipe, sgd, train

METHODS = {
    "rigl": recipe("cosine", 4, grow="gradient"),
    "set": recipe("constant", 4, prune="set"),
    "snfs": recipe("constant", 4, grow={"name": "momentum", "share": "momentum"}),
    "mest": {"name": "mest-ems", "delta_t": 4, "unit": "steps"},
    "gmp": {"name": "gmp", "delta_t": 4},
    "channel": recipe("constant", 4, structure="channel", grow="gradient"),
}


def fresh(method, weights=0, **options):
    model = conv_net(weights) if method == "channel" else mlp(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    defaults = {"density": 0.4 if method == "channel" else 0.2, "total_steps": 20, "seed": 3}
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe=METHODS[method], **{**defaults, **options})
    return model, optimizer, sparsifier


def shape(method):
    return (4, 3, 8, 8) if method == "channel" else (8, 12)


def assert_same(one, other):
    (model_a, optimizer_a, a), (model_b, optimizer_b, b) = one, other
    tensors = zip(model_a.state_dict().values(), model_b.state_dict().values(), strict=True)
    assert all(torch.equal(x, y) for x, y in tensors)
    assert (a.steps, a.history, a.budget, a.allocation) == (b.steps, b.history, b.budget, b.allocation)
    assert all(torch.equal(a.masks[name], b.masks[name]) for name in a.masks)
    assert (a.r_s, a.never_dropped, a.initial, a.kept) == (b.r_s, b.never_dropped, b.initial, b.kept)
    for x, y in zip(optimizer_a.state.values(), optimizer_b.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(x[key]), torch.as_tensor(y[key])) for key in x)


@pytest.fixture(scope="module")
def uninterrupted():
    runs = {}
    for method in METHODS:
        run = fresh(method)
        train(run[0], run[2], 20, shape=shape(method))
        runs[method] = run
    return runs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0, 1, 3, 4, 7, 16, 20])
def test_itop_bug_17_a_resumed_training_is_bit_for_bit_the_same(uninterrupted, method, step, tmp_path):
    """Stopped before, at and after topology updates; the second life starts from other weights."""
    model, optimizer, sparsifier = fresh(method)
    train(model, sparsifier, step, shape=shape(method))
    states = {"model": model, "optimizer": optimizer, "sparsifier": sparsifier}
    torch.save({name: thing.state_dict() for name, thing in states.items()}, tmp_path / "state.pt")

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.manual_seed(step)
    again = fresh(method, weights=1)
    for name, thing in zip(("model", "optimizer", "sparsifier"), again, strict=True):
        thing.load_state_dict(saved[name])
    assert_masked(again[2])
    train(again[0], again[2], 20, skip=step, shape=shape(method))
    assert_same(uninterrupted[method], again)


def test_the_sparsifier_may_be_loaded_before_the_optimizer(uninterrupted):
    model, optimizer, sparsifier = fresh("rigl")
    train(model, sparsifier, 6)
    states = copy.deepcopy([sparsifier.state_dict(), optimizer.state_dict(), model.state_dict()])
    again = fresh("rigl", weights=1)
    for thing, state in zip((again[2], again[1], again[0]), states, strict=True):
        thing.load_state_dict(state)
    train(again[0], again[2], 20, skip=6)
    assert_same(uninterrupted["rigl"], again)


def test_training_on_does_not_change_a_checkpoint_in_memory():
    model, _, sparsifier = fresh("snfs")
    train(model, sparsifier, 6)
    state = sparsifier.state_dict()
    before = copy.deepcopy(state)
    train(model, sparsifier, 9, skip=6)
    sparsifier.load_state_dict(state)
    train(model, sparsifier, 14, skip=9)
    assert torch.equal(state["momentum"]["0"], before["momentum"]["0"])
    assert all(torch.equal(bits, before["masks"][name]) for name, bits in state["masks"].items())
    assert {k: v for k, v in state.items() if k not in ("masks", "explored", "kept", "momentum")} == {
        k: v for k, v in before.items() if k not in ("masks", "explored", "kept", "momentum")
    }


def test_sparsimony_bug_3_a_checkpoint_holds_bits_and_no_gradients():
    model, _, sparsifier = fresh("rigl")
    train(model, sparsifier, 6)
    state = sparsifier.state_dict()
    tensors = [value for part in state.values() if isinstance(part, dict) for value in part.values()]
    size = sum(value.numel() * value.element_size() for value in tensors if torch.is_tensor(value))
    assert size == 3 * 736 / 8  # masks, what was ever active, and what always was


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"seed": 4}, r"seed is 3.*4"),
        ({"total_steps": 21}, r"total_steps is 20.*21"),
        ({"density": 0.3}, r"density is 0.2.*0.3"),
        ({"dense_layers": ["2"]}, r"other layers: 2"),
    ],
)
def test_another_trainings_checkpoint_is_refused_and_changes_nothing(options, field):
    model, _, sparsifier = fresh("rigl")
    train(model, sparsifier, 6)
    _, _, other = fresh("rigl", **options)
    masks = {name: mask.clone() for name, mask in other.masks.items()}
    with pytest.raises(BadInput, match=field):
        other.load_state_dict(sparsifier.state_dict())
    assert other.steps == 0
    assert all(torch.equal(mask, masks[name]) for name, mask in other.masks.items())


def test_layers_of_another_shape_are_refused_even_if_they_pack_alike():
    """9 and 10 bits both fill two bytes."""
    sparsifiers = []
    for width in (9, 10):
        model = torch.nn.Sequential(torch.nn.Linear(width, 1))
        sparsifiers.append(dstbench.Sparsifier(model, sgd(model), total_steps=5, density=0.5))
    with pytest.raises(BadInput, match=r"other layers: 0"):
        sparsifiers[1].load_state_dict(sparsifiers[0].state_dict())


@pytest.mark.parametrize("change", [{"version": 99}, {"version": None}])
def test_a_checkpoint_of_another_version_is_refused(change):
    _, _, sparsifier = fresh("rigl")
    with pytest.raises(BadInput, match=r"version 3, got (99|None)"):
        sparsifier.load_state_dict(sparsifier.state_dict() | change)
    with pytest.raises(BadInput, match="expected a Sparsifier's state"):
        sparsifier.load_state_dict({"weight": torch.ones(3)})


@pytest.mark.parametrize("shape", [(1,), (8,), (9,), (3, 5, 2), (1, 1), (0, 4)])
def test_masks_pack_into_bits_and_back(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(unpack(pack(mask), mask), mask)
    assert len(pack(mask)) == -(-mask.numel() // 8)
