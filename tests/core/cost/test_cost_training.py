"""What training costs: the published forms, recipes planned step by step, and meters of real runs."""

from statistics import fmean

import pytest
import torch
import torchvision
from torch import nn

import dstbench
from dstbench.api import Clock, Recipe
from dstbench.core.cost.conventions import CONVENTIONS
from dstbench.core.cost.cost import flops
from dstbench.core.cost.layers import layer_costs
from dstbench.core.cost.training import TrainingMeter, training_cost
from dstbench.errors import BadInput
from dstbench_plugins.recipes.dense_to_sparse import gmp
from dstbench_plugins.schedule.dense_to_sparse import Cubic
from dstbench_plugins.schedule.soft_memory import SoftMemory
from fakes.costs import published_cost
from fakes.engine import batches, mlp

IMAGENET = (3, 224, 224)
NOTEBOOK = "rigl-notebook"


@pytest.fixture(scope="module")
def resnet50():
    with torch.device("meta"):
        return torchvision.models.resnet50().eval()


@pytest.fixture(scope="module")
def costs(resnet50):
    return layer_costs(resnet50, IMAGENET)


@pytest.fixture(scope="module")
def erk(resnet50):
    return {density: dstbench.densities(resnet50, density) for density in (0.2, 0.1)}


def ratio(costs, densities, convention=NOTEBOOK):
    return sum(flops(costs, densities, convention).values()) / sum(flops(costs, {}, convention).values())


# The published forms


def test_the_published_form_by_hand():
    assert published_cost(10, 100) == 30  # static, SET, MEST
    assert published_cost(10, 100, 0) == 20 + 100  # SNFS
    assert published_cost(10, 100, 1) == (30 + 20 + 100) / 2
    assert published_cost(10, 100, 100) == (3000 + 20 + 100) / 101  # RigL


@pytest.mark.parametrize(("density", "static", "snfs"), [(0.2, 0.4153, 0.610), (0.1, 0.2431, 0.495)])
def test_static_and_snfs_on_resnet50(costs, erk, density, static, snfs):
    sparse = ratio(costs, erk[density])
    assert published_cost(sparse, 1) / 3 == pytest.approx(static, abs=5e-4)
    assert published_cost(sparse, 1, 0) / 3 == pytest.approx(snfs, abs=5e-4)


def pruned_resnet50(costs, target):
    """Densities when the stem stays dense and the classifier is at its target from the start."""

    def divide(density):
        return {name: {"conv1": 1.0, "fc": target}.get(name, density) for name in costs}

    return divide


@pytest.mark.parametrize(("density", "published"), [(0.2, 0.560), (0.1, 0.505)])
def test_gradual_pruning_of_resnet50(costs, density, published):
    """E_t[3 f(s_t)], from 10k to 25k of 32k steps: the mean over t = 0, 1000, ..., 32000, both ends included."""
    divide, now, seen = pruned_resnet50(costs, density), 1.0, []
    schedule = Cubic(delta_t=1000, start=10 / 32, stop=25 / 32)
    for step in range(0, 32_001, 1000):
        target = schedule(Clock(step, 32_000), density)
        now = target.final if target else now
        seen.append(published_cost(ratio(costs, divide(now)), 1) / 3)
    assert fmean(seen) == pytest.approx(published, abs=5e-4)


def test_mest_on_resnet50(resnet50, costs, erk):
    """EM trains at 3 f_S throughout; EM&S at the mean of 3 f(d + μ_t), which falls every five epochs."""
    static = training_cost(resnet50, "static", 0.1, 160, IMAGENET)
    elastic = Recipe(prune="mest", grow="random", schedule={"name": "constant", "zeta": 0.2, "delta_t": 5})
    planned = training_cost(resnet50, elastic, 0.1, 160, IMAGENET)
    extra = SoftMemory(extra=0.05, delta_t=5)
    soft = training_cost(resnet50, Recipe(prune="mest", grow="random", schedule=extra), 0.1, 160, IMAGENET)
    now, periods = 0.15, []
    for step in range(0, 160, 5):
        target = extra(Clock(step, 160), 0.1)
        now = target.final if target else now
        periods.append(dstbench.densities(resnet50, now))
    for convention in CONVENTIONS:
        expected = published_cost(ratio(costs, erk[0.1], convention), 1) / 3
        assert planned.ratio(convention) == static.ratio(convention) == pytest.approx(expected, rel=1e-12)
        held = fmean(ratio(costs, each, convention) for each in periods)
        assert soft.ratio(convention) == pytest.approx(published_cost(held, 1) / 3, rel=1e-9)
        assert expected < soft.ratio(convention) < ratio(costs, erk[0.2], convention)


