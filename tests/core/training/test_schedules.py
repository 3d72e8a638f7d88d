"""Schedules: pure, exact at their end, silent past it."""

from dataclasses import replace
from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstbench.api import Clock, StrategyError, Target
from dstbench.core.training import timetable
from dstbench.core.training.method import build_method
from dstbench.core.training.timetable import Timetable
from dstbench_plugins.schedule.dense_to_sparse import Cubic
from dstbench_plugins.schedule.dst import Constant, Cosine, Never
from dstbench_plugins.schedule.elastic import Elastic
from dstbench_plugins.schedule.lengthening import Lengthening
from dstbench_plugins.schedule.soft_memory import SoftMemory

SCHEDULES = (
    Cosine(), Cosine(alpha=0.5, stop=1.0), Constant(), Constant(zeta=1.0), Cubic(), Cubic(initial=0.5, regrow=0.5),
    SoftMemory(), SoftMemory(extra=0.9), Lengthening(), Lengthening(fraction=0.9, boundaries=()), Never(),
)  # fmt: skip


def targets(schedule, total, density):
    """{step: target} of a whole training, where there is one."""
    made = {step: schedule(Clock(step, total), density) for step in range(total + 1)}
    return {step: target for step, target in made.items() if target is not None}


fractions = st.integers(0, 20).map(lambda twentieth: twentieth / 20)
trainings = {
    "total": st.integers(1, 130),
    "delta_t": st.integers(1, 140),
    "stop": st.integers(1, 20).map(lambda twentieth: twentieth / 20),
    "density": st.sampled_from([1.0, 0.5, 0.2, 0.1, 1 / 3, 0.013]),
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@given(**trainings)
def test_every_training_ends_at_the_density_exactly(schedule, total, delta_t, stop, density):
    if not isinstance(schedule, Never):
        schedule = replace(schedule, delta_t=delta_t, stop=stop)
    made = targets(schedule, total, density)
    assert not made or made[max(made)].final == density
    assert made == targets(schedule, total, density)
    assert schedule(Clock(0, total), density) is None or 0 in made


@pytest.mark.parametrize("schedule", [Cosine(), Constant()], ids=repr)
@given(**trainings)
def test_dst_at_constant_density_stays_there_and_stops(schedule, total, delta_t, stop, density):
    made = targets(replace(schedule, delta_t=delta_t, stop=stop), total, density)
    assert 0 not in made
    assert all(step % delta_t == 0 and step < stop * total for step in made)
    assert all(t.final == density and t.keep < density for t in made.values())
    expected = [step for step in range(delta_t, total + 1, delta_t) if step < stop * total]
    assert list(made) == expected


def test_cosine_is_rigls_formula():
    made = targets(Cosine(alpha=0.3, delta_t=100, stop=0.75), 1000, 0.1)
    assert list(made) == [100, 200, 300, 400, 500, 600, 700]  # 750 is T_end, and no multiple
    for step, target in made.items():
        assert target.keep == pytest.approx(0.1 * (1 - 0.15 * (1 + cos(pi * step / 750))))


def test_no_update_at_t_end():
    assert 750 not in targets(Cosine(delta_t=50), 1000, 0.1)
    assert 1000 not in targets(Constant(delta_t=50), 1000, 0.1)
    assert max(targets(Constant(delta_t=50, stop=0.5), 1000, 0.1)) == 450


def test_constant_moves_the_same_fraction_every_time():
    made = targets(Constant(zeta=0.3, delta_t=100), 1000, 0.2)
    assert list(made) == list(range(100, 1000, 100))
    assert all(target.keep == pytest.approx(0.14) for target in made.values())


def test_never_never_updates():
    assert targets(Never(), 1000, 0.1) == {}


# Dense to sparse


def test_cubic_is_gmps_formula():
    made = targets(Cubic(delta_t=100, start=0.1, stop=0.6), 1000, 0.2)
    assert made[0] == Target(1.0, 1.0)
    assert list(made) == [0, 100, 200, 300, 400, 500, 600]
    for step, target in list(made.items())[1:]:
        sparsity = 0.8 - 0.8 * (1 - (step - 100) / 500) ** 3
        assert target.final == pytest.approx(1 - sparsity)
        assert target.keep == target.final  # nothing grows back
    assert made[600].final == 0.2


@given(start=fractions, **trainings)
def test_cubic_falls_and_reaches_its_density_from_any_start(start, total, delta_t, stop, density):
    made = targets(Cubic(delta_t=delta_t, start=min(start, stop), stop=stop), total, density)
    finals = [target.final for target in made.values()]
    assert finals == sorted(finals, reverse=True)
    assert finals[0] == 1
    assert finals[-1] == density


def test_itop_bug_16_gradual_pruning_reaches_its_target():
    """When the stop is no multiple of ΔT the first one past it closes, or else the last step."""
    assert targets(Cubic(delta_t=100, stop=0.75), 1000, 0.1)[800].final == 0.1
    assert targets(Cubic(delta_t=400, stop=1.0), 1000, 0.1)[1000].final == 0.1
    assert targets(Cubic(delta_t=5000), 1000, 0.1) == {0: Target(1.0, 1.0), 1000: Target(0.1, 0.1)}


def test_granet_prunes_more_than_it_must_and_grows_it_back():
    made = targets(Cubic(initial=0.5, regrow=0.5, delta_t=100), 1000, 0.1)
    assert made[0] == Target(0.5, 0.5)
    assert all(t.keep < t.final for step, t in made.items() if 0 < step < 750)
    assert made[800] == Target(0.1, 0.1)


def test_an_initial_density_below_the_target_is_raised_to_it():
    assert targets(Cubic(initial=0.05), 1000, 0.1)[0].final == 0.1


# Soft memory bound


def test_soft_memory_prunes_to_the_density_then_grows_above_it():
    made = targets(SoftMemory(extra=0.05, delta_t=100, stop=0.75), 1000, 0.1)
    assert made[0] == Target(0.15000000000000002, 0.15000000000000002)
    assert list(made) == [0, 100, 200, 300, 400, 500, 600, 700, 800]
    for step in range(100, 800, 100):
        assert made[step].keep == 0.1
        assert made[step].final == pytest.approx(0.1 + 0.025 * (1 + cos(pi * step / 750)))
    assert made[800] == Target(0.1, 0.1)  # the change point: from here on, no more than d


def test_soft_memory_closes_at_the_last_step_if_nothing_else_does():
    assert targets(SoftMemory(delta_t=400, stop=0.9), 1000, 0.1)[1000] == Target(0.1, 0.1)


def test_soft_memory_never_exceeds_one():
    assert all(target.final <= 1 for target in targets(SoftMemory(extra=0.5), 1000, 0.8).values())


# Lengthening


def test_lengthening_doubles_its_period_at_every_boundary():
    made = targets(Lengthening(delta_t=10, boundaries=(0.125, 0.4, 0.7)), 1000, 0.1)
    phases = [range(10, 125, 10), range(125, 400, 20), range(400, 700, 40), range(700, 950, 80)]
    assert list(made) == [step for phase in phases for step in phase]
    assert all((t.keep, t.final) == (pytest.approx(0.085), 0.1) for t in made.values())


def test_lengthening_has_every_phase_in_a_short_training():
    assert list(targets(Lengthening(delta_t=100), 20, 0.1)) == [3, 8, 14]


def test_lengthening_moves_no_more_than_can_go_elsewhere():
    """A pruned position can't be grown at once: at density 0.9 only 0.1 is free, in a dense network nothing."""
    assert targets(Lengthening(fraction=0.5, delta_t=1), 10, 0.9)[1].keep == pytest.approx(0.85)
    assert all(t.keep == 1 for t in targets(Lengthening(delta_t=1), 10, 1.0).values())


# Bad parameters are refused when made, not at some step


@pytest.mark.parametrize("kind", [Cosine, Constant, Cubic, SoftMemory, Lengthening])
@pytest.mark.parametrize(
    ("parameter", "value"), [("delta_t", 0), ("delta_t", -5), ("stop", 1.5), ("stop", -0.1)]
)
def test_a_time_that_is_none_is_refused(kind, parameter, value):
    with pytest.raises(StrategyError, match=rf"{parameter}.*{value}"):
        kind(**{parameter: value})


@pytest.mark.parametrize(
    ("kind", "parameter", "value"),
    [
        (Cosine, "alpha", 1.5),
        (Cosine, "alpha", -0.1),
        (Constant, "zeta", 2.0),
        (Cubic, "initial", 0.0),
        (Cubic, "initial", 1.2),
        (Cubic, "regrow", 1.1),
        (Cubic, "start", 0.9),  # past the stop
        (Cubic, "start", -0.1),
        (Cubic, "stop", 0.0),  # would never leave its initial density
        (SoftMemory, "stop", 0.0),
        (SoftMemory, "extra", -0.1),
        (Lengthening, "fraction", 1.1),
        (Lengthening, "boundaries", (0.5, 1.2)),
        (Lengthening, "boundaries", (0.5, 0.2)),
    ],
)
def test_a_fraction_that_is_none_is_refused(kind, parameter, value):
    shown = value[-1] if isinstance(value, tuple) else value
    with pytest.raises(StrategyError, match=rf"{parameter}.*{shown}"):
        kind(**{parameter: value})


def test_a_target_that_can_not_be_is_refused():
    for keep, final in ((0.2, 0.1), (-0.1, 0.1), (0.5, 1.1), (0.0, 0.0), (float("nan"), 0.5)):
        with pytest.raises(StrategyError, match=r"keep.*final"):
            Target(keep, final)


def test_an_epoch_needs_its_length():
    assert Clock(30, 100, 20).epoch == 1.5
    with pytest.raises(StrategyError, match="steps_per_epoch"):
        _ = Clock(30, 100).epoch


def test_delta_t_in_epochs_updates_at_their_ends_but_not_after_the_last():
    schedule = Cosine(alpha=0.5, delta_t=2, unit="epochs", stop=1.0)
    steps = [step for step in range(101) if schedule(Clock(step, 100, steps_per_epoch=10), 0.1)]
    assert steps == [20, 40, 60, 80]


def test_delta_t_in_epochs_needs_the_length_of_one():
    with pytest.raises(StrategyError, match="steps_per_epoch"):
        Cosine(unit="epochs")(Clock(5, 100), 0.1)


def test_unit_of_delta_t_is_steps_or_epochs():
    with pytest.raises(
        StrategyError, match="unit: expected one of steps, epochs, got 'epoch'; did you mean 'epochs'"
    ):
        Constant(unit="epoch")


def test_floor_is_the_drop_fraction_at_the_end():
    """SNFS and ITOP: f + (α - f)/2 (1 + cos(πt/T))."""
    schedule = Cosine(alpha=0.5, delta_t=1, stop=1.0, floor=0.005)
    assert schedule(Clock(50, 100), 0.1).keep == pytest.approx(0.1 * (1 - 0.2525))
    assert schedule(Clock(99, 100), 0.1).keep == pytest.approx(0.1 * (1 - 0.005), abs=1e-4)


# MEST


def test_elastic_prunes_below_the_density_and_grows_back_ever_less():
    made = targets(Elastic(delta_t=100, unit="steps"), 1600, 0.1)
    assert list(made) == list(range(100, 1200, 100))  # from 120 of 160 epochs on there is nothing to explore
    assert all(target.final == 0.1 for target in made.values())
    assert [made[step].keep for step in (800, 900, 1100)] == pytest.approx([0.08, 0.09, 0.09])


def test_soft_elastic_trains_above_the_density_and_returns_to_it():
    made = targets(Elastic(mu=(0.5, 0.25, 0.0), soft=True, delta_t=100, unit="steps"), 1600, 0.1)
    assert list(made) == list(range(0, 1300, 100))
    assert all(target.keep == 0.1 for step, target in made.items() if step)
    finals = [made[step].final for step in (0, 100, 800, 900, 1100, 1200)]
    assert finals == pytest.approx([0.15, 0.15, 0.15, 0.125, 0.125, 0.1])


def test_elastic_counts_epochs_of_the_papers_training():
    clocks = [Clock(step, 160 * 7, 7) for step in range(160 * 7 + 1)]
    made = [clock.epoch for clock in clocks if Elastic()(clock, 0.1)]
    assert made == list(range(5, 120, 5))
    with pytest.raises(StrategyError, match="steps_per_epoch"):
        Elastic()(Clock(0, 100), 0.1)


def test_soft_elastic_returns_at_the_last_step_if_nothing_else_does():
    made = targets(Elastic(soft=True, delta_t=300, unit="steps"), 500, 0.1)
    assert list(made) == [0, 300, 500]
    assert made[500] == Target(0.1, 0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mu": (0.2, 0.1)}, r"mu.*3 values"),
        ({"mu": (0.2, 0.1, 0.1), "soft": True}, r"mu.*end at 0"),
        ({"mu": (0.2, 1.1, 0.0)}, r"mu.*1\.1"),
        ({"boundaries": (0.75, 0.5)}, r"boundaries.*increasing"),
        ({"unit": "hours"}, "unit"),
    ],
)
def test_an_elastic_bound_that_is_none_is_refused(fields, message):
    with pytest.raises(StrategyError, match=message):
        Elastic(**fields)


@pytest.mark.parametrize(
    ("schedule", "total", "last"),
    [(Never(), 100, 0), (Never(), 10**12, 10**12 - 100), (Constant(delta_t=7), 10**12, 10**12 - 1)],
)
def test_the_last_update_of_a_long_training_is_looked_for_in_bounded_time(schedule, total, last, monkeypatch):
    """10**12 is 1 modulo 7. Where no update is in sight, one is taken to come until there."""
    monkeypatch.setattr(timetable, "SEARCHED", 100)
    method = build_method({"schedule": schedule})
    assert Timetable(method, 0.1, total, None).last_update == last
