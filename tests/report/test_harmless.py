"""What strangers write into records does nothing where it is shown, and what can't be shown stops nothing."""

from __future__ import annotations

import csv
import errno
import io
import json
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.errors import BadInput
from dstbench.report import leaderboards, page, trajectories
from dstbench.report.compare import compare
from dstbench.report.comparison_text import render_comparison
from dstbench.report.isolation import isolated
from dstbench.report.markdown import harmless
from dstbench.report.page import write_leaderboards
from dstbench.report.text import render_text, render_trials
from dstbench.report.trajectories import render_exploration
from dstbench.results import files, table
from dstbench.results.record import FILE, checksum, folder_of, seal
from dstbench.results.table import frame, read

TEXTS = (
    "</script><script>document.title='PWNED'</script><img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+1+cmd",
    "-2+3+cmd",
    "\t=1+1",
    "[x](javascript:alert(1)) ![y](http://127.0.0.1/z.png) | pipe `code` **b** <http://127.0.0.1>",
    "\x1b[31mRED\x1b[0m\x1b]0;OWNED\x07\x1b[2J\x9b31m",
    "[bold red]markup[/bold red] [link=http://127.0.0.1]x[/link] [/unopened]",
    "{{ 7*7 }} {% raw %} ${7*7} :warning:",
    "\u202egnp.exe\u202c \u0000 \u2028 tail \ufffe\udcff",
)


def hostile(make, text, seed):
    """A record with a text wherever one fits, sealed by a stranger: ours escapes when it writes."""
    record = seal(make(seed=seed))
    record |= {"label": text, "reason": text}
    record["trial"]["recipe"]["grow"] = {"name": text}
    record["trial"]["model"] = {"name": text}
    record["trial"]["dataset"] = {"name": text, text: text}
    record["provenance"] |= dict.fromkeys(("torch", "cpu", "tuning", "started", "finished"), text)
    record["provenance"]["plugins"] = {text: text}
    record["measures"] |= {"convention": text, "fallbacks": [text]}
    record["measures"]["throughput"] |= {"device": text, "path": text}
    layer = {"name": text, "shape": [2, 2], "active": 1}
    record["measures"] |= {"layers": [layer], "exploration": {"epoch": [0, 1], "r_s": [0.1, 0.2]}}
    return {**record, "checksum": checksum(record)}


@pytest.fixture
def results(tmp_path, make):
    """A finished and a failed trial for every text, and a folder whose name is one."""
    for place, text in enumerate(TEXTS):
        for failed in range(2):
            record = hostile(make, text, 100 * failed + place)
            record["status"] = "failed" if failed else "ok"
            record["checksum"] = checksum(record)
            folder = folder_of(tmp_path / "results", record["key"])
            folder.mkdir(parents=True)
            (folder / FILE).write_text(json.dumps(record))
    bad = tmp_path / "results" / "zz" / "<img src=x onerror=alert(3)>\x1b[31m"
    bad.mkdir(parents=True)
    (bad / FILE).write_text('{"schema_version": "<b>x</b>\\u001b[31m"}')
    return tmp_path / "results"


@pytest.fixture
def written(results, tmp_path):
    done = write_leaderboards(results, tmp_path / "boards")
    assert len(done.rejected) == 1
    return {file.name: file.read_text(encoding="utf-8") for file in done.files}


ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def test_nothing_acts_in_any_file(written):
    assert {"index.html", "exploration.html", "accuracy.csv", "leaderboard.svg"} <= written.keys()
    for name, text in written.items():
        assert not ACTING.search(text), name
    for name in ("index.html", "exploration.html", "leaderboard.svg"):
        assert "<img src=x" not in written[name]
        assert "</script><script>doc" not in written[name]
    assert r"\x1b[31mRED" in written["accuracy.md"].replace("\\\\", "\\").replace("\\[", "[")
    ElementTree.fromstring(written["leaderboard.svg"])