# Recipes, planned


def test_a_recipe_is_planned_step_by_step(resnet50, costs, erk):
    """RigL's 32,000 steps: 239 updates before T_end, each with one dense gradient."""
    meter = training_cost(resnet50, "rigl", 0.1, 32_000, IMAGENET)
    sparse = ratio(costs, erk[0.1])
    assert meter.ratio(NOTEBOOK) == pytest.approx(sparse + 239 / 32_000 * (1 - sparse) / 3, rel=1e-9)
    # The published form has an update every 101 steps to the very end, and neither counts as the other.
    assert meter.ratio(NOTEBOOK) == pytest.approx(published_cost(sparse, 1, 100) / 3, abs=1e-3)


def test_plans_are_the_published_forms(resnet50, costs, erk):
    """Where the schedule is the form's: no T_end, and a period of ΔT + 1 steps of which one is dense."""
    cosine = {"name": "cosine", "stop": 1.0}
    rigl = training_cost(resnet50, Recipe(schedule=cosine | {"delta_t": 101}), 0.1, 20 * 101 + 1, IMAGENET)
    snfs = Recipe(grow="momentum", schedule=cosine | {"delta_t": 1})
    snfs = training_cost(resnet50, snfs, 0.1, 500, IMAGENET)
    set_ = training_cost(resnet50, "set", 0.1, 300, IMAGENET)
    for convention in CONVENTIONS:
        sparse = ratio(costs, erk[0.1], convention)
        # No update comes with the last step, which is sparse.
        periods = (2020 * published_cost(sparse, 1, 100) + published_cost(sparse, 1)) / 2021 / 3
        assert rigl.ratio(convention) == pytest.approx(periods, rel=1e-9)
        steps = (499 * published_cost(sparse, 1, 0) + published_cost(sparse, 1)) / 500 / 3
        assert snfs.ratio(convention) == pytest.approx(steps, rel=1e-9)
        assert set_.ratio(convention) == pytest.approx(sparse, rel=1e-9)


@pytest.mark.parametrize(("density", "published"), [(0.2, 0.560), (0.1, 0.505)])
def test_gradual_pruning_is_planned_by_its_own_allocation(resnet50, costs, density, published):
    """Often updated, a tenth as long: with long periods the mean depends on which end of them is read."""
    recipe, allocation = gmp(delta_t=10, start=10 / 32, stop=25 / 32), pruned_resnet50(costs, density)
    planned = training_cost(resnet50, recipe, density, 3200, IMAGENET, allocation=allocation)
    assert planned.ratio(NOTEBOOK) == pytest.approx(published, abs=2e-3)


def test_dense_training_costs_dense_training(resnet50):
    meter = training_cost(resnet50, "dense", 0.1, 7, IMAGENET)
    assert meter.sparse == meter.dense == 7 * 3 * 4_089_184_256


def test_layers_left_out_are_dense():
    model = mlp()
    meter = training_cost(model, "static", 0.5, 10, (12,), dense_layers=["0"])
    assert meter.sparse == 10 * 3 * (288 + (384 + 64) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "small-dense"}, "narrower model"),
        ({"recipe": "rigle"}, "rigl"),
        ({"recipe": "snip"}, "allocation: .*gradients"),
        ({"total_steps": 0}, "total_steps"),
        ({"density": 1.5}, "density"),
    ],
)
def test_what_can_not_be_planned_is_named(arguments, message):
    with pytest.raises(BadInput, match=message):
        training_cost(mlp(), **{"total_steps": 10, "input_shape": (12,), **arguments})


# Real runs


