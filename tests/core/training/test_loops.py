"""Everyone's loop: accumulation, loss scaling, clipping, closures; and when it needs the dense gradient."""

import pytest
import torch
from torch import nn

from fakes.engine import assert_masked, batches, conv_net, mlp, recipe, sgd, train
from fakes.loops import accumulate, assert_equal_to, loss_of, same, sparsify


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_may_be_zeroed_either_way(reference, set_to_none):
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    for batch in batches(12):
        optimizer.zero_grad(set_to_none=set_to_none)
        loss_of(model, batch).backward()
        sparsifier.step()
        assert_masked(sparsifier)
    assert_equal_to(reference, model, sparsifier)


def test_the_optimizers_own_step_does_the_same(reference):
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    for batch in batches(12):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    assert_equal_to(reference, model, sparsifier)


@pytest.mark.parametrize("keyword", [False, True])
def test_closures(reference, keyword):
    """rigl-torch breaks ``optimizer.step(closure)``."""
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    for batch in batches(12):

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        loss = optimizer.step(closure=closure) if keyword else sparsifier.step(closure)
        assert loss.item() > 0
        assert_masked(sparsifier)
    assert_equal_to(reference, model, sparsifier)


def test_lbfgs_calls_its_closure_many_times():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    sparsifier = sparsify(model, optimizer, recipe=recipe("constant", 3))
    for batch in batches(6):

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        sparsifier.step(closure)
    assert sparsifier.steps == 6
    assert sum(sparsifier.active.values()) == round(0.2 * 736)


# Accumulation


def test_accumulated_steps_count_once_and_growth_reads_their_sum():
    """sparsimony's first update sums the gradients of every step since 0."""
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    grads = []
    keep = sparsifier.signals.keep

    def spy(gradients, scale):
        grads.append(gradients["0"].clone() if gradients else None)  # kept where an update reads them
        keep(gradients, scale)

    sparsifier.signals.keep = spy
    accumulate(model, sparsifier, optimizer, steps=2, parts=3)
    assert sparsifier.steps == 2
    assert [report.step for report in sparsifier.history] == [2]
    # the second step's gradient: its three micro-batches under the first step's weights, no others
    again = mlp()
    once = sparsify(again)
    accumulate(again, once, once.optimizer, steps=1, parts=3)
    for batch in list(batches(6))[3:]:
        (loss_of(again, batch) / 3).backward()
    [read] = grads  # by the one update
    assert torch.equal(again[0].weight.grad, read)


# Loss scaling


class FakeScaler:
    """Skips the steps it is told to, without calling the optimizer."""

    def __init__(self, skipped):
        self.skipped, self.count = skipped, -1

    def step(self, optimizer):
        self.count += 1
        if self.count not in self.skipped:
            optimizer.step()


@pytest.mark.parametrize("clip", [False, True])
def test_skipped_steps_do_not_count(reference, clip):
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    skipped = {0, 3, 4, 9, 13}
    scaler, good, noise = FakeScaler(skipped), batches(12), batches(5, seed=9)
    for step in range(17):
        optimizer.zero_grad()
        loss_of(model, next(noise if step in skipped else good)).backward()
        if clip:
            sparsifier.mask_gradients()
            nn.utils.clip_grad_norm_(model.parameters(), 1e6)
        scaler.step(optimizer)
        assert_masked(sparsifier)
    assert_equal_to(reference, model, sparsifier)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("grow", ["gradient", "momentum"])
def test_a_real_scaler_on_the_cpu(fused, grow):
    """Infinite gradients are skipped (inside the kernel where fused); scores never see the scale."""
    runs = []
    for scale in (1.0, 1024.0):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)
        sparsifier = sparsify(model, optimizer, recipe=recipe("constant", 2, grow=grow))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        for step, batch in enumerate(batches(10)):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, batch)).backward()
            if scale > 1 and step in (3, 6):
                for _ in range(2):  # an overflow, then the same batch again
                    kept = [p.grad.clone() for p in model.parameters()]
                    model[0].weight.grad[0, 0] = torch.inf
                    scaler.step(optimizer)
                    scaler.update(new_scale=scale)
                    for p, grad in zip(model.parameters(), kept, strict=True):
                        p.grad = grad
                assert sparsifier.steps == step
            scaler.step(optimizer)
            scaler.update()
            assert_masked(sparsifier)
        assert sparsifier.steps == 10
        runs.append(sparsifier)
    assert [r.step for r in runs[1].history] == [2, 4, 6, 8, 10]
    assert all(torch.equal(mask, runs[0].masks[name]) for name, mask in runs[1].masks.items())
    for name, average in runs[1].signals.momentum.items():
        torch.testing.assert_close(average, runs[0].signals.momentum[name])


