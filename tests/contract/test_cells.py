"""Every pair of what is registered, trained for real on a tiny network: legal, within budget, deterministic, inputs
untouched, and the mask moves."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import dstbench
from dstbench.api import Infeasible, Policy, Random, Signal
from dstbench.core.training import rules as engine
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, chain_net, conv_net, recipe, sgd, train

REGISTRY = dstbench.registry()
KINDS = ("init", "structure", "prune", "grow")


def covering(axes):
    """Cells in which every pair of values of two axes meets, found greedily: [(value of each axis, ...)]."""
    places = list(itertools.combinations(range(len(axes)), 2))
    open_pairs = {(i, a, j, b) for i, j in places for a in axes[i] for b in axes[j]}
    cells = []
    while open_pairs:
        i, a, j, b = min(open_pairs)
        cell = {i: a, j: b}
        for k, axis in enumerate(axes):
            if k not in cell:
                gains = {
                    value: sum(
                        ((k, value, m, other) if k < m else (m, other, k, value)) in open_pairs
                        for m, other in cell.items()
                    )
                    for value in axis
                }
                cell[k] = max(gains, key=gains.get)
        made = tuple(cell[k] for k in range(len(axes)))
        open_pairs -= {(i, made[i], j, made[j]) for i, j in places}
        cells.append(made)
    return cells


CELLS = covering([list(REGISTRY[kind]) for kind in KINDS])
SMALL: dict[
    str, dict[str, object]
] = {  # where the default is too large for a tiny network, or its times for a short one
    "block": {"name": "block", "block_size": 4},
    "group_fan_in": {"name": "group_fan_in", "block_size": 4},
    "permuted": {"name": "permuted", "block_size": 4},
    "transposable": {
        "name": "transposable",
        "n": 1,
        "m": 2,
    },  # 2:4 fits two of four layers, too few for density 0.5
    "emergent_channel": {"name": "emergent_channel", "channel_sparsity": 0.1, "delta_t": 2, "stop": 0.5},
}
FEW = {name: {"name": name, "rounds": 2} for name in ("synflow", "snip-it", "force")}  # in place of 60 or 100
IMAGES = (4, 3, 8, 8)
STEPS = 8
LOOK = {
    "calibration": dstbench.Calibration(list(batches(2, IMAGES)), cross_entropy),
    "example_input": torch.zeros(IMAGES),
}  # at which inits may look before training
DENSITY = {
    "uniform_plus": 0.7,  # a third of this network is its first convolution
    "channel": 0.75,  # of half of its rows it may die: then no gradient says what to grow
}  # all else: 0.5
CAPACITY = {"n_of_m": 456, "transposable": 576}  # of 624 weights: half of those in the layers that fit


class Watch:
    """Stands in for ``update_masks``: fails if it writes to anything that a strategy sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self._inner = 0, engine.update_masks
        monkeypatch.setattr(engine, "update_masks", self)

    def __call__(self, views, *arguments):
        self.calls += 1
        seen = {
            (name, field): (value, value.clone())
            for name, view in views.items()
            for field, value in vars(view).items()
            if isinstance(value, Tensor)
        }
        result = self._inner(views, *arguments)
        changed = [key for key, (value, copy) in seen.items() if not torch.equal(value, copy)]
        assert not changed
        return result


def reads_memory(kind, spec):
    return Signal.MEMORY in REGISTRY.build(kind, spec).needs


def run(parts, density=None, seed=0):
    """Train, checking every step; returns the masks of every step."""
    structure = parts.get("structure", "unstructured")
    model = chain_net() if structure == "emergent_channel" else conv_net()
    if any(reads_memory(kind, parts[kind]) for kind in ("prune", "grow") if kind in parts):
        parts = {"values": "deep-r"} | parts
    density = density or max(DENSITY.get(str(part), 0.5) for part in (parts.get("init"), structure))
    parts = parts | {"structure": SMALL.get(structure, structure)}
    parts["init"] = few(parts["init"]) if "init" in parts else "erk"
    sparsifier = dstbench.Sparsifier(
        model,
        sgd(model),
        recipe=parts,
        density=density,
        total_steps=STEPS,
        steps_per_epoch=2,
        seed=seed,
        **LOOK,
    )
    trajectory = []

    def check():
        check_legal(sparsifier)
        trajectory.append(dict(sparsifier.masks))

    if not sparsifier.method.init.waits:  # else dense until the first step
        check()
    train(model, sparsifier, STEPS, shape=IMAGES, after=check)
    return sparsifier, trajectory


def few(init):
    """An init with fewer rounds of scoring than its default."""
    name = init if isinstance(init, str) else init["name"]
    return FEW.get(name, init) if isinstance(init, str) else {**init, **FEW.get(name, {})}


def check_legal(sparsifier):
    assert_masked(sparsifier)
    updated = sparsifier.history[-1].step if sparsifier.history else 0
    if not any(
        removal.step > updated for removal in sparsifier.removals
    ):  # else the next update grows the rest
        asked = round(sparsifier.state.books.density * sparsifier.size)
        assert sum(sparsifier.budget.values()) == min(asked, sparsifier.topology.supported)
    for name, mask in sparsifier.masks.items():
        structure, info = sparsifier.structures[name], sparsifier.layers[name].info
        assert structure.is_legal(info, mask), name
        assert mask.any(), name
        assert abs(int(mask.sum()) - sparsifier.budget[name]) <= structure.unit(info) / 2, name


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def moved(trajectory):
    return sum(int((a[name] != b[name]).sum()) for a, b in itertools.pairwise(trajectory) for name in a)


