"""One method against another in one folder, against effects and p values worked out by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from scipy.stats import ttest_rel

from dstbench.errors import BadInput
from dstbench.report.methods import compare_methods, render_methods


def accuracies(make, label, values, **changes):
    return [make(label, seed, value, **changes) for seed, value in enumerate(values)]


def text(table):
    console = Console(file=io.StringIO(), width=100)
    console.print(render_methods(table))
    return console.file.getvalue()


def test_effect_interval_p_and_verdict_are_of_paired_seeds(tmp_path, put, make):
    ours, theirs = [91.0, 92.5, 93.0, 50.0], [90.0, 91.0, 92.5]  # the fourth seed has no partner
    folder = put(tmp_path, accuracies(make, "rigl", ours) + accuracies(make, "set", theirs))
    [row] = compare_methods(folder, "rigl", "set").to_dict("records")
    # differences 1, 1.5, 0.5: mean 1, deviation 0.5, t(0.975, 2) = 4.3027, half = 4.3027 x 0.5 / sqrt(3) = 1.2421
    assert (row["seeds"], row["difference"]) == (3, pytest.approx(1.0))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-0.2421, 2.2421), abs=1e-4)
    assert row["p"] == row["p_holm"] == pytest.approx(ttest_rel(ours[:3], theirs).pvalue)
    assert (row["verdict"], row["basis"]) == ("can't tell", "95 % interval over 3 seeds")
    assert row["top1"] == pytest.approx(276.5 / 3)
    [other] = compare_methods(folder, "set", "rigl").to_dict("records")
    assert other["difference"] == pytest.approx(-1.0)


def test_each_block_is_a_row_and_holm_counts_them(results):
    table = compare_methods(results, "rigl", "small-dense")
    assert list(table["dataset"]) == ["digits", "mnist"]
    assert list(table["verdict"]) == ["better", "better"]  # 93, 95, 93 against 86.5, 87.5, 88.5
    assert list(table["p_holm"]) == pytest.approx([2 * p for p in table["p"]])
    shown = text(table)
    assert "small_cnn on digits at density 0.1\n  better: +6.17" in shown
    assert "(Holm over 2 rows: " in shown


def test_all_blocks_together_are_judged_by_the_mean_of_each_seed(results):
    table = compare_methods(results, "rigl", "small-dense")
    [whole] = table.attrs["blocks"]
    by_block = list(table["difference"])
    assert (whole["of"], whole["verdict"]) == (2, "better")
    assert whole["difference"] == pytest.approx(sum(by_block) / 2)
    assert "all 2 together: better: +" in text(table)
    [other] = compare_methods(results, "small-dense", "rigl").attrs["blocks"]
    assert other["verdict"] == "worse"


def test_dense_stands_beside_every_density(tmp_path, put, make):
    folder = put(
        tmp_path,
        [make("rigl", density=0.1, top1=90.0), make("rigl", density=0.2, top1=94.9),
         make("dense", density=1.0, top1=95.0, recipe={"dense": True}, control="dense")],
    )  # fmt: skip
    table = compare_methods(folder, "rigl", "dense")
    assert list(table["density"]) == [0.1, 0.2]
    assert list(table["verdict"]) == ["worse", "can't tell"]


def test_settings_are_never_mixed(tmp_path, put, make):
    longer = {"training": {"epochs": 60}}
    folder = put(
        tmp_path,
        [make("rigl", top1=90.0), make("rigl", top1=96.0, trial=longer),
         make("set", top1=91.0), make("set", top1=92.0, trial=longer)],
    )  # fmt: skip
    table = compare_methods(folder, "rigl", "set")
    assert dict(zip(table["setting"], table["difference"], strict=True)) == {"epochs=12": -1, "epochs=60": 4}


def test_a_method_in_another_setting_only_is_compared_and_said(tmp_path, put, make):
    records = [make("rigl", top1=96.0, trial={"training": {"epochs": 60}}), make("set", top1=91.0)]
    table = compare_methods(put(tmp_path, records), "rigl", "set")
    assert table.iloc[0]["setting"] == "epochs=60 against epochs=12"
    assert "(epochs=60 against epochs=12)" in text(table)


def test_identical_results_are_called_identical(results):
    assert set(compare_methods(results, "rigl", "rigl")["verdict"]) == {"identical"}


def test_a_method_that_finished_nowhere_has_no_effect(tmp_path, put, make):
    records = [make("rigl", status="failed", reason="no", measures={}), make("set", top1=91.0)]
    row = compare_methods(put(tmp_path, records), "rigl", "set").iloc[0]
    assert (row["verdict"], row["basis"]) == ("can't tell", "no seed finished on both sides")


def test_unknown_methods_and_methods_that_never_meet_are_named(tmp_path, put, make):
    folder = put(tmp_path, [make("rigl"), make("set", dataset="mnist")])
    with pytest.raises(BadInput, match="no 'rgil' in the results; did you mean 'rigl'"):
        compare_methods(folder, "rgil", "set")
    with pytest.raises(BadInput, match="'rigl' and 'set' have no model, data set and density in common"):
        compare_methods(folder, "rigl", "set")