def test_no_cell_of_a_csv_file_is_a_formula(written):
    for name in (name for name in written if name.endswith(".csv")):
        cells = [value for row in csv.reader(io.StringIO(written[name])) for value in row]
        formulas = [value for value in cells if re.match(r"\s*[=+@-]", value) and not _number(value)]
        assert not formulas, name
        assert "'=cmd|' /C calc'!A0" in cells
        assert "\\t=1+1" in cells


def _number(text):
    try:
        return bool(float(text)) or True
    except ValueError:
        return False


def test_negative_numbers_stay_numbers(tmp_path, make, put):
    dense = make("dense", 0, 95.0, density=1.0, recipe={"dense": True}, control="dense")
    write_leaderboards(put(tmp_path / "results", [dense, make(seed=0, top1=91.0)]), tmp_path)
    rows = {
        row["method"]: row for row in csv.DictReader(io.StringIO((tmp_path / "accuracy.csv").read_text()))
    }
    assert rows["rigl"]["difference"] == "-4"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[x](javascript:alert(1))", r"\[x\](javascript:alert(1))"),
        ("![y](http://h/z.png)", r"!\[y\](http\://h/z.png)"),
        ("a | b", r"a \| b"),
        ("`c` **d** ~~e~~ $f$", r"\`c\` \*\*d\*\* \~\~e\~\~ \$f\$"),
        ("<b>&amp;", r"&lt;b>\&amp;"),
        ("www.example.org me@example.org", r"www\.example.org me\@example.org"),
        ("a\\", r"a\\"),
        ("erk · a(block_size=8), dense: @first_conv", "erk · a(block_size=8), dense: @first_conv"),
    ],
)  # fmt: skip
def test_markdown_of_others_is_text(text, shown):
    assert harmless(text) == shown


def test_markdown_boards_have_no_links_of_others_making(written):
    for name in ("accuracy.md", "flops.md", "throughput.md"):
        assert not re.search(r"(?<!\\)\]\(", written[name])
        assert "http://127" not in written[name]


