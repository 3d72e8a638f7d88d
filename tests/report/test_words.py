"""A board speaks of what it is ranked by: here a squared error, as an outside task has it, and a loss in nats."""

from __future__ import annotations

import io
import json
import math
import re

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.registration.registry import registry
from dstbench.report.boards import BOARDS
from dstbench.report.compare import compare
from dstbench.report.comparison_text import render_comparison
from dstbench.report.formats import FORMATS, board_text
from dstbench.report.highlights import cards
from dstbench.report.index import write_index
from dstbench.report.latex import to_latex
from dstbench.report.leaderboards import in_order, leaderboards, summarise
from dstbench.report.page import write_leaderboards
from dstbench.report.picture import render_picture
from dstbench.report.text import render_text
from dstbench.report.values import significant
from dstbench.results.ranking import TOP1, Ranking
from dstbench.results.table import load_results, read
from fakes.factorial import LEVELS, make_factorial
from fakes.records import make_record, measures_of, write

ERROR = {"key": "squared_error", "title": "squared error", "better": "lower"}
LOSS = {"key": "loss", "title": "loss (nats per token)", "better": "lower"}
FORBIDDEN = re.compile(
    r"top-?1|accura|\bpp\b|percent points|\d points?\b|more being better|\bimages\b", re.IGNORECASE
)
NAMES = re.compile(
    r"dstbench-accuracy|accuracy\.(csv|md)|data-board=\"accuracy\"|(id|controls|labelledby)=\"(tab-)?accuracy\""
)
WOBBLE = (-0.002, 0.0005, 0.0015)  # of seeds: nothing on the mean


def judged(value, metric, **changes):
    measures = {name: of for name, of in measures_of(0.0, **changes).items() if name != "top1"}
    figures = {metric["key"]: value} | ({"perplexity": math.exp(value)} if metric is LOSS else {})
    return measures | {"task": "own", "metric": metric, "score": value, "metrics": figures}


def error_of(init, structure, prune, grow, seed):
    """Growing by gradient takes 0.06 off, magnitude 0.01, erk adds 0.003; seeds a little, not the same to each."""
    wobble = (1 + (prune == "set") + (init == "erk") + (grow == "random") / 2) * WOBBLE[seed]
    return (
        0.5 + 0.003 * (init == "erk") - 0.06 * (grow == "gradient") - 0.01 * (prune == "magnitude") + wobble
    )


def crossed(metric):
    records = make_factorial(lambda *_: 0.0, dataset="plane")
    for record in records:
        parts = [record["trial"]["recipe"][kind]["name"] for kind in LEVELS]
        record["measures"] = judged(error_of(*parts, record["trial"]["seed"]), metric)
    for seed in range(3):
        dense = judged(0.40 + seed / 1000, metric, density=1.0, flops=1.0)
        records.append(
            make_record("dense", seed, dataset="plane", density=1.0, recipe={"dense": True}, control="dense")
            | {"measures": dense}
        )
    return records


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    return write(tmp_path_factory.mktemp("boards") / "plane" / "results", crossed(ERROR))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write(tmp_path_factory.mktemp("boards") / "text" / "results", crossed(LOSS))


def invoked(*arguments, code=0):
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "160"})
    assert done.exit_code == code, done.output
    return done.stdout


def prose(page):
    """What a page shows, and the texts among its data."""
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    known = json.loads(data)
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return shown, json.dumps([known["cards"], [c["title"] for c in known["boards"]], known["columns"]])


