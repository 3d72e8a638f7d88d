"""What the page, the Markdown board and the commands show of effects and groups."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.report.evidence.groups import groups
from dstbench.report.evidence.page_sections import NARROW, WIDE, diagram
from dstbench.report.page import write_leaderboards

JITTER = (0.3, -0.2, -0.1)


def top1(init, structure, prune, grow, seed):
    if (init, prune, grow, seed) == ("erk", "set", "random", 1):
        return "oom"
    growth = (8.03 + JITTER[seed] / 10) * (grow == "random")
    return 90.0 + seed - growth + JITTER[seed] * (prune == "mest") + 2 * JITTER[-seed] * (init == "erk")


@pytest.fixture(scope="module")
def factorial_results(tmp_path_factory):
    from fakes.factorial import make_factorial
    from fakes.records import make_record, write

    dense = [
        make_record("dense", s, 95.0 + s, density=1.0, recipe={"dense": True}, control="dense")
        for s in range(3)
    ]
    return write(tmp_path_factory.mktemp("results"), make_factorial(top1) + dense)


@pytest.fixture(scope="module")
def written(factorial_results, tmp_path_factory):
    out = tmp_path_factory.mktemp("board")
    write_leaderboards(factorial_results, out)
    return out


def section(page, name):
    return re.search(rf'<section class="section card" id="{name}">(.*?)</section>', page, re.DOTALL)[1]


def test_the_page_says_which_choice_matters(written):
    html = section((written / "index.html").read_text("utf-8"), "effects")
    assert "<dt>grow</dt><dd>gradient is better than random by 8.0" in html
    assert "1 trial of 36 gave no top-1 (1 oom)." in html
    assert html.count('<table class="heat">') == 2  # a panel an init; the structure is the same everywhere
    assert "<small>2 of 3</small>" in html


def test_the_page_says_which_methods_differ(written):
    page = (written / "index.html").read_text("utf-8")
    html = section(page, "groups")
    assert html.count("<svg") == 2
    assert "<option selected>" in html
    [tables] = json.loads(re.search(r'id="data-groups">(.*?)</script>', page)[1])
    assert {"dense", "erk · unstructured · magnitude · gradient"} <= set(tables)
    assert len(tables["dense"]) == 12
    assert all(len(row) == 6 for rows in tables.values() for row in rows)


def test_the_markdown_board_has_both(written):
    text = (written / "accuracy.md").read_text("utf-8")
    assert text.index("# Accuracy") < text.index("## Effects") < text.index("## Groups")
    assert "- **grow**: gradient is better than random by 8.0" in text
    assert not (set((written / "flops.md").read_text("utf-8").splitlines()) & {"## Effects", "## Groups"})


def test_boards_without_an_experiment_have_no_such_part(results, tmp_path):
    write_leaderboards(results, tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert 'id="effects"' not in page
    assert 'id="groups"' in page
    assert "## Effects" not in (tmp_path / "accuracy.md").read_text("utf-8")


def test_what_records_say_is_escaped(tmp_path, put, make):
    from fakes.records import recipe_of

    evil = "<img src=x onerror=alert(1)>"
    records = [
        make(
            f"{evil} {name}",
            seed,
            90.0 + seed * (name == "a"),
            recipe=recipe_of(("erk", "unstructured", name, "x")),
        )
        for name in "ab"
        for seed in range(3)
    ]
    put(tmp_path / "results", records)
    write_leaderboards(tmp_path / "results", tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "<img" not in page
    assert "&lt;img" in section(page, "groups")
    assert "<img" not in (tmp_path / "accuracy.md").read_text("utf-8")


@pytest.mark.parametrize("layout", [WIDE, NARROW], ids=lambda layout: layout.name)
def test_nothing_of_the_diagram_leaves_its_frame(factorial_results, layout):
    [found] = groups(factorial_results)
    drawn = diagram(found, layout)
    assert [line.name for line in drawn.lines] == [method.name for method in found.methods]
    assert all(0 < line.y < drawn.height and len(line.short) <= layout.most for line in drawn.lines)
    assert all(layout.axis[0] <= line.x <= layout.axis[1] for line in drawn.lines if line.x is not None)
    assert all(layout.axis[1] < x <= drawn.width for x, _ in drawn.bars)
    assert [line.x for line in drawn.lines if line.x is not None] == sorted(
        line.x for line in drawn.lines if line.x is not None
    )


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("command", ["effects", "groups"])
def test_commands_print_text_markdown_and_json(command, factorial_results):
    text = run(command, factorial_results)
    assert text.exit_code == 0
    markdown = run(command, factorial_results, "--format", "markdown")
    assert markdown.output.startswith(f"## {command.title()}")
    [content] = json.loads(run(command, factorial_results, "--format", "json").output)
    for sentence in content["sentences"]:
        assert " ".join(sentence.partition(": ")[2].split()) in " ".join(text.output.split())


def test_json_holds_every_figure(factorial_results):
    [content] = json.loads(run("groups", factorial_results, "--baseline", "dense", "--format", "json").output)
    assert len(content["pairs"]) == 12 * 11 / 2
    assert {row["verdict"] for row in content["against"]} <= {"better", "worse", "can't tell"}
    [content] = json.loads(run("effects", factorial_results, "--format", "json").output)
    assert [line["term"] for line in content["variance"]][-1] == "residual"
    assert content["missing"][0]["status"] == "oom"


def test_commands_name_what_they_dont_know(factorial_results):
    for arguments in (
        ("groups", factorial_results, "--baseline", "dens"),
        ("effects", factorial_results, "--format", "jsn"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "did you mean" in result.output or "expected one of" in result.output


def test_commands_say_that_there_is_nothing(tmp_path):
    assert "No factorial experiment" in run("effects", tmp_path).output
    assert "Nothing to compare" in run("groups", tmp_path).output
    assert json.loads(run("effects", tmp_path, "--format", "json").output) == []


def test_a_question_may_be_about_a_part_of_the_results(factorial_results):
    def tried(*where):
        [content] = json.loads(run("effects", factorial_results, "--format", "json", *where).output)
        return content["sentences"][0]

    assert tried("-w", "init=erk", "-w", "seed=0,2").startswith("Tried: 6 combinations of prune")
    assert "at 2 seeds" in tried("-w", "init=erk", "-w", "seed=0,2")
    assert tried("-w", "density=0.10") == tried("-w", "density=1e-1") == tried()
    groups_of = json.loads(
        run(
            "groups", factorial_results, "-w", "grow=random", "--baseline", "dense", "--format", "json"
        ).output
    )
    assert len(groups_of[0]["pairs"]) == 6 * 5 / 2
    assert groups_of[0]["against"]  # dense, which grows nothing, is still there


def test_long_seeds_are_told_apart(tmp_path):
    from fakes.factorial import make_factorial
    from fakes.records import write

    long = (12_345_671, 12_345_672)
    results = write(tmp_path, make_factorial(lambda *parts: 90.0 + len(parts[2]), seeds=long))
    [content] = json.loads(run("effects", results, "-w", "seed=12345672", "--format", "json").output)
    assert "at 1 seed of" in content["sentences"][0]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("structur=channel", "unknown axis 'structur'; did you mean 'structure'"),
        ("init=erkk", "no trial has init 'erkk'; did you mean 'erk'"),
        ("seed=7", "no trial has seed '7'; known: 0, 1, 2"),
        ("init", "expected AXIS=VALUE"),
        ("init=", "expected AXIS=VALUE"),
    ],
)
def test_a_part_that_isnt_there_is_named(factorial_results, where, said):
    result = run("effects", factorial_results, "--where", where)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
