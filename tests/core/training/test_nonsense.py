"""What isn't meant for a Sparsifier's methods is refused in words, and changes nothing."""

import copy
import re

import pytest
import torch
from torch import nn

import dstbench
from dstbench.errors import BadInput
from fakes.engine import mlp, recipe, sgd, train

JUNK = [None, 3, -1.5, "rigl", b"x", [], (), object(), torch.zeros(3), [None], lambda: 1, True]


@pytest.fixture(scope="module")
def trained():
    model = mlp()
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), recipe(delta_t=2, grow="momentum"), 0.2, total_steps=40
    )
    train(model, sparsifier, 3)
    return model, sparsifier


def picture(model, sparsifier):
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    return copy.deepcopy(model.state_dict()), masks, sparsifier.state


def assert_unchanged(before, model, sparsifier):
    for left, right in zip(before[:2], picture(model, sparsifier)[:2], strict=True):
        assert all(torch.equal(value, right[name]) for name, value in left.items())
    assert sparsifier.state == before[2]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("apply_masks", "model: expected a torch.nn.Module with this one's layers, got "),
        ("set_masks", "masks: expected {layer name: bool tensor}, got "),
        ("load_state_dict", "checkpoint: expected what state_dict() gave, got "),
        ("views", "fields: expected {signal: {layer name: tensor}}, got "),
        ("step", "closure: expected a function without arguments, got "),
    ],
)
def test_things_of_another_kind(trained, method, said):
    before = picture(*trained)
    for junk in JUNK:
        if method == "step" and (junk is None or callable(junk)):
            continue
        with pytest.raises(BadInput, match=re.escape(f"{said}{type(junk).__name__}")):
            getattr(trained[1], method)(junk)
    assert_unchanged(before, *trained)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gradient": {}}, "fields: no signal 'gradient'; did you mean 'grad'"),
        ({"grad": 3}, "fields: grad: expected {layer name: tensor}, got int"),
        ({"grad": {"fc": torch.zeros(3)}}, "fields: grad: no layer 'fc' is in the budget"),
    ],
)
def test_signals_that_there_are_not(trained, fields, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        trained[1].views(fields)


def test_a_model_whose_layers_have_other_names_is_told_the_nearest():
    model = nn.ModuleDict({"head": nn.Linear(8, 8)})
    sparsifier = dstbench.Sparsifier(model, sgd(model), "static", 0.5, total_steps=4)
    other = nn.ModuleDict({"heads": nn.Linear(8, 8)})
    with pytest.raises(BadInput, match="no weight of the layers head; did you mean 'heads'"):
        sparsifier.apply_masks(other)
    computed = nn.ModuleDict({"head": nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))})
    with pytest.raises(BadInput, match="no weight of the layers head"):
        sparsifier.apply_masks(computed)


@pytest.mark.parametrize(
    ("mask", "got"),
    [
        (torch.ones(4, 16, dtype=torch.bool, device="meta"), "on meta"),
        (torch.eye(4, 16).bool().to_sparse(), "torch.sparse_coo"),
    ],
)
def test_masks_without_values_of_their_own(trained, mask, got):
    with pytest.raises(BadInput, match=f"layer '4': expected a dense tensor with values, got .*{got}"):
        trained[1].set_masks(trained[1].masks | {"4": mask})


BITS = torch.zeros(2, dtype=torch.uint8)
DAMAGED = [
    ("version", torch.zeros(3), "expected a Sparsifier's state of version 3"),
    ("seed", None, "seed: expected a valid integer, got NoneType"),
    ("method", 3, "method: expected a valid dictionary, got int"),
    ("shapes", [], "shapes: expected a valid dictionary, got list"),
    ("books", {}, "books.density: expected a value, got nothing"),
    ("undecided", "perhaps", "undecided: expected a valid boolean"),
    ("steps", -1, "steps: expected greater than or equal to 0"),
    ("history", [{"step": 3}], "history.0.density: expected a value, got nothing"),
    ("removals", 3, "removals: expected a valid list, got int"),
    ("masks", {}, "masks: expected one for each layer, none for 0, 2, 4"),
    ("masks.2", None, "masks.2: expected an instance of Tensor, got NoneType"),
    ("masks.2", BITS, "masks.2: expected packed bits, uint8 [48], got torch.uint8 [2]"),
    ("masks.2", torch.zeros(48), "masks.2: expected packed bits, uint8 [48], got torch.float32 [48]"),
    ("masks.2", torch.zeros(48, dtype=torch.uint8), "masks.2: no weight is active"),
    ("explored.2", BITS, "explored.2: expected packed bits"),
    ("kept.fc", BITS, "kept: there is no layer 'fc'"),
    ("support.2", BITS, "support.2: expected packed bits"),
    ("initial", {"0": 3}, "initial: expected one for each layer, none for 2, 4"),
    ("momentum.2", torch.zeros(3), "momentum.2: expected float [16, 24], got torch.float32 [3]"),
    ("paths.fc", "masked dense", "paths: there is no layer 'fc'"),
]


@pytest.mark.parametrize(("field", "value", "said"), DAMAGED)
def test_damaged_checkpoints_are_refused_by_field(trained, field, value, said):
    before, saved = picture(*trained), trained[1].state_dict()
    owner, _, key = field.rpartition(".")
    (saved[owner] if owner else saved)[key] = value
    with pytest.raises(BadInput, match=re.escape(f"checkpoint: {said}")):
        trained[1].load_state_dict(saved)
    assert_unchanged(before, *trained)


def test_checkpoints_that_lack_a_field_are_refused(trained):
    saved = trained[1].state_dict()
    older = {name: value for name, value in saved.items() if name != "waits"}
    trained[1].load_state_dict(older)
    for field in older:
        with pytest.raises(
            BadInput, match=rf"checkpoint: ({field}: expected a value|expected a Sparsifier's)"
        ):
            trained[1].load_state_dict({name: value for name, value in older.items() if name != field})


@pytest.mark.parametrize(
    ("parts", "field"),
    [({"prune": "obd"}, "totals"), ({"prune": "deep-r", "values": "deep-r"}, "memory"),
     ({"schedule": "top-kast", "grow": "magnitude"}, "trained")],
)  # fmt: skip
def test_checkpoints_that_lack_what_their_method_makes_are_refused(parts, field):
    model = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.Linear(24, 4))
    sparsifier = dstbench.Sparsifier(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        recipe={"grow": "random"} | parts,
        total_steps=40,
        density=0.2,
    )
    saved = sparsifier.state_dict()
    with pytest.raises(BadInput, match=rf"checkpoint: {field}[.a-z_]*: expected a value"):
        sparsifier.load_state_dict({name: value for name, value in saved.items() if name != field})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"storage": 3}, "storage: expected one of masked, condensed, compact, got 3"),
        ({"dense_layers": torch.tensor(0.1)}, "dense_layers: expected patterns of layer names, got tensor"),
        ({"recipe": {1: 2}}, "recipe: expected a name, a mapping or a Recipe, got {1: 2}"),
        (
            {"total_steps": 10**30},
            "total_steps: expected the number of optimizer steps of the training, below 2**63",
        ),
        ({"registry": "rigl"}, "registry: expected a Registry, got str"),
    ],
)
def test_arguments_of_another_kind(given, said):
    model = mlp()
    options = {"model": model, "optimizer": sgd(model), "recipe": "set", "density": 0.2, "total_steps": 9}
    with pytest.raises(BadInput, match=re.escape(said)):
        dstbench.Sparsifier(**options | given)