def test_bfloat16_autocast_keeps_the_density_exact():
    model = conv_net()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer, 0.3)
    for images, labels in batches(8, (4, 3, 8, 8)):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        sparsifier.step()
        assert_masked(sparsifier)
        assert sum(sparsifier.active.values()) == round(0.3 * sparsifier.size)
    assert len(sparsifier.history) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_other_precisions(dtype):
    model = mlp().to(dtype)
    sparsifier = sparsify(model, recipe=recipe("constant", 2, grow="momentum", prune="set"))
    for images, labels in batches(10):
        nn.functional.cross_entropy(model(images.to(dtype)), labels).backward()
        sparsifier.step()
        model.zero_grad()
        assert_masked(sparsifier)
    assert sum(sparsifier.active.values()) == round(0.2 * 736)


def test_weights_cast_after_construction_are_followed():
    """What moves the parameters' data, as ``prepare`` does on another device, takes the masks along."""
    model = conv_net()
    sparsifier = sparsify(
        model, recipe=recipe("constant", 2, grow="momentum", structure="channel"), density=0.5
    )
    train(model, sparsifier, 3, shape=(4, 3, 8, 8))
    model.double()
    for images, labels in batches(6, (4, 3, 8, 8)):
        nn.functional.cross_entropy(model(images.double()), labels).backward()
        sparsifier.step()
        model.zero_grad()
    assert sparsifier.steps == 9
    assert {bits.dtype for bits in sparsifier.weights.bits.values()} == {torch.int64}
    assert {average.dtype for average in sparsifier.signals.momentum.values()} == {torch.float64}
    dead = ~sparsifier.masks["0"].flatten(1).any(1)
    assert dead.any()
    assert not model[1].running_mean[dead].any()  # a buffer that casting replaced


# Clipping


def test_gradients_of_inactive_weights_do_not_count_when_clipping():
    model, free = mlp(), mlp()
    sparsifier, unmasked = sparsify(model), sparsify(free)
    batch = next(batches(1))
    for net in (model, free):
        loss_of(net, batch).backward()
    sparsifier.mask_gradients()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    active = [
        p.grad * unmasked.masks.get(name.removesuffix(".weight"), 1) for name, p in free.named_parameters()
    ]
    torch.testing.assert_close(norm, torch.linalg.vector_norm(torch.cat([g.flatten() for g in active])))


def test_masking_twice_is_harmless_and_growth_still_sees_the_dense_gradient(reference):
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    for batch in batches(12):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        sparsifier.mask_gradients()
        sparsifier.mask_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 1e6)
        sparsifier.step()
    assert_equal_to(reference, model, sparsifier)


def test_gradients_masked_for_a_step_that_never_came_are_masked_anew():
    """A loss scaler skipped the step: the next backward pass makes gradients that nobody masked yet."""
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    for batch in batches(2):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        sparsifier.mask_gradients()
    assert all(
        not layer.weight.grad[~sparsifier.masks[name]].any() for name, layer in sparsifier.layers.items()
    )


def test_the_dense_recipe_only_counts_steps():
    model, plain = mlp(), mlp()
    sparsifier = sparsify(model, recipe="dense")
    optimizer = sgd(plain)
    for batch in batches(5):
        for net in (model, plain):
            net.zero_grad()
            loss_of(net, batch).backward()
        sparsifier.mask_gradients()
        sparsifier.step()
        optimizer.step()
    assert sparsifier.steps == 5
    assert sparsifier.density == 1
    assert same(model, plain)


def test_itop_bug_2_the_momentum_is_dense_and_not_the_optimizers():
    """It grows at inactive positions too: at a learning rate of zero the gradient repeats, and adds up."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    sparsifier = sparsify(model, optimizer, recipe=recipe("constant", 10, grow="momentum"))
    batch = next(batches(1))
    for _ in range(4):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        dense = {name: layer.weight.grad.clone() for name, layer in sparsifier.layers.items()}
        sparsifier.step()
    for name, gradient in dense.items():
        torch.testing.assert_close(sparsifier.signals.momentum[name], gradient * (1 + 0.9 + 0.81 + 0.729))
        assert sparsifier.signals.momentum[name][~sparsifier.masks[name]].any()


# Which steps need the dense gradient


@pytest.mark.parametrize(
    ("parts", "charged"),
    [
        (recipe("constant", 3, grow="gradient"), [3, 6, 9]),
        (recipe("constant", 3, grow="random"), []),
        (recipe("constant", 3, grow="random", prune="mest"), []),  # gradients of active weights come free
        (recipe("constant", 3, grow="momentum"), list(range(1, 10))),  # nobody reads it after 9
        (recipe("cubic", 3, grow="gradient"), []),  # gradual pruning grows nothing
        (recipe("soft_memory", 3, grow="gradient"), [3, 6]),  # at 9 it only prunes, for good
        ("static", []),
    ],
)
def test_the_dense_gradient_is_asked_for_only_when_growth_reads_it(parts, charged):
    model = mlp()
    sparsifier = sparsify(model, total_steps=12, recipe=parts)
    seen = []
    train(model, sparsifier, 12, after=lambda: seen.append(sparsifier.dense_gradient))
    assert [step for step, dense in enumerate(seen, 1) if dense] == charged
