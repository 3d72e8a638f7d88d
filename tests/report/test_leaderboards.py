from __future__ import annotations

import math

import pytest

from dstbench.report.leaderboards import leaderboards
from dstbench.results.table import load_results


@pytest.fixture
def boards(results):
    return leaderboards(load_results(results))


def row_of(table, method, dataset="digits"):
    matching = table[(table["method"] == method) & (table["dataset"] == dataset)]
    assert len(matching) == 1
    return matching.iloc[0]


def board_of(tmp_path, put, records, name="accuracy"):
    return leaderboards(load_results(put(tmp_path / "some", records)))[name]


def test_means_intervals_and_paired_differences_by_hand(boards):
    # rigl 93, 95, 93: mean 281/3, s² = 4/3; minus dense 95, 96, 97: −2, −1, −4
    rigl = row_of(boards["accuracy"], "rigl")
    t = 4.302652729911275
    assert rigl["seeds"] == 3
    assert rigl["top1"] == pytest.approx(281 / 3)
    assert rigl["top1_high"] - rigl["top1"] == pytest.approx(t * math.sqrt(4 / 3) / math.sqrt(3))
    assert rigl["difference"] == pytest.approx(-7 / 3)
    assert rigl["difference_low"] == pytest.approx(-7 / 3 - t * math.sqrt(7 / 3) / math.sqrt(3))


def test_the_three_boards_hold_the_same_rows_each_in_its_own_order(boards):
    assert list(boards) == ["accuracy", "flops", "throughput"]
    assert len({frozenset(zip(t["method"], t["dataset"], strict=True)) for t in boards.values()}) == 1
    assert {len(table) for table in boards.values()} == {12}
    digits = boards["accuracy"][boards["accuracy"]["dataset"] == "digits"]
    assert list(digits["method"])[:3] == ["dense", "rigl", "set"]
    cheapest = boards["flops"][(boards["flops"]["dataset"] == "digits") & (boards["flops"]["density"] < 1)]
    assert cheapest.iloc[0]["method"] == "set"


def test_theory_and_measurement_are_neighbours(boards):
    columns = list(boards["throughput"].columns)
    for kind in ("train", "inference"):
        at = columns.index(f"{kind}_theory")
        assert columns[at : at + 3] == [f"{kind}_{n}" for n in ("theory", "hardware", "throughput_ratio")]
    assert columns.index("single_latency_median") == columns.index("single_throughput_ratio_high") + 1


def test_speed_ups_are_dense_over_sparse(tmp_path, make, put):
    records = [make(seed=seed) for seed in range(2)]
    for record, flops in zip(records, (0.2, 0.3), strict=True):
        record["measures"] |= {
            "training_flops_ratio": flops,
            "inference_flops_ratio": flops / 2,
            "hardware_flops_ratio": 0.5,
        }
    row = board_of(tmp_path, put, records, "throughput").iloc[0]
    assert row["train_theory"] == pytest.approx(1 / 0.25)
    assert row["inference_theory"] == pytest.approx(1 / 0.125)
    assert (row["inference_hardware"], row["train_hardware"]) == (2, 2)


def test_failed_and_skipped_trials_keep_their_row_and_reason(boards):
    label = "uniform · channel · mest · random"
    partly, never = (row_of(boards["accuracy"], label, dataset) for dataset in ("digits", "mnist"))
    assert (partly["seeds"], partly["statuses"]) == (2, "2 ok, 1 oom")
    assert (never["seeds"], never["statuses"]) == (0, "3 skipped")
    assert math.isnan(never["top1"])
    assert never["reason"] == "skipped: layer conv1: 6 <channels> can't hold 5 weights </script>"


def test_reasons_lose_the_folders_of_the_machine(boards):
    partly = row_of(boards["accuracy"], "uniform · channel · mest · random")
    assert partly["reason"] == "oom: CUDA out of memory at …/train.py"


def test_only_methods_of_complete_blocks_are_ranked_and_controls_never(boards):
    ranks = boards["accuracy"].groupby("method")["rank"].first()
    assert ranks["rigl"] == 1
    assert ranks["set"] == 2
    assert ranks.drop(["rigl", "set"]).isna().all()


def test_the_pareto_front_is_of_accuracy_against_training_flops(boards):
    digits = boards["flops"][boards["flops"]["dataset"] == "digits"]
    assert set(digits[digits["pareto"] == True]["method"]) == {"dense", "rigl", "set"}  # noqa: E712


