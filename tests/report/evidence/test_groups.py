"""Groups against scipy, statsmodels and scikit-posthocs, and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import friedmanchisquare, ttest_rel
from statsmodels.stats.multitest import multipletests

import dstbench
from dstbench.errors import BadInput
from dstbench.report.evidence.groups import against, groups
from dstbench.report.evidence.words import group_sentences

NAMES = ("a", "b", "c", "d")


def accuracies(make, table, **changes):
    """Records of methods by name: a value a seed, a status, or None where there is no trial."""
    from fakes.records import recipe_of

    records = []
    for name, values in table.items():
        recipe = recipe_of(("erk", "unstructured", name, "random"))
        for seed, value in enumerate(values):
            if isinstance(value, str):
                trouble = {"status": value, "reason": "out of luck", "phase": "train", "measures": {}}
                records.append(make(name, seed, recipe=recipe, **changes) | trouble)
            elif value is not None:
                records.append(make(name, seed, value, recipe=recipe, **changes))
    return records


def noisy(seeds, gap=1.0, noise=0.3):
    random = np.random.default_rng(1)
    return {name: 90 + gap * i + noise * random.normal(size=seeds) for i, name in enumerate(NAMES)}


def said(found):
    return dict(group_sentences(found))


def test_friedman_and_every_pair_are_those_of_scipy_and_statsmodels(tmp_path, put, make):
    table = noisy(8, gap=0.4)
    [found] = dstbench.groups(put(tmp_path, accuracies(make, table)))
    theirs = friedmanchisquare(*table.values())
    assert found.friedman.statistic == pytest.approx(theirs.statistic)
    assert found.friedman.p == pytest.approx(theirs.pvalue)
    names = [method.name for method in found.methods]
    tests = [ttest_rel(table[names[i]], table[names[j]]).pvalue for i, j in combinations(range(4), 2)]
    assert found.pairs.p == pytest.approx(tests)
    reject, holm = multipletests(tests, method="holm")[:2]
    assert found.pairs.p_holm == pytest.approx(holm)
    assert found.told == tuple(
        pair for pair, told in zip(combinations(range(4), 2), reject, strict=True) if told
    )
    ranks = pd.DataFrame(table).rank(axis=1, ascending=False).mean()
    assert {method.name: method.rank for method in found.methods} == pytest.approx(ranks.to_dict())


def test_wilcoxon_is_that_of_scikit_posthocs(tmp_path, put, make):
    posthocs = pytest.importorskip("scikit_posthocs")
    table = noisy(9, gap=0.4)
    [found] = groups(put(tmp_path, accuracies(make, table)), test="wilcoxon")
    names = [method.name for method in found.methods]
    theirs = posthocs.posthoc_wilcoxon([table[name] for name in names], p_adjust="holm")
    assert found.pairs.p_holm == pytest.approx([theirs.iloc[i, j] for i, j in combinations(range(4), 2)])
    assert "Over 9 repetitions its p is never below 0.0039" in said(found)["Which?"]  # 2 / 2⁹


def test_bars_join_what_cant_be_told_apart(tmp_path, put, make):
    table = {
        "a": [90.0, 90.3, 90.1, 90.2, 90.15],
        "b": [90.1, 90.1, 90.3, 90.0, 90.25],
        "c": [80.0, 80.4, 80.1, 80.3, 80.2],
    }
    [found] = groups(put(tmp_path, accuracies(make, table)))
    assert found.friedman.p < 0.05
    assert [found.methods[place].name for place in found.bars[0]] in (["a", "b"], ["b", "a"])
    assert len(found.bars) == 1
    assert len(found.told) == 2
    assert said(found)["The best"].endswith("1 other can't be told from it.")


def test_friedman_comes_first(tmp_path, put, make):
    """Three methods over two seeds: χ² is at most 4, p 0.135, and pairs are not tested at all."""
    [found] = groups(put(tmp_path, accuracies(make, {"a": [90, 91], "b": [80, 81.5], "c": [70, 71.7]})))
    assert found.friedman.p == pytest.approx(0.1353, abs=1e-4)
    assert found.told == ()
    assert found.bars == ((0, 1, 2),)
    assert "No evidence that any of these 3 differ" in said(found)["Do any differ?"]
    assert "nothing is tested" in said(found)["Which?"]


def test_equal_differences_give_no_p_value(tmp_path, put, make):
    table = {"a": [90.0, 91.0, 92.0], "b": [89.0, 90.0, 91.0]}
    [found] = groups(put(tmp_path, accuracies(make, table)))
    assert np.isnan(found.pairs.p).all()
    assert found.told == ()
    assert "1 pair every repetition has the same difference" in said(found)["Which?"]
    assert "isn't known" in said(found)["How many seeds?"]


def test_one_seed_is_said(tmp_path, put, make):
    [found] = groups(put(tmp_path, accuracies(make, {"a": [90.0], "b": [89.0], "c": [80.0]})))
    assert found.friedman is None
    assert "their order may be chance" in said(found)["Which?"]
    assert "How much seeds vary isn't known" in said(found)["How many seeds?"]


def test_eleven_methods_over_three_seeds_ask_for_more_than_anybody_has(tmp_path, put, make):
    random = np.random.default_rng(0)
    table = {f"m{i}": 90 + random.normal(size=3) for i in range(12)}
    [found] = groups(put(tmp_path, accuracies(make, table)))
    baseline = found.needs[1]
    assert (baseline.comparisons, baseline.critical_t) == (11, pytest.approx(14.78, abs=0.01))
    assert baseline.seeds > 3
    assert found.deviation == pytest.approx(
        np.sqrt(np.mean([np.var(x - y, ddof=1) for x, y in combinations(table.values(), 2)]))
    )
    assert f"{baseline.seeds} seeds for any method and a baseline" in said(found)["How many seeds?"]


def test_the_noise_of_seeds_is_that_within_blocks(tmp_path, put, make):
    """A difference between methods that differs by block is no noise of seeds."""
    first = {"a": [90.0, 90.2, 90.1], "b": [89.0, 89.3, 88.9]}
    second = {"a": [70.0, 70.2, 70.1], "b": [79.0, 79.3, 78.9]}
    records = accuracies(make, first) + accuracies(make, second, density=0.01)
    [found] = groups(put(tmp_path, records))
    assert len(found.complete) == 6
    assert found.deviation == pytest.approx(np.std([1.0, 0.9, 1.2], ddof=1))


def test_what_has_holes_is_left_out_by_name(tmp_path, put, make):
    table = noisy(4) | {"e": [95.0, "oom", "failed", 95.1]}
    [found] = groups(put(tmp_path, accuracies(make, table)))
    assert (found.friedman.methods, found.friedman.repetitions) == (4, 4)
    assert found.apart == ("e: no result in 2 of 4 repetitions (1 failed, 1 oom)",)
    assert [method.name for method in found.methods if method.rank is None] == ["e"]
    unfinished = {name: [*values, None] for name, values in noisy(4).items()} | {"a": [90, 91, 92, 93, 94]}
    [found] = groups(put(tmp_path / "unfinished", accuracies(make, unfinished)))
    assert (found.friedman.methods, found.friedman.repetitions) == (4, 4)
    assert found.apart == ("small_cnn on digits at density 0.1, seed 4: no result of b, c, d",)


def test_blocks_without_a_method_in_common_stand_apart(tmp_path, put, make):
    records = accuracies(make, {"a": [1.0], "b": [2.0]}) + accuracies(
        make, {"c": [1.0], "d": [2.0]}, density=0.5
    )
    assert [len(found.methods) for found in groups(put(tmp_path, records))] == [2, 2]


def test_a_method_is_one_by_name_whatever_follows_the_block(tmp_path, put, make):
    records = accuracies(make, noisy(3)) + accuracies(
        make, noisy(3), density=0.2, trial={"training": {"epochs": 5}}
    )
    [found] = groups(put(tmp_path, records))
    assert [len(found.methods), len(found.blocks), len(found.complete)] == [4, 2, 6]


def test_two_settings_in_one_block_are_two_methods(tmp_path, put, make):
    records = accuracies(make, noisy(3)) + accuracies(make, noisy(3), trial={"training": {"epochs": 5}})
    [found] = groups(put(tmp_path, records))
    assert {"a (epochs=12)", "a (epochs=5)"} <= {method.name for method in found.methods}


def test_differences_to_a_baseline(tmp_path, put, make):
    table = noisy(5)
    dense = {"recipe": {"dense": True}, "control": "dense", "density": 1.0}
    records = accuracies(make, table) + [make("dense", seed, 95.0 + 0.1 * seed, **dense) for seed in range(5)]
    [found] = groups(put(tmp_path, records))
    rows = {row.name: row for row in against(found, "b")}
    assert set(rows) == {"a", "c", "d"}
    tests = {name: ttest_rel(table[name], table["b"]) for name in rows}
    holm = multipletests([test.pvalue for test in tests.values()], method="holm")[1]
    for (name, test), corrected in zip(tests.items(), holm, strict=True):
        assert rows[name].p == pytest.approx(test.pvalue)
        assert rows[name].p_holm == pytest.approx(corrected)
        assert rows[name].difference == pytest.approx(np.mean(table[name] - table["b"]))
        assert (rows[name].low, rows[name].high) == pytest.approx(tuple(test.confidence_interval()))
    assert [rows[name].verdict for name in "acd"] == ["worse", "better", "better"]
    assert [row.verdict for row in against(found, "dense")] == ["worse"] * 4
    assert "dense" not in {method.name for method in found.methods}
    with pytest.raises(BadInput, match=r"no method 'dens'.*dense"):
        against(found, "dens")


def test_bad_input_is_named(tmp_path, put, make):
    folder = put(tmp_path, accuracies(make, noisy(3)))
    with pytest.raises(BadInput, match="test: expected one of t, wilcoxon"):
        groups(folder, test="wilcoxn")
    with pytest.raises(BadInput, match="difference: expected points or percent"):
        groups(folder, difference=0.0)
    with pytest.raises(BadInput, match="results folder"):
        groups(tmp_path / "nowhere")


def test_nothing_to_compare_is_nothing(tmp_path, put, make):
    assert groups(put(tmp_path, accuracies(make, {"a": [90.0, 91.0]}))) == []
    assert groups(put(tmp_path / "noise", accuracies(make, noisy(3), dataset="synthetic"))) == []