@pytest.mark.parametrize("which", ["errors", "text"])
def test_nothing_of_classification_is_said_of_another_task(which, request, tmp_path):
    results = request.getfixturevalue(which)
    written = write_leaderboards([results], tmp_path)
    files = {file.name: file.read_text() for file in written.files if not file.name.startswith("exploration")}
    page, data = prose(files.pop("index.html"))
    index = write_index(results.parent.parent, registry()).read_text()
    console = Console(width=160, file=io.StringIO())
    console.print(render_text(leaderboards(load_results(results))))
    compared = render_comparison(compare(results, results))
    console.print(compared)
    said = {
        "page": page, "data": data, "index": prose_of_index(index), "terminal": console.file.getvalue(), **files,
        **{name: board_text(read([results]), "accuracy", name) for name in FORMATS if name != "parquet"},
        **{f"{name} {way}": invoked(name, results, "--format", way)
           for name in ("effects", "groups") for way in ("text", "markdown", "json")},
        "methods": invoked("compare", results, "--method", METHOD, "--method", "dense", code=1),
    }  # fmt: skip
    wrong = {name: FORBIDDEN.findall(NAMES.sub("", text)) for name, text in said.items()}
    assert {name: words for name, words in wrong.items() if words} == {}
    name = "squared error" if which == "errors" else "loss"
    heard = [where for where, text in said.items() if name not in text and name.replace(" ", "_") not in text]
    assert [where for where in heard if where.partition(".")[0] not in ("data", "flops", "throughput")] == []
    assert "lower is better" in page
    assert "below 0 is better" in page
    assert f"What is really faster, and at what {name}?" in page
    assert f"<dt>{name}</dt>" in page


METHOD = "erk · unstructured · set · random"