def test_one_seed_has_no_interval(tmp_path, make, put):
    row = board_of(tmp_path, put, [make()]).iloc[0]
    assert row["top1"] == 91.0
    assert math.isnan(row["top1_low"])
    assert math.isnan(row["difference"])


def timed(make, speed, label, path="compacted", **changes):
    record = make(label)
    record["measures"]["throughput"] = speed(path=path, **changes)
    return record


def test_accuracy_of_one_seed_is_ordered_but_not_ranked(tmp_path, make, put):
    records = [make("set", seed=0, top1=90.0), make("rigl", seed=0, top1=95.0), make("rigl", seed=1)]
    records.append(make("uniform · channel · mest · random", top1=99.0))
    boards = leaderboards(load_results(put(tmp_path, records)))
    table = boards["accuracy"]
    assert list(table["method"]) == ["uniform · channel · mest · random", "rigl", "set"]
    assert list(table["rank"].fillna(0)) == [0, 1, 0]
    assert sorted(boards["flops"]["rank"]) == [2, 2, 2]  # theory doesn't depend on luck


def test_speed_of_masked_dense_networks_is_not_ranked(tmp_path, make, put, speed):
    records = [
        timed(make, speed, "rigl", "masked-dense", ratio=1.5),
        timed(make, speed, "set", ratio=0.9),
    ]
    table = board_of(tmp_path, put, records, "throughput").set_index("method")
    assert list(table.index) == ["set", "rigl"]
    assert math.isnan(table.loc["rigl", "rank"])
    assert table.loc["set", "rank"] == 1


def test_each_measurement_has_its_own_path(tmp_path, make, put, speed):
    compacted = speed(2.0)["inference"] | {"path": "compacted", "latency_median": 0.004}
    record = timed(make, speed, "rigl", "masked-dense", inference=compacted, single=compacted, ratio=1.0)
    row = board_of(tmp_path, put, [record], "throughput").iloc[0]
    assert [row[f"{kind}_path"] for kind in ("train", "inference", "single")] == [
        "masked-dense",
        "compacted",
        "compacted",
    ]
    assert (row["single_latency_median"], row["single_throughput_ratio"], row["rank"]) == (0.004, 2.0, 1)


def test_contended_timings_are_marked_and_not_ranked(tmp_path, make, put, speed):
    records = [
        timed(make, speed, "rigl", ratio=1.5, contended=True),
        timed(make, speed, "set", ratio=1.1),
    ]
    table = board_of(tmp_path, put, records, "throughput").set_index("method")
    assert list(table.index) == ["set", "rigl"]
    assert table.loc["rigl", "contended"] is True
    assert math.isnan(table.loc["rigl", "rank"])
    assert table.loc["set", "rank"] == 1


def test_a_calm_timing_counts_alone(tmp_path, make, put, speed):
    records = [make(seed=seed) for seed in range(2)]
    records[0]["measures"]["throughput"] = speed(9.0, contended=True)
    row = board_of(tmp_path, put, records, "throughput").iloc[0]
    assert (row["inference_throughput_ratio"], row["contended"]) == (0.97, False)


def test_timings_under_different_conditions_are_not_ranked(tmp_path, make, put, speed):
    records = [make(seed=seed) for seed in range(2)]
    records[0]["measures"]["throughput"] = speed(9.0, device="cuda")
    row = board_of(tmp_path, put, records, "throughput").iloc[0]
    assert math.isnan(row["rank"])
    assert "different conditions" in row["note"]


def test_other_training_settings_and_component_versions_are_other_rows(tmp_path, make, put):
    longer = make(seed=0, top1=94.0, trial={"training": {"epochs": 24}})
    newer = make(seed=1, provenance={"components": {"grow": {"version": "2"}}})
    failed = make(seed=2, status="failed", reason="it broke", measures={}, provenance={})
    table = board_of(tmp_path, put, [make(seed=0), longer, newer, failed])
    assert sorted(table["setting"]) == ["epochs=12", "epochs=12, grow v1", "epochs=12, grow v2", "epochs=24"]


def test_a_trial_that_failed_before_it_had_versions_joins_its_siblings(tmp_path, make, put):
    failed = make(seed=2, status="failed", reason="it broke", measures={}, provenance={})
    table = board_of(tmp_path, put, [make(seed=0), make(seed=1), failed])
    assert list(table["statuses"]) == ["2 ok, 1 failed"]


def test_no_results_no_rows(tmp_path):
    assert all(table.empty for table in leaderboards(load_results(tmp_path)).values())
