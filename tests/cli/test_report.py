"""The report commands, run as the command line runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.results.record import folder_of, write_record


def record(seed=0, top1=91.0, key="a", label="rigl"):
    return {
        "key": key * 63 + str(seed),
        "status": "ok",
        "label": label,
        "trial": {
            "model": {"name": "m"},
            "dataset": {"name": "d"},
            "density": 0.1,
            "seed": seed,
            "recipe": {"grow": {"name": "gradient"}},
        },
        "measures": {"top1": top1},
    }


def put(folder, *records):
    for item in records:
        write_record(item, folder_of(folder, item["key"]))
    return folder


@pytest.fixture
def results(tmp_path):
    return put(tmp_path / "results", record(0, 90.0), record(1, 91.0))


def call(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_leaderboard_prints_a_table_and_writes_only_where_told(results, tmp_path):
    done = call("leaderboard", results)
    assert done.exit_code == 0
    assert "90.50" in done.stdout
    assert not (tmp_path / "out").exists()
    done = call("leaderboard", results, "--out", tmp_path / "out")
    assert "index.html" in done.stdout
    assert (tmp_path / "out" / "index.html").exists()


def test_leaderboard_json_is_json_even_where_files_are_left_out(results):
    broken = results / "ff" / "ff00" / "result.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    done = call("leaderboard", results, "--json", "--board", "flops")
    assert done.exit_code == 0
    assert json.loads(done.stdout)[0]["name"] == "rigl"
    assert "left out" in done.stderr
    assert str(broken) in done.stderr


@pytest.mark.parametrize("arguments", [("leaderboard", "nowhere"), ("compare", "nowhere", "nowhere")])
def test_a_folder_that_is_not_there_is_bad_usage(arguments):
    done = call(*arguments)
    assert done.exit_code == 2
    assert "expected an existing folder, got 'nowhere'" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["leaderboard", "RESULTS", "--out", "OUT"],
        ["results", "ci-template", "--out", "OUT"],
        ["plugins", "new", "mine", "--out", "OUT"],
    ],
)
def test_a_folder_that_can_not_be_made_is_an_error_in_a_line(results, tmp_path, command):
    places = {"RESULTS": results, "OUT": tmp_path / ("long" * 100)}
    done = call(*(places.get(word, word) for word in command))
    assert done.exit_code == 2
    assert done.output.strip().splitlines()[-1].startswith("error: ")
    assert "File name too long" in done.output


def test_an_unknown_board_is_bad_usage(results):
    done = call("leaderboard", results, "--board", "acuracy")
    assert done.exit_code == 2
    assert "did you mean 'accuracy'" in done.stderr


def test_compare_takes_two_folders_or_two_methods(results):
    done = call("compare", results, "--method", "rigl", "--method", "rigl", "--json")
    assert done.exit_code == 0
    assert {row["verdict"] for row in json.loads(done.stdout)} == {"identical"}
    for wrong in ([results], [results, "--method", "rigl"], [results, results, *["--method", "set"] * 2]):
        done = call("compare", *wrong)
        assert done.exit_code == 2
        assert "expected two results folders, or one and two methods" in done.stderr


def test_compare_of_methods_exits_as_that_of_folders(tmp_path):
    others = record(0, 90.0, "b", "other"), record(9, 90.0, "c", "alone")
    mine = put(tmp_path, record(0, 80.0), record(1, 81.0), *others)
    exits = {
        names: call("compare", mine, "--method", names[0], "--method", names[1]).exit_code
        for names in (("rigl", "other"), ("other", "rigl"), ("alone", "rigl"))
    }
    assert exits == {("rigl", "other"): 1, ("other", "rigl"): 0, ("alone", "rigl"): 3}


def test_compare_exits_with_one_on_a_regression(results, tmp_path):
    worse = put(tmp_path / "worse", record(0, 80.0), record(1, 81.0))
    assert call("compare", results, results).exit_code == 0
    done = call("compare", results, worse, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)[0]["verdict"] == "worse"
    assert call("compare", results, worse, "--tolerance", "20").exit_code == 0


def test_merge_and_validate(results, tmp_path):
    out = tmp_path / "out"
    done = call("results", "merge", results, "--out", out)
    assert done.exit_code == 0
    assert "2 copied" in done.stdout
    assert call("results", "validate", out).exit_code == 0
    other = put(tmp_path / "other", record(0, 10.0))
    assert call("results", "merge", other, "--out", out).exit_code == 1
    next(out.glob("*/*/result.json")).write_text("{")
    done = call("results", "validate", out, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["ok"] == 1


def test_show_lists_trials_and_prints_one_record(results):
    assert "91.00" in call("results", "show", results).stdout
    assert len(json.loads(call("results", "show", results, "--json").stdout)) == 2
    one = call("results", "show", results, record(1)["key"])
    assert json.loads(one.stdout)["measures"] == {"top1": 91.0}
    assert call("results", "show", results, "a").exit_code == 2


def test_the_commands_are_light_until_they_run():
    code = (
        "import sys, dstbench.cli.report;"
        "print([name for name in ('torch', 'pandas', 'scipy', 'jinja2', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
