"""Weights written from outside: seen in the same step, and by ``enforce`` before it."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, register_optimizer_step_post_hook

import dstbench
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, mlp, recipe, sgd, train


def sparsify(model, optimizer=None, method="static", total_steps=400):
    return dstbench.Sparsifier(model, optimizer or sgd(model), method, 0.2, total_steps=total_steps)


def stray(sparsifier):
    """Inactive weights that aren't zero."""
    return sum(
        int(layer.weight.detach()[~sparsifier.masks[name]].count_nonzero())
        for name, layer in sparsifier.layers.items()
    )


DENSE = mlp(9).state_dict()


def load(model, *_):
    model.load_state_dict(DENSE)


def copy_in_place(model, *_):
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(DENSE[name])


def write_around_the_counter(model, *_):
    for name, value in model.named_parameters():
        value.data.copy_(DENSE[name])


def swap_memory(model, *_):
    for name, value in model.named_parameters():
        value.data = DENSE[name].clone()


def one_weight(model, sparsifier):
    with torch.no_grad():
        model[2].weight.view(-1)[(~sparsifier.masks["2"]).flatten().nonzero()[7]] = 3.0


def not_numbers(model, sparsifier):
    with torch.no_grad():
        model[0].weight[~sparsifier.masks["0"]] = torch.inf


WRITES = [load, copy_in_place, write_around_the_counter, swap_memory, one_weight, not_numbers]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("method", ["static", recipe(delta_t=13)], ids=["static", "set"])
@pytest.mark.parametrize("at", [1, 6, 21], ids=str)
def test_the_next_step_sees_what_was_written(write, method, at):
    """Also far behind the first steps, and where no topology update comes."""
    model = mlp()
    sparsifier = sparsify(model, method=method)
    train(model, sparsifier, at)
    write(model, sparsifier)
    assert stray(sparsifier) > 0
    if write is not_numbers:  # a forward pass would spread them
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
        sparsifier.step()
        assert model[0].weight.isfinite().all()
    else:
        train(model, sparsifier, at + 1, skip=at)
    assert_masked(sparsifier)
    assert sparsifier.steps == at + 1


@pytest.mark.parametrize("write", WRITES)
def test_enforce_covers_an_evaluation_between_and_the_summary_measures(write):
    model = mlp()
    sparsifier = sparsify(model)
    train(model, sparsifier, 5)
    write(model, sparsifier)
    written = stray(sparsifier)
    table = sparsifier.summary()
    assert (table["measured"] * table["weights"]).sum() == pytest.approx(round(0.2 * 736) + written)
    sparsifier.enforce()
    assert_masked(sparsifier)
    table = sparsifier.summary()
    assert (table["measured"] == table["target"]).all()
    sparsifier.enforce()  # twice is harmless


def test_enforcing_changes_nothing_of_a_training():
    models = mlp(), mlp()
    plain, enforced = (sparsify(model, method=recipe(grow="gradient")) for model in models)
    train(models[0], plain, 12)
    train(models[1], enforced, 12, after=enforced.enforce)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_an_average_swapped_in_and_out_leaves_the_training_as_it_is():
    models = mlp(), mlp()
    plain, swapped = (sparsify(model, method=recipe(grow="gradient")) for model in models)
    train(models[0], plain, 12)

    def swap():
        kept = copy.deepcopy(models[1].state_dict())
        load(models[1])
        models[1].load_state_dict(kept)

    train(models[1], swapped, 12, after=swap)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_an_optimizer_with_history_never_gets_through(search):
    """LBFGS goes along earlier gradients, of weights that an update has dropped since."""
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn=search)
    sparsifier = sparsify(model, optimizer, recipe("constant", 7))
    [(images, labels)] = batches(1)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    for _ in range(20):
        sparsifier.step(closure)
        assert stray(sparsifier) == 0
    assert len(sparsifier.history) == 2


@pytest.mark.parametrize("kind", ["pre", "post"])
@pytest.mark.parametrize("last", [True, False], ids=["behind the Sparsifier", "before the Sparsifier"])
def test_hooks_of_others_that_write_at_every_step(last, kind):
    model = mlp()
    optimizer = sgd(model)
    register = getattr(optimizer, f"register_step_{kind}_hook")

    def write(*_):
        with torch.no_grad():
            model[0].weight.data.add_(0.01)

    if not last:
        register(write)
    sparsifier = sparsify(model, optimizer)
    if last:
        register(write)
    train(model, sparsifier, 12, after=lambda: assert_masked(sparsifier))


def one_through_data(weight, place):
    weight.data.view(-1)[place] = 3.0


def one_through_numpy(weight, place):
    weight.detach().numpy().reshape(-1)[place] = 3.0


def one_through_foreach(weight, place):
    with torch.no_grad():
        more = torch.zeros_like(weight)
        more.view(-1)[place] = 3.0
        torch._foreach_add_([weight.data], [more])


def one_not_a_number(weight, place):
    weight.data.view(-1)[place] = torch.nan


