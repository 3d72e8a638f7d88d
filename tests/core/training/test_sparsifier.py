"""The Sparsifier: budgets over a training, what it refuses, what it reports."""

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Infeasible, Recipe, Target
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, conv_net, mlp, recipe, sgd, train

IMAGES = (6, 3, 8, 8)


def sparsify(model, density=0.2, total_steps=40, **options):
    options.setdefault("recipe", recipe())
    return dstbench.Sparsifier(model, sgd(model), density=density, total_steps=total_steps, **options)


# Budgets


@pytest.mark.parametrize(
    "grow", ["random", "gradient", "momentum", {"name": "momentum", "share": "momentum"}]
)
@pytest.mark.parametrize("prune", ["magnitude", {"name": "magnitude", "share": "global"}, "set", "mest"])
def test_unstructured_density_is_exact_after_init_and_every_update(prune, grow):
    model = mlp()
    sparsifier = sparsify(model, 0.137, 30, recipe=recipe(prune=prune, grow=grow))
    wanted = round(0.137 * 736)

    def check():
        assert sum(sparsifier.active.values()) == wanted
        assert sum(int(mask.sum()) for mask in sparsifier.masks.values()) == wanted
        assert min(sparsifier.active.values()) >= 1
        assert_masked(sparsifier)

    check()
    train(model, sparsifier, 30, after=check)
    assert [report.step for report in sparsifier.history] == [3, 6, 9, 12, 15, 18, 21]
    assert all(report.grown == report.dropped > 0 for report in sparsifier.history[:3])
    assert sparsifier.density == wanted / 736


@pytest.mark.parametrize("structure", ["channel", {"name": "shuffled_block", "block_size": 4}])
@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_structured_density_is_within_half_a_unit_a_layer(structure, grow):
    model = conv_net()
    sparsifier = sparsify(model, 0.5, 20, recipe=recipe(structure=structure, grow=grow, schedule="constant"))

    def check():
        assert sum(sparsifier.budget.values()) == round(0.5 * sparsifier.size)
        for name, mask in sparsifier.masks.items():
            kind = sparsifier.structures[name]
            info = sparsifier.layers[name].info
            assert abs(int(mask.sum()) - sparsifier.budget[name]) <= kind.unit(info) / 2
            assert kind.is_legal(info, mask)
            assert mask.any()
        assert_masked(sparsifier)

    check()
    train(model, sparsifier, 20, shape=IMAGES, after=check)
    assert sum(report.grown for report in sparsifier.history) > 0


def test_redistributed_layers_are_not_pulled_back():
    """Budgets that momentum moved stay moved: pruning takes the same fraction of what each layer holds."""
    model = mlp()
    sparsifier = sparsify(
        model, 0.2, 300, recipe=recipe(grow={"name": "momentum", "share": "momentum"}, schedule="constant")
    )
    start = dict(sparsifier.budget)
    train(model, sparsifier, 60)
    first, last = next(iter(start)), list(start)[-1]
    assert sparsifier.budget[last] / start[last] > 1.2 * sparsifier.budget[first] / start[first]


@pytest.mark.parametrize("name", ["gmp", "granet", "mest-ems"])
def test_falling_budgets_are_exact_at_every_target(name):
    model = mlp()
    steps = {"unit": "steps"} if name == "mest-ems" else {}
    sparsifier = sparsify(model, 0.1, 40, recipe={"name": name, "delta_t": 4, **steps})
    seen = [sparsifier.density]

    def check():
        assert sum(sparsifier.active.values()) == sum(sparsifier.budget.values())
        assert sum(sparsifier.active.values()) == round(sparsifier.state.books.density * 736)
        assert_masked(sparsifier)
        seen.append(sparsifier.density)

    train(model, sparsifier, 40, after=check)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == {"gmp": 1.0, "granet": 0.5, "mest-ems": round(0.15 * 736) / 736}[name]
    assert seen[-1] == round(0.1 * 736) / 736


