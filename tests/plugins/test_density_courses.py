"""Schedules of papers: their values by hand, and trainings through all of their phases."""

from __future__ import annotations

import pytest

import dstbench
from dstbench.api import Clock, StrategyError, Target
from dstbench_plugins.schedule.alternating import RESNET50, Alternating
from dstbench_plugins.schedule.cyclic import Cyclic
from dstbench_plugins.schedule.dense_to_sparse import Cubic, Sigmoid
from dstbench_plugins.schedule.dst import Cosine, InversePower
from fakes.engine import mlp, sgd, train


def targets(schedule, total, density, per_epoch=None):
    made = {step: schedule(Clock(step, total, per_epoch), density) for step in range(total + 1)}
    return {step: target for step, target in made.items() if target is not None}


def test_sigmoid_by_hand():
    p = [Sigmoid().fallen(x) for x in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)]
    assert p == pytest.approx([0, 0.005718, 0.045177, 0.5, 0.954823, 0.994282, 1], abs=1e-6)
    made = targets(Sigmoid(stop=1.0, delta_t=25, regrow=0), 100, 0.1)
    sparsity = [1 - made[step].final for step in (25, 50, 75)]
    assert sparsity == pytest.approx([0.518071, 0.7, 0.881929], abs=1e-6)
    assert made[0] == Target(0.5, 0.5)
    assert made[100] == Target(0.1, 0.1), "exactly at the density, where the published command ends at 0.8989"


def test_sigmoid_at_half_the_cubics_window_spends_as_much():
    def spent(schedule):
        density, total = 0.0, 0.0
        for step in range(4001):
            target = schedule(Clock(step, 4000), 0.1)
            density = target.final if target else density
            total += density
        return total / 4001

    cubic = Cubic(initial=0.5, delta_t=1, stop=0.8)
    assert spent(Sigmoid(delta_t=1, stop=0.8, window=0.5)) == pytest.approx(spent(cubic), abs=1e-3)


def test_sigmoid_counts_epochs_too():
    made = targets(Sigmoid(delta_t=1, unit="epochs", stop=0.5), 40, 0.1, per_epoch=5)
    assert list(made) == [0, 5, 10, 15, 20]
    with pytest.raises(StrategyError, match="steps_per_epoch"):
        targets(Sigmoid(unit="epochs"), 40, 0.1)


def test_drop_fractions_by_hand():
    def fractions(schedule):
        made = targets(schedule, 400, 0.5)
        return [1 - made[step].keep / 0.5 for step in (100, 200, 300)]

    settings = {"delta_t": 100, "stop": 1.0}
    assert fractions(InversePower(k=1, **settings)) == pytest.approx([0.225, 0.15, 0.075])
    assert fractions(InversePower(**settings)) == pytest.approx([0.1266, 0.0375, 0.0047], abs=5e-5)
    assert fractions(Cosine(**settings)) == pytest.approx([0.2561, 0.15, 0.0439], abs=5e-5)


def test_alternating_is_dense_and_sparse_by_turns():
    made = targets(Alternating(), 100, 0.1)
    compressions = [10, 20, 30, 40, 50, 60, 70, 85]
    decompressions = [15, 25, 35, 45, 55, 65, 75]
    assert [step for step, t in made.items() if t == Target(0.1, 0.1)] == compressions
    assert [step for step, t in made.items() if t == Target(0.1, 1)] == decompressions
    assert made[0] == Target(1, 1)
    now, over = 1.0, []
    for epoch in range(101):
        now = made[epoch].final if epoch in made else now
        over.append(now)
    assert [over[epoch] for epoch in (0, 12, 17, 72, 80, 90)] == [1, 0.1, 1, 0.1, 1, 0.1]
    assert sum(over[:100]) / 100 == pytest.approx(0.55)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 13])
def test_alternating_ends_sparse_however_short(total):
    made = targets(Alternating(), total, 0.1)
    assert made[max(made)] == Target(0.1, 0.1)


def test_alternating_refuses_to_end_dense():
    with pytest.raises(StrategyError, match="odd number"):
        Alternating(phases=(0.1, 0.2))
    with pytest.raises(StrategyError, match="increasing"):
        Alternating(phases=(0.3, 0.2, 0.4))


def test_ac_dc_trains_through_its_phases_and_a_decompression_removes_nothing():
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), "acdc", density=0.1, total_steps=40)
    densities, kept = [sparsifier.density], []

    def look():
        if sparsifier.history and sparsifier.history[-1].step == sparsifier.steps:
            kept.append((sparsifier.history[-1].dropped, sparsifier.history[-1].grown))
        densities.append(sparsifier.density)

    train(model, sparsifier, 40, after=look)
    n, size = round(0.1 * sparsifier.size), sparsifier.size
    assert kept == [(size - n, 0), (0, size - n)] * 7 + [(size - n, 0)]
    at = [densities[round(fraction * 40)] for fraction in (0, 0.125, 0.175, 0.725, 0.8, 0.9)]
    assert at == pytest.approx([1, 0.1, 1, 0.1, 1, 0.1], abs=1e-3)
    assert len(RESNET50) == len(kept)
    per_layer = {name: mask.float().mean() for name, mask in sparsifier.masks.items()}
    assert len(set(per_layer.values())) > 1, "one ranking over the network"


def test_cycles_by_hand():
    made = targets(Cyclic(delta_t=5, cycles=1, length=0.2, alpha=0), 100, 0.1)
    assert [made[step].final for step in (5, 10, 15, 20)] == pytest.approx([0.2, 0.3, 0.2, 0.1])
    assert [made[step].keep for step in (5, 10, 15)] == pytest.approx([0.1, 0.2, 0.2])
    triangle = targets(Cyclic(delta_t=5, cycles=1, length=0.4, shape="triangular"), 100, 0.1)
    assert [triangle[step].final for step in (5, 10, 15, 20)] == pytest.approx([0.15, 0.2, 0.25, 0.3])
    assert max(targets(Cyclic(multiplier=9), 1000, 0.3).values(), key=lambda t: t.final).final == 1


def test_behind_the_cycles_weights_move_at_the_density():
    made = targets(Cyclic(delta_t=10, late_delta_t=50), 500, 0.2)
    late = {step: target for step, target in made.items() if step >= 200}
    assert list(late) == [200, 250, 300, 350, 400, 450]
    assert all(t.final == 0.2 and t.keep < 0.2 for t in late.values())
