"""Boards of tuned methods: what was chosen, how much it matters, and that methods are compared as they were tuned."""

from __future__ import annotations

import pytest

from dstbench.report.compare import compare
from dstbench.report.leaderboards import leaderboards
from dstbench.report.methods import compare_methods
from dstbench.report.page import write_leaderboards
from dstbench.report.text import render_text
from dstbench.results.record import seal
from dstbench.results.table import load_results
from dstbench.results.tuning import TUNED, Candidate, Tuning
from fakes.records import make_record, write

RATES = (0.1, 0.01, 0.3)


def tuned(chosen, *, rates=RATES, mine=None, better="higher", low=80.0, **changes):
    """A record whose rate was chosen among some, 10 better than the others; ``changes`` as of ``make_record``."""
    scores = [low + 10 * (rate == chosen) for rate in rates]
    candidates = tuple(Candidate({"lr": rate}, score, 1) for rate, score in zip(rates, scores, strict=True))
    mine = chosen if mine is None else mine
    record = make_record(**changes)
    trial = {**record["trial"], "training": {"epochs": 12, "lr": mine}}
    said = Tuning(candidates, better, rates.index(mine)).to_json()
    return make_record(
        **changes, trial=trial, provenance={**record["provenance"], TUNED: said, "tuning": "three"}
    )


def dense(chosen, seed=0, top1=95.0):
    return tuned(
        chosen, label="dense", seed=seed, top1=top1, density=1.0, recipe={"dense": True}, control="dense"
    )


@pytest.fixture
def results(tmp_path):
    """Two methods and dense, each with a rate of its own, three seeds."""
    records = [dense(0.3, seed, 95.0 + seed) for seed in range(3)]
    records += [tuned(0.1, label="rigl", seed=seed, top1=94.0 + seed) for seed in range(3)]
    records += [tuned(0.01, label="set", seed=seed, top1=92.0 + seed) for seed in range(3)]
    write(tmp_path / "results", records)
    return tmp_path / "results"


def board(results):
    table = leaderboards(load_results(results))["accuracy"]
    return {row["method"]: row for row in table.to_dict("records")}


def test_rows_say_what_was_chosen_and_are_compared_whatever_it_was(results):
    rows = board(results)
    assert {name: row["tuned"] for name, row in rows.items()} == {
        "dense": "lr=0.3 (at the edge of the grid)",
        "rigl": "lr=0.1",
        "set": "lr=0.01 (at the edge of the grid)",
    }
    assert {row["tuning_spread"] for row in rows.values()} == {10.0}
    assert rows["rigl"]["tried"] == "lr=0.01: 80; lr=0.1: 90; lr=0.3: 80"
    assert {row["setting"] for row in rows.values()} == {"epochs=12, lr=tuned"}
    assert (rows["rigl"]["difference"], rows["set"]["difference"]) == pytest.approx((-1.0, -3.0))
    assert (rows["rigl"]["rank"], rows["set"]["rank"], rows["rigl"]["seeds"]) == (1, 2, 3)
    [against] = compare_methods(results, "rigl", "set").to_dict("records")
    assert (against["seeds"], against["difference"]) == (3, pytest.approx(2.0))


def test_boards_where_nothing_was_tuned_have_no_word_of_it(tmp_path):
    write(tmp_path / "results", [make_record("rigl", seed) for seed in range(3)])
    assert not {"tuned", "tuning_spread", "tried"} & set(
        leaderboards(load_results(tmp_path / "results"))["accuracy"]
    )
    write_leaderboards(tmp_path / "results", tmp_path / "boards")
    assert "tuning spread" not in (tmp_path / "boards" / "index.html").read_text()


def test_the_page_draws_each_method_and_names_what_is_at_the_edge(results, tmp_path):
    write_leaderboards(results, tmp_path / "boards")
    page = (tmp_path / "boards" / "index.html").read_text()
    assert '<section class="section card" id="tuning">' in page
    section = page.partition('id="tuning"')[2].partition("</section>")[0]
    assert section.count("<figure>") == 3
    assert section.count('<circle class="chosen"') == 3
    assert "2 of 3 have their best at the edge of the grid" in section
    assert 'aria-label="set at density 0.1: lr=0.01 (at the edge of the grid), spread 10.00"' in section
    markdown = (tmp_path / "boards" / "accuracy.md").read_text()
    assert "| set | small_cnn on digits | 0.1 | lr=0.01 (at the edge of the grid) | 10.00 |" in markdown


def test_the_terminal_marks_the_edge(results):
    from rich.console import Console

    console = Console(width=120, record=True)
    console.print(render_text(leaderboards(load_results(results))))
    text = console.export_text()
    assert "lr=0.01*" in text
    assert "* at the edge of the grid" in text


def test_a_trial_in_whose_place_another_was_chosen_is_a_row_of_its_own(results):
    write(results, [tuned(0.1, mine=0.3, label="rigl", seed=0, top1=99.0)])
    rows = leaderboards(load_results(results))["accuracy"].to_dict("records")
    said = {(row["setting"], row["tuned"]): row["seeds"] for row in rows if row["method"] == "rigl"}
    assert said == {
        ("epochs=12, lr=tuned", "lr=0.1"): 3,
        ("epochs=12, lr=0.3", "lr=0.1, in place of this"): 1,
    }


def test_two_tunings_of_one_method_that_chose_differently_are_told_apart(results):
    others = [tuned(0.03, rates=(0.03, 0.01), label="rigl", seed=seed, top1=80.0) for seed in range(2)]
    write(results, others)
    rows = leaderboards(load_results(results))["accuracy"].to_dict("records")
    said = {row["setting"]: row["seeds"] for row in rows if row["method"] == "rigl"}
    assert said == {
        "epochs=12, lr=tuned, tuned=lr=0.1": 3,
        "epochs=12, lr=tuned, tuned=lr=0.03": 2,
    }


def test_tuned_results_are_compared_with_others_that_chose_something_else(results, tmp_path):
    write(tmp_path / "later", [tuned(0.3, label="rigl", seed=seed, top1=95.0 + seed) for seed in range(3)])
    [row] = (r for r in compare(results, tmp_path / "later").to_dict("records") if r["after"] == r["after"])
    assert (row["method"], row["seeds"], row["difference"]) == ("rigl", 3, pytest.approx(1.0))


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "[x](https://evil.example)", "a|b", "n" * 5000, "\x1b[2J"]
)
def test_what_records_of_others_say_is_text(name, tmp_path):
    hostile = tuned(0.1, label="rigl")
    candidates = hostile["provenance"][TUNED]["candidates"]
    for candidate in candidates:
        candidate["settings"] = {"lr": candidate["settings"]["lr"], name: name}
        candidate["failed"] = [name]
    own = next(one["settings"] for one in candidates if one["settings"]["lr"] == 0.1)
    hostile["provenance"][TUNED] |= {"settings": own, "chosen": own}
    write(tmp_path / "results", [seal(hostile)])
    written = write_leaderboards(tmp_path / "results", tmp_path / "boards")
    assert written.faults == ()
    texts = [
        (tmp_path / "boards" / file).read_text() for file in ("index.html", "accuracy.md", "accuracy.csv")
    ]
    assert "<script>alert" not in texts[0]
    assert "](https://evil" not in texts[1]
    assert all("\x1b" not in text for text in texts)