def trained(recipe, density=0.25, steps=60):
    """Meter a run of the small perceptron as the runner does; also the counts of each step's masks."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe, density, steps, steps_per_epoch=10)
    meter, counts = TrainingMeter(layer_costs(model, (12,))), []
    for images, labels in batches(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        counts.append(sparsifier.active)
        sparsifier.step()
        meter.add(counts[-1], len(images), sparsifier.dense_gradient)
    return meter, counts, sparsifier


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_run_of_rigl_meters_the_closed_form(convention):
    """Its layers keep their densities, so all that matters is how many steps read the dense gradient."""
    meter, counts, sparsifier = trained({"schedule": {"name": "cosine", "delta_t": 5, "stop": 0.75}})
    assert all(each == counts[0] for each in counts)
    assert sum(report.grown for report in sparsifier.history) > 0
    updates = len(sparsifier.history)
    assert updates == 8  # 5, 10, ..., 40 of 60 steps; T_end is 45
    densities = {name: n / meter.costs[name].weights for name, n in counts[0].items()}
    sparse = ratio(meter.costs, densities, convention)
    closed = (updates * published_cost(sparse, 1, 0) + (60 - updates) * published_cost(sparse, 1)) / 60 / 3
    assert meter.ratio(convention) == pytest.approx(closed, rel=1e-6)


RECIPES = {
    "static": "static",
    "set": {"name": "set", "delta_t": 5},
    "rigl": {"name": "rigl", "delta_t": 5},
    "snfs in place": {"grow": "momentum", "schedule": {"name": "cosine", "delta_t": 5}},
    "gmp": {"name": "gmp", "delta_t": 5},
    "granet": {"name": "granet", "delta_t": 5},
    "mest-ems": {"name": "mest-ems", "delta_t": 5, "unit": "steps"},
    "dense": "dense",
    "from full": {"init": "dense", "schedule": {"name": "cubic", "delta_t": 5, "initial": 0.5}},
    "from full channels": {"init": "dense", "structure": "channel", "grow": "random", "schedule": "never"},
    "sums": {
        "grow": {"name": "gradient-sum", "window": 3},
        "schedule": {"name": "cosine", "delta_t": 5},
    },
    "wanda": {"name": "wanda", "delta_t": 5, "window": 2},
    "by weight": {"init": "magnitude", "schedule": {"name": "cubic", "delta_t": 5, "initial": 0.5}},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_plan_is_what_the_run_then_meters(name):
    meter, counts, _ = trained(RECIPES[name])
    planned = training_cost(mlp(), RECIPES[name], 0.25, 60, (12,), steps_per_epoch=10)
    assert meter.samples == 8 * planned.samples == 480
    for convention in CONVENTIONS:
        # Pruning alone rounds each layer on its way down, by one weight of 736.
        tolerance = 1e-3 if name in ("gmp", "wanda") else 1e-12
        assert meter.ratio(convention) == pytest.approx(planned.ratio(convention), rel=tolerance)
    moves = len({tuple(each.values()) for each in counts}) > 1
    assert moves is (name in {"gmp", "granet", "mest-ems", "from full", "wanda", "by weight"})


def test_a_plan_counts_looks_at_batches_before_training():
    """Three rounds at densities 1, d^(1/3), d^(2/3): two passes through what is active, one through all."""
    shares = dict.fromkeys(("0", "2", "4"), 1.0)
    recipe = {"init": {"name": "force", "rounds": 3}, "schedule": "never"}
    planned = training_cost(mlp(), recipe, 0.25, 60, (12,), allocation=lambda d: dict.fromkeys(shares, d))
    active = [736] + [sum(round(0.25 ** (k / 3) * n) for n in (288, 384, 64)) for k in (1, 2)]
    assert planned.sparse == sum(2 * held + 736 for held in active) + 60 * 3 * 736 * 0.25
    assert planned.dense == 60 * 3 * 736
    with pytest.raises(BadInput, match=r"allocation: .*gradients"):
        training_cost(mlp(), recipe, 0.25, 60, (12,))


def test_saliency_of_the_first_batch_costs_one_dense_step():
    """SNIP: that step runs the dense network; what is left then is the data's to say."""
    meter, counts, _ = trained("snip")
    assert counts[0] != counts[1] == counts[-1]
    kept = {name: count / meter.costs[name].weights for name, count in counts[-1].items()}
    planned = training_cost(mlp(), "snip", 0.25, 60, (12,), allocation=lambda _: kept)
    assert meter.ratio() == pytest.approx(planned.ratio(), rel=1e-12)
    assert meter.ratio() == pytest.approx((1 + 59 * ratio(meter.costs, kept, "mac")) / 60, rel=1e-12)


def test_a_meter_follows_the_masks_and_can_be_saved():
    costs = layer_costs(mlp(), (12,))
    one, two = TrainingMeter(costs), TrainingMeter(costs)
    full = {name: layer.weights for name, layer in costs.items()}
    half = {name: count // 2 for name, count in full.items()}
    one.add(full, 8, False)
    assert (one.sparse, one.dense) == (8 * 3 * 736, 8 * 3 * 736)
    two.load_state_dict(one.state_dict())
    for metered in (one, two):
        metered.add(half, 8, False)
        metered.add(half, 8, True)
        assert metered.sparse == 8 * (3 * 736 + 3 * 368 + 2 * 368 + 736)
        assert metered.dense == 3 * 8 * 3 * 736
        assert metered.flops("rigl")[0] == 2 * metered.sparse + 9 * 8 * 44
        assert metered.samples == 24


def test_a_meter_of_an_unknown_convention():
    with pytest.raises(BadInput, match=r"convention.*'rigl'"):
        TrainingMeter({}, "rigle")
