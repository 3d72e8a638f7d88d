"""Published figures: the shipped files are sound, and beside our rows they are shown and nothing more."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.report.leaderboards import arranged, leaderboards, summarise
from dstbench.report.page import write_leaderboards
from dstbench.report.published import beside as published_beside
from dstbench.report.published.beside import bare, protocol, same_method, stand_beside
from dstbench.report.published.figures import figures, load_table, published_tables
from dstbench.report.text import render_text
from dstbench.results.table import load_results
from fakes.pages import data_of, rows_of

TABLES = published_tables()
FILE = """
cite: Someone 2020
title: A title
arxiv: "2001.00001"
where: Table 1
grade: read in the paper
model: lenet300-100
dataset: mnist
training: {epochs: 100, nesterov: false}
notes: a note
footnotes: {odd: this is odd, second: and this is too}
figures:
  - {method: SET, recipe: set, density: 0.1, top1: 90.5, sd: 0.25, infer_flops: 0.2, footnotes: second}
  - {method: Other, density: 0.1, top1: 99.5, footnotes: [odd, second]}
  - {method: SET, recipe: set(init=uniform), density: 0.2, top1: 95}
  - {method: Copy, density: 0.1, top1: 95, copied_from: elsewhere}
"""


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """One small table in place of those that ship."""
    (tmp_path / "one.yaml").write_text(FILE)
    only = {"one": load_table(tmp_path / "one.yaml")}
    monkeypatch.setattr(published_beside, "published_tables", lambda: only)


@pytest.fixture
def ours(tmp_path, make, put):
    """SET over three seeds and dense, on lenet300-100 and MNIST with a validation split of its own."""

    def record(label, seed, top1, **trial):
        dataset = {"name": "mnist", "validation": 6000}
        place = {"model": {"name": "lenet300-100"}, "dataset": dataset, "training": {"epochs": 12}}
        return make(label, seed, top1, trial=place | trial)

    records = [record("set", seed, 88.0 + seed) for seed in range(3)]
    records += [record("rigl", seed, 80.0) for seed in range(3)]
    return put(tmp_path / "results", records)


@pytest.mark.parametrize("name", TABLES)
def test_shipped_figures_are_in_range_and_said_once(name):
    table = TABLES[name]
    seen = [(f.method, f.density, f.top1 or f.perplexity or f.bleu) for f in table.figures]
    assert len(set(seen)) == len(seen)
    assert len(table.footnotes) < 26
    assert table.grade == "digitised from a figure" or not any(figure.error for figure in table.figures)
    for figure in table.figures:
        assert 43 < (figure.top1 or 50) < 99.5, figure
        assert 10 < (figure.bleu or 20) < 30, figure
        assert 14 < (figure.perplexity or 20) < 150, figure
        assert figure.density or table.model == ("set-mlp",), figure
        assert not (figure.sd and figure.se), figure
        assert (figure.infer_flops or 1) <= 1 or "big" in figure.footnotes, figure
        if figure.density == 1:
            assert {figure.train_flops, figure.infer_flops, figure.hardware_flops} <= {1, None}


def test_recipes_of_figures_are_registered():
    recipes = {bare(figure.recipe) for _, _, figure in figures() if figure.recipe}
    assert recipes <= set(registry()["recipe"])
    assert {"dense", "static", "set", "rigl", "snfs", "mest", "gmp"} <= recipes


def test_what_a_source_copies_is_the_same_in_its_origin():
    """But for the row that a table repeats at another density, which its footnote says."""
    for _, _, figure in figures():
        if figure.copied_from and "copied" not in figure.footnotes:
            origin = TABLES[figure.copied_from].figures
            assert (figure.top1, figure.density) in {(other.top1, other.density) for other in origin}, figure
    repeated = [f for f in TABLES["rigl-resnet50-sparser"].figures if "copied" in f.footnotes]
    assert [(f.density, f.top1) for f in repeated] == [(0.05, 72.1), (0.035, 67.7)]


@pytest.mark.parametrize(
    ("name", "method", "density", "top1"),
    [
        ("rigl-resnet50", "RigL (ERK)", 0.1, 73.0),
        ("rigl-resnet50", "SNFS (ERK)", 0.2, 75.2),
        ("itop-resnet50", "RigL-ITOP 2×", 0.2, 76.91),
        ("chase-resnet50", "Chase (S_c 0.4)", 0.1, 74.03),
        ("reproduction-wrn-22-2", "RigL (ERK)", 0.2, 93.1),
        ("rigl-wrn-22-2", "Dense", 1, 94.1),
        ("rigl-wrn-22-2", "RigL 2× (ERK)", 0.05, 92.4),
        ("chts-mlp-mnist", "CHTs (node)", 0.01, 98.76),
        ("chts-mlp-cifar10", "SET", 0.01, 62.7),
        ("rigl-mobilenet", "RigL (ERK)", 0.1, 68.1),
        ("srigl-resnet18", "SRigL", 0.01, 92.79),
        ("srigl-resnet50", "SRigL", 0.2, 75.01),
        ("srigl-vit", "SRigL without ablation", 0.1, 71.3),
        ("acdc-resnet50", "AC/DC", 0.02, 68.48),
        ("gale-resnet50", "Random pruning", 0.02, 43.99),
        ("snfs-lenet300-100", "SET", 0.01, 95.8),
        ("snfs-wrn-28-2", "Dynamic Sparse (DSR)", 0.5, 94.73),
    ],
)
def test_figures_are_what_the_sources_print(name, method, density, top1):
    [printed] = [f.top1 for f in TABLES[name].figures if (f.method, f.density) == (method, density)]
    assert printed == top1


def test_figures_of_other_metrics_are_listed_and_never_set_beside_ours():
    [printed] = [f for f in TABLES["chts-llama-60m"].figures if (f.method, f.density) == ("CHTs", 0.1)]
    assert (printed.perplexity, printed.top1) == (33.03, None)
    done = run("--model", "llama-60m", "--method", "CHTs")
    assert done.exit_code == 0
    assert "perplexity" in done.output
    assert "33.03" in done.output
    assert "bleu" not in done.output
    assert "top1" not in done.output


def test_a_figure_is_of_one_metric(tmp_path):
    (tmp_path / "one.yaml").write_text(FILE.replace("top1: 99.5", "top1: 99.5, bleu: 20"))
    with pytest.raises(BadInput, match="expected one of top1, perplexity, bleu, got top1, bleu"):
        load_table(tmp_path / "one.yaml")


def test_known_faults_of_the_sources_have_a_footnote():
    notes = {name: " ".join([*table.notes, *table.footnotes.values()]) for name, table in TABLES.items()}
    for name, said in {
        "itop-resnet50": "swapped",
        "rigl-resnet50": "one convention would give 0.23 and 0.13",
        "rigl-resnet50-sparser": "repeats, row for row",
        "chase-resnet50": "unexplained",
    }.items():
        assert said in " ".join(notes[name].split()), name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cite:", "author:", "one.yaml: author: unknown key"),
        ("sd: 0.25", "std: 0.25", r"figures\[0\].std: unknown key; did you mean 'sd'"),
        ("top1: 90.5", "top1: 0.905e3", "top1: expected a number less than 100"),
        ("2001.00001", "cs/0112017", "arxiv: "),
        ('arxiv: "2001.00001"', "link: null", "expected an arXiv id, or a link"),
        ("second: and", "unused: and", "expected each to be given once and used, got second, unused"),
        ("epochs: 100", "epoch: 100", "expected names of training settings, got epoch"),
        ("read in the paper", "hearsay", "grade: "),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path, old, new, message):
    (tmp_path / "one.yaml").write_text(FILE.replace(old, new))
    with pytest.raises(BadInput, match=message):
        load_table(tmp_path / "one.yaml")


@pytest.mark.parametrize(
    ("label", "recipe", "same"),
    [
        ("set", "set", True),
        ("set(delta_t=50)", "set", True),
        ("set(init=uniform)", "set", False),
        ("set(delta_t=50, init=uniform)", "set(init=uniform)", True),
        ("static(structure=shuffled_block(block_size=8))", "static", False),
        ("rigl", "set", False),
        ("rigl", None, False),
    ],
)
def test_a_method_is_the_same_whatever_its_intervals_but_not_its_init_or_structure(label, recipe, same):
    assert same_method(label, recipe) is same


def test_published_rows_stand_behind_ours_of_their_density(alone, ours):
    summary = summarise(load_results(ours))
    table = arranged(summary)["accuracy"]
    whole = stand_beside(summary).within("accuracy", table)
    assert list(whole["method"]) == ["set", "rigl", "Other", "SET"]
    assert list(whole["published"]) == [None, None, "[1a,b]", "[1b]"]
    assert set(whole["dataset"]) == {"mnist(validation=6000)"}
    assert whole["inference_flops_ratio"].iloc[3] == 0.2
    assert whole["note"].iloc[3] == "and this is too"
    assert set(whole["density_requested"]) == {0.1}


def test_published_rows_change_nothing_of_ours(alone, ours):
    """No rank, interval, difference or p value of a row of ours depends on them, and they have none."""
    summary = summarise(load_results(ours))
    table = arranged(summary)["accuracy"]
    whole = stand_beside(summary).within("accuracy", table)
    mine = whole[whole["published"].isna()].reset_index(drop=True)[list(table.columns)]
    assert mine.equals(table)
    theirs = whole[whole["published"].notna()]
    for key in ("rank", "top1_low", "difference", "difference_low", "p_holm", "control"):
        assert theirs[key].isna().all(), key
    assert table.equals(leaderboards(load_results(ours))["accuracy"])


def test_the_difference_says_what_differs_in_training(alone, ours):
    [row] = stand_beside(summarise(load_results(ours))).comparisons
    assert (row["method"], row["published"], row["seeds"]) == ("set", "[1b]", 3)
    assert row["difference"] == pytest.approx(89.0 - 90.5)
    assert row["protocol"] == "epochs 12 (theirs 100), nesterov true (false)"


def test_settings_of_a_schedule_are_told_only_between_equal_schedules():
    theirs = {"schedule": "multistep", "milestones": [30], "lr": 0.1, "label_smoothing": 0.1}
    other = json.dumps({"training": {"epochs": 1}})
    same = json.dumps({"training": {"epochs": 1, "schedule": "multistep", "milestones": [20]}})
    assert protocol(other, theirs) == "schedule cosine (theirs multistep), label_smoothing 0 (0.1)"
    assert protocol(same, theirs) == "milestones [20] (theirs [30]), label_smoothing 0 (0.1)"
    assert protocol(other, {"lr": 0.1}) == "same lr; the rest is not compared"
    assert protocol(other, {}) == "theirs is not known"
    assert protocol('{"training": {"epoch": 1}}', theirs) == "ours is not known"


def test_measured_speeds_have_no_published_rows(alone, ours):
    summary = summarise(load_results(ours))
    table = arranged(summary)["throughput"]
    assert stand_beside(summary).within("throughput", table) is table


@pytest.mark.parametrize("model", ["small_cnn", "lenet300-100(width=2)"])
def test_other_networks_have_none(alone, tmp_path, make, put, model):
    name, _, width = model.removesuffix(")").partition("(width=")
    spec = {"name": name} | ({"width": int(width)} if width else {})
    folder = put(tmp_path / "some", [make("set", trial={"model": spec, "dataset": {"name": "mnist"}})])
    summary = summarise(load_results(folder))
    table = arranged(summary)["accuracy"]
    assert table["model"].iloc[0] == model
    assert stand_beside(summary).within("accuracy", table) is table


def test_timm_models_go_by_their_own_name(tmp_path, make, put):
    spec = {"model": {"name": "timm:resnet50"}, "dataset": {"name": "imagenet"}}
    rows = stand_beside(summarise(load_results(put(tmp_path, [make("set", trial=spec)])))).rows
    methods = [row["method"] for row in rows]
    assert methods.count("RigL (ERK)") == 1
    assert methods.count("SET") == 1, "what another source copied stands there once"
    assert {row["model"] for row in rows} == {"timm:resnet50"}
    assert not any(row["spread"] and "±" in row["spread"] for row in rows), "read off a chart"


def test_every_file_marks_them_and_names_their_source(alone, ours, tmp_path):
    write_leaderboards(ours, tmp_path / "boards")
    read = {file.name: file.read_text("utf-8") for file in (tmp_path / "boards").iterdir()}
    rows = list(csv.DictReader(io.StringIO(read["accuracy.csv"])))
    assert [(row["method"], row["rank"], row["spread"]) for row in rows if row["published"]] == [
        ("Other", "", ""),
        ("SET", "", "sd 0.25"),
    ]
    assert {row["address"] for row in rows} == {"", "https://arxiv.org/abs/2001.00001"}
    assert "| – | SET, *published* [1b] |" in read["accuracy.md"]
    assert "| 90.50 (sd 0.25) |" in read["accuracy.md"]
    assert "| 89.00 | 90.50 | −1.50 | epochs 12 (theirs 100)" in read["accuracy.md"]
    assert "- **b** and this is too" in read["accuracy.md"]
    assert "| 0.20× |" in read["accuracy.md"], "as many digits as printed"
    assert "−1.50" not in read["flops.md"].partition("## Published sources")[0]
    assert "published" not in read["throughput.md"] + read["throughput.csv"] + read["leaderboard.svg"]
    page = read["index.html"]
    published = [row for row in rows_of(page) if row["published"]]
    assert [(row["method"], row["published"], row["address"]) for row in published] == [
        ("Other", "[1a,b]", "https://arxiv.org/abs/2001.00001"),
        ("SET", "[1b]", "https://arxiv.org/abs/2001.00001"),
    ]
    boards = {board["name"]: board for board in data_of(page)["boards"]}
    assert len(boards["throughput"]["order"]) == len(rows_of(page)) - 2
    assert page.count("SET ([1b])") == 2
    assert "<b>[1]</b> Someone 2020, <cite>A title</cite>, Table 1." in page


def test_boards_without_published_figures_say_nothing_of_them(results, tmp_path):
    write_leaderboards(results, tmp_path / "boards")
    for file in (tmp_path / "boards").iterdir():
        text = file.read_text("utf-8").partition("<script>")[0]
        assert "published" not in re.sub(r"(?s)<style>.*?</style>", "", text), file.name


def test_the_terminal_shows_them_apart(alone, ours):
    from rich.console import Console

    summary = summarise(load_results(ours))
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(render_text(arranged(summary), None, stand_beside(summary)))
    text = console.file.getvalue()
    assert re.search(r"^ {4}SET published \[1b\] +0\.100 +– +90\.50 sd 0\.25", text, re.MULTILINE)
    assert re.search(r"^set +0\.100 \[1b\] +3 +89\.00 +90\.50 +−1\.50 +epochs 12", text, re.MULTILINE)
    assert "[1] Someone 2020, Table 1, https://arxiv.org/abs/2001.00001 (read in the paper)" in text


def run(*words):
    return CliRunner().invoke(app, ["published", *words])


def test_the_command_lists_figures_with_their_sources():
    done = run("--model", "resnet50", "--method", "itop")
    assert done.exit_code == 0
    assert "[2] Liu et al. 2021" in done.output
    assert "swapped" in done.output
    words = ("--model", "lenet300-100", "--dataset", "mnist", "--method", "SET", "--json")
    rows = json.loads(run(*words).output)
    assert {row["model"] for row in rows} == {"lenet300-100"}
    assert all(row["address"] == "https://arxiv.org/abs/1907.04840" and row["grade"] for row in rows)
    assert {row["density"]: row["top1"] for row in rows}[0.1] == 98.39


def test_the_command_refuses_what_nothing_is_published_for():
    done = run("--model", "resnet5")
    assert done.exit_code == 2
    assert "--model: nothing is published here for 'resnet5'; did you mean 'resnet50'" in done.output
    done = run("--method", "rgl")
    assert done.exit_code == 2
    assert "nothing is published here under 'rgl'; did you mean 'RigL'" in done.output