@pytest.mark.parametrize("cell", CELLS, ids=map("-".join, CELLS))
def test_every_cell_is_legal_exact_deterministic_pure_and_moves(cell, monkeypatch):
    parts = recipe("constant", 2) | dict(zip(KINDS, cell, strict=True))
    watch = Watch(monkeypatch)
    sparsifier, trajectory = run(parts)
    assert watch.calls == len(sparsifier.history) == 3
    assert moved(trajectory) > 0
    assert sum(report.grown for report in sparsifier.history) > 0
    torch.manual_seed(1)
    assert_same(trajectory, run(parts)[1])


def own(kind):
    """The names of a kind that aren't another one with other parameters."""
    return [name for name, component in REGISTRY[kind].items() if not component.bound]


SHARED = [
    (kind, name, share, ("unstructured", "channel")[(i + j) % 2])
    for kind in ("init", "prune", "grow")
    for i, name in enumerate(own(kind))
    for j, share in enumerate(REGISTRY["share"])
]


@pytest.mark.parametrize(("kind", "name", "share", "structure"), SHARED)
def test_every_share_combines_with_every_score(kind, name, share, structure, monkeypatch):
    """Or says why it can't: an init that is a share itself, or would read momentum before there is any."""
    parts = recipe("constant", 2, structure=structure) | {kind: {"name": name, "share": share}}
    reads_momentum = Signal.MOMENTUM in Policy(share=REGISTRY.build("share", share)).needs
    is_share = REGISTRY.build(kind, name).score == Random()  # what the registry adds to a share
    if kind == "init" and (is_share or reads_momentum):
        with pytest.raises(BadInput, match=r"share itself|there is none"):
            run(parts)
        return
    watch = Watch(monkeypatch)
    sparsifier, trajectory = run(parts)
    assert watch.calls == len(sparsifier.history) == 3
    assert moved(trajectory) > 0


DRIVEN = [
    (schedule, structure, ("random", "gradient")[(i + j) % 2])
    for i, schedule in enumerate(REGISTRY["schedule"])
    for j, structure in enumerate(REGISTRY["structure"])
]
FITTED = {
    "cubic": {"initial": 0.6},
    "cyclic": {"multiplier": 1.4},
    "top-kast": {"beyond": 0.3},
}  # to a structure that holds no more than half


@pytest.mark.parametrize(("schedule", "structure", "grow"), DRIVEN)
def test_every_schedule_drives_every_structure(structure, schedule, grow):
    parts = recipe(schedule, 2, structure=structure, grow=grow)
    if structure in CAPACITY and schedule in (
        "cubic",
        "cyclic",
        "alternating",
        "top-kast",
    ):  # denser than it can be
        with pytest.raises(Infeasible, match=rf"\b624\b.*\b{CAPACITY[structure]}\b"):
            run(parts)
        if schedule == "alternating":
            return
        parts["schedule"] |= FITTED[schedule]
    if (structure, schedule) == ("emergent_channel", "never"):
        with pytest.raises(Infeasible, match="the last topology update"):
            run(parts)
        return
    if (structure, schedule) == ("emergent_channel", "top-kast"):
        with pytest.raises(BadInput, match="removes positions for good"):
            run(parts)
        return
    sparsifier, trajectory = run(parts)
    assert len(sparsifier.fallbacks) < len(sparsifier.layers)  # else only unstructured layers were tried
    assert sparsifier.state.books.density == DENSITY.get(structure, 0.5)
    assert (moved(trajectory) > 0) == (schedule != "never")


@pytest.mark.parametrize("name", REGISTRY["recipe"])
def test_every_recipe_trains(name):
    parameters = {p.name for p in REGISTRY["recipe"][name].parameters()}
    parts = {"name": name} | ({"delta_t": 2} if "delta_t" in parameters else {})
    parts |= {"rounds": 3} if "rounds" in parameters else {}
    if name == "small-dense":  # trained as dense, by a model that is narrower already
        parts = "dense"
    model, density = (
        (chain_net(), 0.25) if name.startswith("chase") else (conv_net(), 0.5)
    )  # what survives is small
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), recipe=parts, density=density, total_steps=STEPS, steps_per_epoch=2, **LOOK
    )
    dense = sparsifier.method.dense
    train(
        model,
        sparsifier,
        STEPS,
        shape=IMAGES,
        after=(lambda: None) if dense else lambda: check_legal(sparsifier),
    )
    assert sparsifier.steps == STEPS
    if dense:
        assert sparsifier.density == 1
    else:
        assert sparsifier.density == pytest.approx(density, abs=0.15)  # to half a unit in each of four layers
        static = isinstance(sparsifier.method.schedule, type(REGISTRY.build("schedule", "never")))
        assert (len(sparsifier.history) > 0) == (bool({"delta_t", "phases"} & parameters) and not static)


@pytest.mark.parametrize("density", [1.0, 0.9, 0.25])
@pytest.mark.parametrize("structure", REGISTRY["structure"])
def test_structures_at_other_densities(structure, density):
    parts = recipe("constant", 2, structure=structure, grow="gradient")
    if density > CAPACITY.get(structure, 624) / 624:
        with pytest.raises(Infeasible, match=rf"\b{CAPACITY[structure]}\b"):
            run(parts, density)
        return
    if structure == "emergent_channel" and density > 0.8:
        with pytest.raises(Infeasible, match="may be active"):
            run(parts, density)
        return
    sparsifier, _ = run(parts, density)
    assert sum(sparsifier.budget.values()) == round(density * sparsifier.size)