def prose_of_index(page):
    """An index without the documentation of what is installed."""
    shown = re.sub(r"<(style|pre)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r'title="[^"]*"', "", shown)


def test_the_least_error_is_first_everywhere(errors):
    board = leaderboards(load_results(errors))["accuracy"]
    methods = [name for name in board["method"] if name != "dense"]
    assert methods[0] == "uniform · unstructured · magnitude · gradient"
    assert methods[-1] == "erk · unstructured · set · random"
    assert list(board["rank"].dropna()) == sorted(board["rank"].dropna())
    first = board[board["method"] == methods[0]].iloc[0]
    assert first["score"] == pytest.approx(0.43)
    assert first["difference"] == pytest.approx(0.029)
    front = leaderboards(load_results(errors))["flops"].set_index("method")["pareto"]
    assert [name for name, on in front.items() if on] == ["dense", methods[0]]


def test_cards_say_in_which_sense_it_is_worse(errors):
    rows = in_order(summarise(load_results(errors)))["accuracy"].to_dict("records")
    best = next(
        card for card in cards(rows, "small_cnn", "plane") if card.what == "Best sparse squared error"
    )
    assert best.first.value == "0.4300"
    assert "+0.0290 (worse) against dense" in best.first.who


def test_effects_have_the_sign_of_the_metric(errors):
    [found] = json.loads(invoked("effects", errors, "--format", "json"))
    assert (found["metric"], found["better"]) == ("squared error", "lower")
    main = {tuple(effect["levels"]): effect for effect in found["main"]["effects"]}
    gradient = main["gradient",]
    assert gradient["mean"] == pytest.approx(-0.03)  # half of 0.06 below the mean: an improvement
    assert gradient["low"] < gradient["mean"] < gradient["high"] < 0
    [better] = [e for e in found["differences"]["effects"] if e["levels"] == ["gradient", "random"]]
    assert better["mean"] == pytest.approx(-0.06)
    text = invoked("effects", errors)
    assert "gradient is better than random by 0.0600" in text
    assert re.search(r"grow gradient +−0\.0300", text)
    assert re.search(r"grow random +\+0\.0300", text)
    assert "below 0 is better" in text


def test_groups_have_the_sign_of_the_metric(errors):
    baseline = "erk · unstructured · magnitude · random"
    [found] = json.loads(invoked("groups", errors, "--format", "json", "--baseline", baseline))
    against = {row["name"]: row for row in found["against"]}
    row = against["erk · unstructured · magnitude · gradient"]
    assert row["difference"] == pytest.approx(-0.06)
    assert found["methods"][0]["squared_error" if "squared_error" in found["methods"][0] else "score"] < 0.44
    best = found["methods"][0]["name"]
    pair = next(p for p in found["pairs"] if (p["method"], p["against"]) == (best, METHOD))
    assert pair["difference"] < 0
    text = invoked("groups", errors, "--baseline", METHOD)
    assert re.search(r"erk · unstructured · magnitude · gradient\s+3\s+−0\.0700", text)


def test_bold_and_arrows_in_latex(errors):
    [accuracy] = (board for board in BOARDS if board.name == "accuracy")
    lines = to_latex(load_results(errors), accuracy).splitlines()
    assert r"squared error $\downarrow$" in next(line for line in lines if line.startswith("method"))
    bold = [line.split(" & ")[0] for line in lines if r"\textbf" in line]
    assert "uniform · unstructured · magnitude · gradient".replace("·", r"$\cdot$") in bold
    assert METHOD.replace("·", r"$\cdot$") not in bold
    assert any(r"$\Delta$ dense: below 0 is better." in line for line in lines)


def test_machines_find_it_under_its_name(errors, text, tmp_path):
    for results, name in ((errors, "squared_error"), (text, "loss")):
        csv = pd.read_csv(io.StringIO(board_text(read([results]), "accuracy", "csv")))
        listed = json.loads(board_text(read([results]), "accuracy", "json"))
        expected = leaderboards(load_results(results))["accuracy"]["score"]
        assert list(csv[name]) == pytest.approx(list(expected), rel=1e-5)
        assert [row[name] for row in listed] == pytest.approx(list(expected), abs=1e-6)
        assert {f"{name}_low", f"{name}_high", "metric", "better"} <= set(csv.columns)
        assert not {"score", "top1"} & set(csv.columns)
        assert csv.columns.is_unique


def test_perplexity_is_a_loss_in_other_words(text, tmp_path, put, make):
    rows = leaderboards(load_results(text))["accuracy"].to_dict("records")
    for row in rows:
        for end in ("", "_low", "_high"):
            assert row[f"perplexity{end}"] == pytest.approx(math.exp(row[f"score{end}"]), rel=1e-12)
    ranked = {"key": "perplexity", "title": "perplexity", "better": "lower"}
    values = (4.0, 9.0, 6.0)
    records = [make(seed=s, measures=judged(value, ranked)) for s, value in enumerate(values)]
    [row] = leaderboards(load_results(put(tmp_path, records)))["accuracy"].to_dict("records")
    assert row["score"] == pytest.approx(6.0)  # the cube root of 216
    assert row["score_low"] * row["score_high"] == pytest.approx(36.0)


@pytest.mark.parametrize(
    ("title", "name", "unit", "differences"),
    [
        ("top-1 %", "top-1", "%", "percent points"),
        ("mIoU (%)", "mIoU", "%", "percent points"),
        ("loss (nats per token)", "loss", "nats per token", "nats per token"),
        ("squared error", "squared error", "", "squared error"),
        ("F1 (macro) of words", "F1 (macro) of words", "", "F1 (macro) of words"),
        ("%", "%", "", "%"),
    ],
)
def test_a_title_is_a_name_and_a_unit(title, name, unit, differences):
    metric = Ranking("own", title, "higher")
    assert (metric.name, metric.unit, metric.unit_of_differences) == (name, unit, differences)
    assert TOP1.word == "accuracy"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.88031, 4, "1.880"), (0.000021, 3, "0.0000210"), (2.1e-7, 3, "2.10e-7"), (12345.6, 4, "12346"),
        (-0.0132, 3, "−0.0132"), (0.0, 4, "0.000"), (3e20, 2, "3.0e+20"),
    ],
)  # fmt: skip
def test_digits_follow_the_size(value, digits, text):
    assert significant(value, digits) == text


def test_a_percentage_of_another_task_is_in_points(tmp_path, put, make):
    metric = {"key": "miou", "title": "mIoU %", "better": "higher"}
    records = [make(seed=s, measures=judged(71.0 + s, metric)) for s in range(3)]
    folder = put(tmp_path / "results", records)
    write_leaderboards([folder], tmp_path / "out")
    assert "72.00 [69.52, 74.48]" in (tmp_path / "out" / "accuracy.md").read_text()
    assert "mIoU %, test" in render_picture(leaderboards(load_results(folder)))
    other = put(tmp_path / "other", [make(seed=0, measures=judged(70.5, metric))])
    table = compare(folder, other)  # half a point is within one
    assert table.loc[0, "basis"].startswith("tolerance of 1 point: 1 seed,")
    assert table.loc[0, "verdict"] == "can't tell"