def test_the_terminal_shows_texts_as_they_are(results):
    loaded = read(results)
    listed = trajectories.trajectories(loaded)
    console = Console(width=200, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    boards = page.boards_of(loaded)
    tables, beside = boards.tables, boards.beside
    for shown in (
        render_text(tables, None, beside), render_trials(frame(loaded.records)), render_exploration(listed),
        render_exploration(listed, layers=True), render_comparison(compare(results, results)),
    ):  # fmt: skip
        console.print(shown)
    text = console.file.getvalue()
    assert "\x1b[2J" not in text
    assert "\x1b]" not in text  # titles and links
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "⚠" not in text


@pytest.mark.parametrize(
    "arguments",
    [("leaderboard",), ("leaderboard", "--json"), ("explore",), ("explore", "--layers"), ("results", "show"),
     ("results", "show", "--json"), ("results", "validate"), ("results", "validate", "--json")],
)  # fmt: skip
def test_no_command_lets_a_record_speak_to_the_terminal(results, arguments):
    done = CliRunner().invoke(app, [*arguments, str(results)])
    assert done.exit_code == (1 if "validate" in arguments else 0)
    assert not ACTING.search(done.output)


def test_a_record_that_cannot_be_shown_is_left_out_by_name(tmp_path, make, put, monkeypatch):
    """What the schema has no rule for, found while the pages are made."""
    results = put(tmp_path / "results", [make(seed=0), make("set", seed=1)])

    def cards(rows, *place, made=page.cards):
        if any(row["method"] == "set" for row in rows):
            raise ZeroDivisionError("no card")
        return made(rows, *place)

    monkeypatch.setattr(page, "cards", cards)
    done = write_leaderboards(results, tmp_path / "boards")
    assert list(done.tables["accuracy"]["method"]) == ["rigl"]
    [rejected] = done.rejected
    assert make("set", seed=1)["key"] in rejected
    assert "can't be shown: ZeroDivisionError: no card (dstbench/report/page.py:" in rejected
    assert rejected.endswith(": a fault of dstbench, not of the record")
    assert done.faults == done.rejected
    assert "ZeroDivisionError: no card" in (tmp_path / "boards" / "index.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("module", "name", "commands"),
    [
        (page, "cards", [["leaderboard", "RESULTS", "--out", "OUT"]]),
        (leaderboards, "in_order", [["leaderboard", "RESULTS", "--out", "OUT", "--format", "csv"]]),
        (
            table,
            "_row",
            [["leaderboard", "RESULTS"], ["groups", "RESULTS"], ["compare", "RESULTS", "RESULTS"]],
        ),
    ],
)
def test_where_an_error_of_ours_leaves_a_record_out_the_board_is_no_success(
    module, name, commands, tmp_path, make, put, monkeypatch
):
    put(tmp_path / "RESULTS", [make(seed=0), make("set", seed=1)])
    whole = getattr(module, name)

    def fails(*arguments):
        if "'set'" in repr([a.to_dict() if hasattr(a, "to_dict") else a for a in arguments]):
            raise KeyError("no such thing")
        return whole(*arguments)

    monkeypatch.setattr(module, name, fails)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 70, done.output
        assert "left out: " in done.stderr
        assert "KeyError: 'no such thing' (dstbench/" in done.stderr
        assert "please report it" in done.stderr


def test_what_the_system_refuses_is_no_fault_of_a_record(tmp_path, make, put):
    loaded = read(put(tmp_path, [make(seed=0), make(seed=1)]))

    def full_disk(given):
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        isolated(loaded, full_disk)


def test_an_error_of_ours_is_raised(tmp_path, make, put):
    """No record alone brings it about."""
    loaded = read(put(tmp_path, [make(seed=0), make(seed=1)]))

    def make_of_two(loaded):
        return 1 // (2 - len(loaded.records))

    with pytest.raises(ZeroDivisionError):
        isolated(loaded, make_of_two)


def test_a_full_disk_leaves_the_old_boards(tmp_path, make, put, monkeypatch):
    results = put(tmp_path / "results", [make(seed=0)])
    boards = tmp_path / "boards"
    write_leaderboards(results, boards)
    before = {file.name: file.read_bytes() for file in boards.iterdir()}
    put(results, [make("set", seed=1)])
    written = []

    def full(descriptor):
        written.append(descriptor)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_leaderboards(results, boards)
    assert {file.name: file.read_bytes() for file in boards.iterdir()} == before


@pytest.mark.parametrize("command", [("leaderboard",), ("explore",), ("results", "merge")])
def test_an_out_that_is_a_file_is_bad_usage(tmp_path, make, put, command):
    record = make()
    record["measures"]["exploration"] = {"epoch": [0], "r_s": [0.1]}
    results = put(tmp_path / "results", [record])
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        done = CliRunner().invoke(app, [*command, str(results), "--out", str(out)])
        assert done.exit_code == 2
        assert "out: expected a folder, got the file" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(BadInput, match="got the file"):
        write_leaderboards(results, tmp_path / "file")


def test_seeds_that_disagree_on_epochs_and_layers_are_averaged_where_they_agree(tmp_path, make, put):
    records = [make(seed=seed) for seed in range(2)]
    for record, epochs in zip(records, ([0, 1, 2], [0, 2]), strict=True):
        record["measures"]["exploration"] = {
            "epoch": epochs,
            "r_s": [(e + record["trial"]["seed"]) / 10 for e in epochs],
        }
    records[0]["measures"]["layers"] = [{"name": "a", "shape": [2, 2], "active": 1}]
    records[1]["measures"]["layers"] = [
        {"name": "b", "shape": [4], "active": 4}, {"name": "a", "shape": [2, 2], "active": 3},
    ]  # fmt: skip
    [listed] = trajectories.trajectories(read(put(tmp_path, records)))
    assert [(row["epoch"], pytest.approx(row["r_s"])) for row in listed.curve] == [
        (0, 0.05),
        (1, 0.1),
        (2, 0.25),
    ]
    assert {row["layer"]: row["density"] for row in listed.layers} == {"a": 0.5, "b": 1.0}