def test_soft_memory_prunes_then_grows_in_one_event():
    model = mlp()
    sparsifier = sparsify(model, 0.2, 40, recipe=recipe("soft_memory", 5))
    train(model, sparsifier, 40)
    first, last = sparsifier.history[0], sparsifier.history[-1]
    assert first.grown > 0  # although it holds fewer than before
    assert first.active > round(0.2 * 736)
    assert (last.step, last.active, last.grown) == (30, round(0.2 * 736), 0)


@pytest.mark.parametrize("schedule", ["soft_memory", "cubic"])
def test_a_new_density_scales_an_allocation_that_no_shape_gives(schedule):
    """After momentum moved budgets away from it, an in-place allocation is no list of gaps to fill."""
    model = mlp()
    init = {"name": "magnitude", "share": "in_place"}
    grow = {"name": "momentum", "share": "momentum"}
    sparsifier = sparsify(model, 0.1, 60, recipe=recipe(schedule, init=init, grow=grow))
    start = dict(sparsifier.allocation)
    train(model, sparsifier, 50)
    size, total = sum(start.values()), sum(sparsifier.allocation.values())
    for name, count in sparsifier.allocation.items():
        assert abs(count - start[name] * total / size) <= 1, name


def test_density_one_is_a_no_op():
    model, plain = mlp(), mlp()
    sparsifier, optimizer = sparsify(model, 1.0, 10), sgd(plain)
    train(model, sparsifier, 10)
    for images, labels in batches(10):
        nn.functional.cross_entropy(plain(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sparsifier.density == 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_dense_layer_among_sparse_ones_is_left_alone():
    model = mlp(sizes=(20, 30, 3, 4))
    sparsifier = sparsify(model, 0.5, 20)
    full = [name for name, count in sparsifier.active.items() if count == sparsifier.layers[name].info.numel]
    assert full  # ERK makes the small ones dense
    train(model, sparsifier, 20, shape=(8, 20))
    assert all(sparsifier.masks[name].all() for name in full)
    assert all((sparsifier.layers[name].weight != 0).all() for name in full)


def test_the_schedule_is_asked_once_a_step():
    asked = []

    def schedule(clock, density):
        asked.append(clock.step)
        return Target(0.1, density) if clock.step and clock.step % 4 == 0 and clock.step <= 12 else None

    model = mlp()
    sparsifier = sparsify(model, 0.2, 20, recipe=Recipe(grow="gradient", schedule=schedule))
    asked.clear()
    train(model, sparsifier, 16)
    assert asked == list(range(2, 18))
    assert [report.step for report in sparsifier.history] == [4, 8, 12]


def test_no_update_after_the_end():
    model = mlp()
    sparsifier = sparsify(model, 0.2, 10, recipe=recipe("constant", 2))
    train(model, sparsifier, 30)
    assert [report.step for report in sparsifier.history] == [2, 4, 6, 8]
    assert sparsifier.steps == 30


def test_one_unit_a_layer_still_trains():
    """Pruning can't go below one unit a layer: such an update moves what it can, it doesn't fail."""
    model = mlp()
    sparsifier = sparsify(model, 0.0041, 20, recipe=recipe("constant", 2))  # 3 weights in 3 layers
    train(model, sparsifier, 20)
    assert sparsifier.active == dict.fromkeys(sparsifier.layers, 1)
    model = conv_net()
    sparsifier = sparsify(model, 0.12, 12, recipe=recipe("constant", 2, structure="channel"))
    train(model, sparsifier, 12, shape=IMAGES)
    assert all(mask.any() for mask in sparsifier.masks.values())


# What is refused


@pytest.mark.parametrize("density", [0, -0.5, 1.01, float("nan"), "half", None])
def test_a_bad_density_is_refused(density):
    with pytest.raises(BadInput, match="density"):
        sparsify(mlp(), density)


@pytest.mark.parametrize("total_steps", [None, 0, -3])
def test_total_steps_must_be_given(total_steps):
    with pytest.raises(BadInput, match="total_steps"):
        sparsify(mlp(), total_steps=total_steps)


def test_too_sparse_for_one_unit_a_layer_is_infeasible():
    with pytest.raises(Infeasible, match=r"\b2\b.*\b3\b"):
        sparsify(mlp(), 0.003)


def test_a_final_density_that_can_not_be_is_refused_at_once():
    """Gradual pruning starts dense: what it ends at must be checked before, not after, the training."""
    with pytest.raises(Infeasible, match=r"\b2\b.*\b3\b"):
        sparsify(mlp(), 0.003, recipe="gmp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "riggle"}, r"rigl"),
        ({"recipe": {"grwo": "random"}}, r"'grwo'.*'grow'"),
        ({"recipe": {"grow": "gradients"}}, r"grow.*'gradients'.*'gradient'"),
        ({"recipe": {"schedule": {"name": "cosine", "alfa": 0.3}}}, r"alfa.*alpha"),
        ({"dense_layers": ["layer9"]}, r"dense_layers.*'layer9'"),
        ({"dense_layers": ["*"]}, r"no convolution or linear weight left"),
        ({"storage": "compressed"}, r"storage.*masked.*compressed"),
        ({"storage": "condensed"}, r"example_input.*batch.*NoneType"),
        ({"recipe": {"init": {"name": "magnitude", "share": "momentum"}}}, r"init.*MOMENTUM"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(BadInput, match=message):
        sparsify(mlp(), **change)


def test_unmatched_dense_layers_name_the_nearest():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    with pytest.raises(BadInput, match=r"'haed'.*did you mean 'head'"):
        sparsify(Named(), dense_layers=["haed"])


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(BadInput, match=r"optimizer.*Linear"):
        dstbench.Sparsifier(mlp(), nn.Linear(1, 1), total_steps=5)


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(BadInput, match=r"optimizer.*none of"):
        dstbench.Sparsifier(mlp(), sgd(mlp()), total_steps=5)


def test_a_lazy_layer_without_a_shape_is_refused():
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(BadInput, match=r"'0'.*one batch"):
        dstbench.Sparsifier(model, torch.optim.SGD([torch.zeros(1, requires_grad=True)]), total_steps=5)


# What else is refused


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"total_steps": 1.5}, "total_steps: expected"),
        ({"total_steps": True}, "total_steps: expected"),
        ({"steps_per_epoch": 0}, "steps_per_epoch: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"seed": "a"}, "seed: expected"),
        ({"recipe": 3}, "recipe: expected"),
        ({"recipe": None}, "recipe: expected"),
        ({"dense_layers": "conv1"}, "no layer matches 'conv1'"),
    ],
)
def test_bad_arguments_are_named(wrong, message):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadInput, match=message):
        dstbench.Sparsifier(model, optimizer, **{"density": 0.5, "total_steps": 10, **wrong})


def test_one_optimizer_has_one_sparsifier():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = dstbench.Sparsifier(model, optimizer, density=0.5, total_steps=10)
    with pytest.raises(BadInput, match="a Sparsifier already"):
        dstbench.Sparsifier(model, optimizer, density=0.5, total_steps=10)
    first.detach()
    dstbench.Sparsifier(model, optimizer, density=0.5, total_steps=10)


def test_a_dense_start_falls_to_its_density_at_the_first_update():
    model = mlp()
    parts = recipe("constant", 3, init={"name": "dense", "share": "uniform"})
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, density=0.25, total_steps=8)
    assert sparsifier.density == 1
    train(model, sparsifier, 8)
    n = round(0.25 * sparsifier.size)
    assert [(r.step, r.active) for r in sparsifier.history] == [(3, n), (6, n)]
    assert all(
        abs(count - 0.25 * sparsifier.layers[name].info.numel) < 1
        for name, count in sparsifier.active.items()
    )
    assert_masked(sparsifier)