@pytest.mark.parametrize(
    ("silently", "dtype"),
    [
        (one_through_data, torch.bfloat16),
        (one_through_numpy, torch.float32),
        (one_through_foreach, torch.float64),
        (one_not_a_number, torch.float32),
    ],
)
def test_one_weight_of_many_that_is_written_around_every_counter(silently, dtype):
    """The step sees none of it: state doesn't come to hold what decay would make of it."""
    torch.manual_seed(0)
    layer = nn.Linear(300, 300).to(dtype)
    optimizer = sgd(layer, lr=0.01)
    sparsifier = sparsify(layer, optimizer)
    image = torch.randn(4, 300, dtype=dtype)

    place = (layer.weight == 0).flatten().nonzero()[3]
    for when in ("never", "behind clipping", "never", "before the forward pass"):
        if when == "before the forward pass" and silently is not one_not_a_number:  # it would spread that
            silently(layer.weight, place)
        optimizer.zero_grad()
        layer(image).square().mean().backward()
        sparsifier.mask_gradients()
        if when == "behind clipping":
            silently(layer.weight, place)
        sparsifier.step()
        assert_masked(sparsifier)
    assert layer.weight.isfinite().all()


def test_gradients_that_change_behind_their_masking_move_no_inactive_weight():
    """Noise for privacy, say, added behind clipping, which asked for masked gradients."""
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    for images, labels in batches(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.mask_gradients()
        for parameter in model.parameters():
            parameter.grad.add_(0.1)
        sparsifier.step()
        assert_masked(sparsifier)
    assert sparsifier.steps == 4


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_gradient_that_is_no_number_never_reaches_an_inactive_weight(value, kind):
    model = mlp()
    sparsifier = sparsify(model, kind(model.parameters(), lr=0.01, weight_decay=0.1))
    train(model, sparsifier, 3)
    images, labels = next(batches(1, seed=9))
    nn.functional.cross_entropy(model(images), labels).backward()
    expected = copy.deepcopy(model)
    for name, layer in sparsifier.layers.items():
        layer.weight.grad[~sparsifier.masks[name]] = value
    sparsifier.step()
    assert_masked(sparsifier)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not torch.equal(model[0].weight, expected[0].weight)


def written_in_place(optimizer, weight, off):
    optimizer.state[weight]["momentum_buffer"][off] = 2.0


def another_tensor(optimizer, weight, off):
    optimizer.state[weight]["momentum_buffer"] = torch.full_like(weight, 2.0)


def loaded(optimizer, weight, off):
    state = copy.deepcopy(optimizer.state_dict())
    for held in state["state"].values():
        held["momentum_buffer"].fill_(2.0)
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("write", [written_in_place, another_tensor, loaded])
def test_state_that_others_wrote_moves_no_inactive_weight(write):
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    train(model, sparsifier, 3)
    for name, layer in sparsifier.layers.items():
        write(optimizer, layer.weight, ~sparsifier.masks[name])
    train(model, sparsifier, 5, skip=3, after=lambda: assert_masked(sparsifier))


def test_steps_that_are_never_seen_are_said():
    model = mlp()
    sparsifier = sparsify(model, method=recipe(grow="gradient"))
    other = torch.optim.SGD(model.parameters(), lr=0.1)

    def go():
        for images, labels in batches(6):
            other.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            other.step()

    with pytest.warns(RuntimeWarning, match="no step of the optimizer was seen"):
        go()
    assert sparsifier.steps == 0


def test_accumulation_and_skipped_steps_are_not_said():
    model = mlp()
    sparsifier = sparsify(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for turn, (images, labels) in enumerate(batches(24)):
            nn.functional.cross_entropy(model(images), labels).backward()
            if turn % 8 == 7:
                sparsifier.step()
                model.zero_grad()
    assert sparsifier.steps == 3


def test_memory_that_a_skipped_first_step_left_in_fused_momentum_moves_no_inactive_weight():
    """torch's fused SGD makes momentum of uninitialised memory, and fills it only in a step that isn't skipped."""
    torch.manual_seed(0)
    model = nn.Linear(16, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    sparsifier = dstbench.Sparsifier(model, optimizer, "static", 0.3, total_steps=20)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-120)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(8, 16)).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        held = optimizer.state[model.weight].get("momentum_buffer")
        if sparsifier.steps == 0:
            held.fill_(3.0)  # what the memory may hold
    assert sparsifier.steps == 1
    inactive = ~next(iter(sparsifier.masks.values()))
    assert not model.weight[inactive].any()
    assert not held[inactive].any()


def test_what_a_hook_on_every_optimizer_writes_is_undone_in_the_same_step():
    model = mlp(3)
    sparsifier = sparsify(model, optimizer := sgd(model), "rigl")

    def write(optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.data.add_(1)

    handles = [register_optimizer_step_post_hook(write)]
    try:
        for step, (inputs, targets) in enumerate(batches(3), start=1):
            if step == 3:  # behind the one that came to speak last
                handles.append(register_optimizer_step_post_hook(write))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            assert sparsifier.steps == step
            assert stray(sparsifier) == 0
        other = nn.Linear(2, 2)  # of nobody's
        other(torch.ones(1, 2)).sum().backward()
        sgd(other).step()
        assert sparsifier.steps == 3
        sparsifier.detach()
        assert len(_global_optimizer_post_hooks) == 2
    finally:
        for handle in handles:
            handle.remove()


def test_optimizers_that_step_in_the_middle_of_a_backward_pass_are_refused_in_words():
    model = mlp(3)
    each = {weight: torch.optim.SGD([weight], lr=0.1) for weight in model.parameters()}
    sparsify(model, list(each.values()), "rigl")

    def step(weight):
        each[weight].step()
        each[weight].zero_grad()

    for weight in each:
        weight.register_post_accumulate_grad_hook(step)
    [(inputs, targets)] = batches(1)
    with pytest.raises(BadInput, match=r"inside a backward pass .* one for all parameters"):
        nn.functional.cross_entropy(model(inputs), targets).backward()
