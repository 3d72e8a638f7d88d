"""Sums of squares and effects against statsmodels, with all trials and with holes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import AnovaRM, anova_lm

from dstbench.report.evidence.effects import effects_of
from dstbench.report.evidence.experiment import Experiment, Factor
from dstbench.report.evidence.model import Term, analysis_of_variance, estimable, fitted
from dstbench.report.evidence.tried import Block, Repetition

FACTORS = (Factor("init", ("a", "b")), Factor("prune", ("c", "d", "e")), Factor("grow", ("f", "g", "h")))
CELLS = Term(FACTORS).cells
FORMULA = "y ~ C(seed) + (C(init, Sum) + C(prune, Sum) + C(grow, Sum)) ** 2"
STATSMODELS = {
    "init": "C(init, Sum)",
    "init × prune": "C(init, Sum):C(prune, Sum)",
    "prune": "C(prune, Sum)",
    "grow": "C(grow, Sum)",
    "init × grow": "C(init, Sum):C(grow, Sum)",
    "prune × grow": "C(prune, Sum):C(grow, Sum)",
    "residual": "Residual",
}


def made(seeds, lost=0, seed=0):
    """Top-1 by seed and cell, with ``lost`` trials gone."""
    random = np.random.default_rng(seed)
    base = dict(zip(CELLS, random.normal(90, 4, len(CELLS)), strict=True))
    data = [{cell: base[cell] + number + random.normal() for cell in CELLS} for number in range(seeds)]
    for place in random.choice(seeds * len(CELLS), lost, replace=False):
        del data[place % seeds][CELLS[place // seeds]]
    return data


def long(data):
    rows = [(seed, *cell, y) for seed, values in enumerate(data) for cell, y in values.items()]
    return pd.DataFrame(rows, columns=["seed", "init", "prune", "grow", "y"])


def experiment(data, factors=FACTORS):
    block = Block("net", "images", 0.1)
    return Experiment("", factors, {Repetition(block, s): v for s, v in enumerate(data)}, {}, (), ())


@pytest.mark.parametrize("lost", [0, 9])
def test_sums_of_squares_are_those_of_type_two(lost):
    data = made(3, lost)
    terms, _ = estimable(FACTORS, CELLS)
    ours = {line.term: line for line in analysis_of_variance(terms, FACTORS, data)}
    theirs = anova_lm(ols(FORMULA, long(data)).fit(), typ=2)
    for name, row in STATSMODELS.items():
        assert ours[name].squares == pytest.approx(theirs["sum_sq"][row])
        assert ours[name].freedom == theirs["df"][row]
    for name in set(STATSMODELS) - {"residual"}:
        assert ours[name].f == pytest.approx(theirs["F"][STATSMODELS[name]])
        assert ours[name].p == pytest.approx(theirs["PR(>F)"][STATSMODELS[name]])


def test_shares_of_balanced_data_add_up():
    terms, _ = estimable(FACTORS, CELLS)
    assert sum(line.share for line in analysis_of_variance(terms, FACTORS, made(3))) == pytest.approx(1)


def test_balanced_effects_are_differences_of_plain_means():
    [values] = made(1)
    terms, _ = estimable(FACTORS, CELLS)
    mean, effects = fitted(terms, FACTORS, values)
    table = long([values])
    by_prune = table.groupby("prune")["y"].mean()
    assert mean == pytest.approx(table["y"].mean())
    assert effects[1] == pytest.approx((by_prune - table["y"].mean()).to_numpy())
    cells = table.groupby(["prune", "grow"])["y"].mean().unstack()
    rest = cells.sub(cells.mean(axis=1), axis=0).sub(cells.mean(axis=0), axis=1) + table["y"].mean()
    assert effects[5] == pytest.approx(rest.to_numpy().ravel())  # prune × grow, grow's levels running fastest


def test_effects_with_holes_are_least_squares_within_each_repetition():
    data = made(4, lost=8)
    found = effects_of([experiment(data)])[0]
    assert len(found.used) == 4
    fits = [ols(FORMULA.replace("C(seed) + ", ""), long([values])).fit() for values in data]
    [erk, _] = found.main.of("init")
    assert erk.mean == pytest.approx(np.mean([fit.params["C(init, Sum)[S.a]"] for fit in fits]))
    first = found.interactions.of("prune × grow")[0]
    name = "C(prune, Sum)[S.c]:C(grow, Sum)[S.f]"
    assert first.mean == pytest.approx(np.mean([fit.params[name] for fit in fits]))


def test_the_interval_of_two_levels_is_that_of_a_repeated_measures_anova():
    """F of a within-repetition factor with two levels is t² of the difference over repetitions."""
    from scipy.stats import t as student

    data = made(5)
    found = effects_of([experiment(data)])[0]
    [difference] = found.differences.of("init")
    half = (difference.high - difference.low) / 2
    t = difference.mean / (half / student.ppf(0.5 + found.differences.confidence / 2, 4))
    theirs = AnovaRM(long(data), "y", "seed", within=["init", "prune", "grow"]).fit().anova_table
    assert t**2 == pytest.approx(theirs["F Value"]["init"])


def test_intervals_of_a_family_hold_together():
    found = effects_of([experiment(made(3))])[0]
    assert found.main.confidence == pytest.approx(
        1 - 0.05 / 7
    )  # 1 of init, whose two are mirrored, and 3 + 3
    assert found.differences.confidence == pytest.approx(1 - 0.05 / 7)  # 1 + 3 + 3 pairs
    assert found.interactions.confidence == pytest.approx(1 - 0.05 / 15)  # 3 + 3 + 9


def test_an_interaction_without_one_of_its_pairs_is_not_estimated():
    data = [{cell: y for cell, y in values.items() if cell[:2] != ("a", "c")} for values in made(3)]
    terms, left_out = estimable(FACTORS, list(data[0]))
    assert [term.name for term in left_out] == ["init × prune"]
    assert "prune × grow" in [term.name for term in terms]


def test_choices_that_always_come_together_have_no_effects():
    cells = [("a", "c", grow) for grow in "fgh"] + [("b", "d", grow) for grow in "fgh"]
    factors = (FACTORS[0], Factor("prune", ("c", "d")), FACTORS[2])
    terms, left_out = estimable(factors, cells)
    assert terms == []
    assert len(left_out) == 6
    found = effects_of([experiment([dict.fromkeys(cells, 90.0)] * 3, factors)])[0]
    assert (found.used, found.main.effects, found.variance) == ((), (), ())
