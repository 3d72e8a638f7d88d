"""Exploration over time: means over seeds by hand, what the page holds, and records that have nothing of it."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.core.network.channel_statistics import BOTTOM
from dstbench.report.lines import Line, plot
from dstbench.report.page import write_leaderboards
from dstbench.report.trajectories import (
    CHANCE,
    at_the_end,
    by_layer,
    exploration_files,
    over_time,
    trajectories,
)
from dstbench.results.table import load_results, read

STATISTICS = {
    "channels": 20, "below_100": 0.6, "below_80": 0.5, "below_50": 0.1, "null_100": 0.52, "null_80": 0.2,
    "null_50": 0.01, "gini": 0.3, "cv": 0.5, "dead": 0.05,
}  # fmt: skip


def explored(record, r_s=0.2, gini=0.3):
    """A record with a trajectory of two epochs and one layer with channels."""
    over_epochs = {
        "epoch": [0, 1, 2],
        "r_s": [0.1, 0.15, r_s],
        "never_dropped": [1.0, 0.8, 0.6],
        "bottom_previous": [None, 0.5, 0.7],
        "bottom_final": [0.4, 0.7, 1.0],
        **{name: [value] * 3 for name, value in STATISTICS.items() if name not in ("channels", "gini")},
        "gini": [0.0, 0.1, gini],
    }
    layer = {
        "name": "conv", "shape": [20, 2, 3, 3], "active": 36, "r_s": r_s, "never_dropped": 0.6,
        "channels": {**STATISTICS, "gini": gini},
    }  # fmt: skip
    head = {
        "name": "head",
        "shape": [10, 20],
        "active": 20,
        "r_s": r_s,
        "never_dropped": 0.5,
        "channels": None,
    }
    record["measures"] |= {
        "r_s": r_s,
        "never_dropped": 0.6,
        "bottom_early": 0.7,
        "channels": layer["channels"],
        "exploration": over_epochs,
        "layers": [layer, head],
    }
    return record


@pytest.fixture
def folder(tmp_path, make, put):
    records = [
        explored(make("rigl", 0, 93.0), 0.2, 0.3),
        explored(make("rigl", 1, 94.0), 0.3, 0.4),
        explored(make("set", 0, 92.0)),
        make("dense", 0, 95.0, density=1.0, recipe={"dense": True}, control="dense"),
    ]
    return put(tmp_path / "results", records)


def test_curves_are_means_over_seeds_the_most_accurate_method_first(folder):
    table = over_time(trajectories(read(folder)))
    assert table["method"].tolist() == ["rigl"] * 3 + ["set"] * 3
    rigl = table[table["method"] == "rigl"]
    assert rigl["epoch"].tolist() == [0, 1, 2]
    assert rigl["seeds"].tolist() == [2, 2, 2]
    assert rigl["r_s"].tolist() == pytest.approx([0.1, 0.15, 0.25])
    assert rigl["gini"].tolist() == pytest.approx([0.0, 0.1, 0.35])
    assert pd.isna(rigl["bottom_previous"].iloc[0])


def test_ends_and_layers(folder):
    listed = trajectories(read(folder))
    end = at_the_end(listed).iloc[0]
    assert (end["method"], end["epoch"], end["r_s"], end["bottom_early"]) == (
        "rigl",
        2,
        pytest.approx(0.25),
        0.7,
    )
    layers = by_layer(listed)
    assert layers[layers["method"] == "rigl"]["layer"].tolist() == ["conv", "head"]
    conv, head = (layers.iloc[index] for index in (0, 1))
    assert (conv["shape"], conv["density"], conv["gini"]) == ("20×2×3×3", 0.1, pytest.approx(0.35))
    assert pd.isna(head["gini"])


def test_statistics_are_columns_less_what_chance_gives(folder):
    table = load_results(folder).set_index("label")
    row = table.loc["set"]
    assert row["channel_excess_80"] == pytest.approx(0.3)
    assert row["channel_excess_50"] == pytest.approx(0.09)
    assert (row["channel_gini"], row["channel_dead"], row["never_dropped"]) == (0.3, 0.05, 0.6)
    assert table.loc["dense"][["channel_excess_80", "channel_gini", "never_dropped"]].isna().all()


def test_the_page_draws_every_figure_and_links_from_the_leaderboard(folder, tmp_path):
    files = {file.name: file for file in write_leaderboards(folder, tmp_path / "boards").files}
    assert 'href="exploration.html"' in files["index.html"].read_text()
    page = files["exploration.html"].read_text()
    assert page.count("<svg") == 6
    # R_s, never dropped, bottom set and dead have one line for each of 2 methods, the others two, with chance
    assert page.count("<polyline") == 4 * 2 + 2 * 4
    assert page.count('class="level"') == 1
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!exploration)', page)
    rows = pd.read_csv(files["exploration_layers.csv"])
    assert rows["layer"].tolist() == ["conv", "head"] * 2


def test_names_cannot_become_markup(tmp_path, make, put):
    put(tmp_path, [explored(make("rigl", 0, 93.0) | {"label": "<b>x</b>"})])
    page = exploration_files(read(tmp_path))["exploration.html"]
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_methods_with_one_name_are_told_apart_by_their_setting(tmp_path, make, put):
    long = make("rigl", 0, 93.0, trial={"training": {"epochs": 24}})
    put(tmp_path, [explored(make("rigl", 0, 90.0)), explored(long)])
    page = exploration_files(read(tmp_path))["exploration.html"]
    assert "rigl (epochs=24)" in page
    assert "rigl (epochs=12)" in page


def test_records_without_a_trajectory_make_no_files(results, tmp_path):
    assert exploration_files(read(results)) == {}
    names = {file.name for file in write_leaderboards(results, tmp_path / "out").files}
    assert not any(name.startswith("exploration") for name in names)


def test_the_command_prints_and_writes_only_where_told(folder, tmp_path):
    def call(*arguments):
        done = CliRunner().invoke(app, ["explore", *map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "rigl" in call(folder)
    assert "head" in call(folder, "--layers")
    assert '"never_dropped": 0.6' in call(folder, "--json")
    assert not (tmp_path / "out").exists()
    assert "exploration.html" in call(folder, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "exploration.csv").exists()


def test_the_command_says_where_there_is_nothing(tmp_path, make, put):
    put(tmp_path, [make()])
    assert "No trajectories" in CliRunner().invoke(app, ["explore", str(tmp_path)]).stdout


def test_a_plot_reaches_from_its_first_point_to_its_last_and_starts_at_zero():
    drawn = plot([Line("a", "s0", ((0, 0.0), (4, 2.0)))], level=1.0)
    (_, points), *_ = drawn.lines
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in points.split())
    assert (x0, y0) == (46, drawn.frame.height - 26)
    assert (x1, y1) == (
        drawn.frame.width - 12,
        pytest.approx(10 + 0.1 / 2.1 * (drawn.frame.height - 36), abs=0.1),
    )
    assert [label for _, label in drawn.x_ticks] == ["0", "1", "2", "3", "4"]
    assert drawn.level == pytest.approx((y0 + y1) / 2, abs=0.1)


def test_a_flat_line_at_zero_still_has_an_axis():
    assert plot([Line("a", "s0", ((0, 0.0), (1, 0.0)))]).y_ticks[0][1] == "0"


def test_chance_is_the_fraction_that_a_bottom_set_holds():
    assert CHANCE == BOTTOM
