"""Which of the settings that were tried is chosen, against choices made by hand."""

from __future__ import annotations

import json

import pytest

from dstbench.results.ranking import Ranking
from dstbench.results.record import Rejected, seal
from dstbench.results.tuning import TUNED, Candidate, Tuning, tuning_from, tuning_of
from fakes.records import make_record


def rates(*scores, better="higher", failed=()):
    """Candidates of three rates in the order of ties: the middle one, the smaller, the larger."""
    known = zip((0.03, 0.01, 0.1), scores, strict=True)
    candidates = [
        Candidate({"lr": lr}, score, 1, ("diverged: nan",) * (lr in failed or score is None))
        for lr, score in known
    ]
    return Tuning(tuple(candidates), better)


@pytest.mark.parametrize(
    ("scores", "better", "chosen"),
    [
        ((90.0, 80.0, 91.0), "higher", 0.1),
        ((90.0, 80.0, 91.0), "lower", 0.01),
        ((90.0, 90.0, 90.0), "higher", 0.03),  # the middle one
        ((80.0, 90.0, 90.0), "higher", 0.01),  # of two that are as far from it the smaller
        ((80.0, 90.0, 90.0 + 1e-12), "higher", 0.01),  # which the last bits of a sum don't change
        ((None, 10.0, None), "higher", 0.01),  # what diverged is worst
        ((None, 90.0, 10.0), "lower", 0.1),
        ((None, None, None), "higher", None),
    ],
)
def test_the_best_on_validation_is_chosen_and_ties_go_to_the_middle_then_down(scores, better, chosen):
    tuning = rates(*scores, better=better)
    assert (None if chosen is None else tuning.candidates[tuning.chosen].settings["lr"]) == chosen


def test_a_candidate_of_which_a_seed_failed_comes_after_those_of_which_fewer_did():
    assert rates(99.0, 50.0, 60.0, failed=(0.03,)).chosen == 2
    assert rates(99.0, None, 60.0, failed=(0.03, 0.1)).chosen == 0


@pytest.mark.parametrize(
    ("settings", "chosen", "edge"),
    [
        ([{"lr": 0.03}, {"lr": 0.01}, {"lr": 0.1}], 0, ()),
        ([{"lr": 0.03}, {"lr": 0.01}, {"lr": 0.1}], 1, ("lr",)),
        ([{"lr": 0.03}, {"lr": 0.01}, {"lr": 0.1}], 2, ("lr",)),
        ([{"lr": 0.1}], 0, ()),  # no choice, no edge
        ([{"weight_decay": 0}, {"weight_decay": 1e-3}], 0, ()),  # below 0 there is nothing
        ([{"nesterov": True}, {"nesterov": False}], 0, ()),  # nor beside what is no number
        ([{"lr": 1, "decay": "all"}, {"lr": 2, "decay": "all"}], 1, ("lr",)),
    ],
)
def test_the_edge_of_the_grid_is_named(settings, chosen, edge):
    scores = [float(place == chosen) for place in range(len(settings))]
    tuning = Tuning(
        tuple(Candidate(s, score, 1) for s, score in zip(settings, scores, strict=True)), "higher"
    )
    assert tuning.at_edge == edge
    assert ("at the edge of the grid" in tuning.said) == bool(edge)


def test_the_spread_is_that_of_the_candidates_that_finished():
    assert rates(90.0, 80.0, 84.0).spread == 10.0
    assert rates(90.0, None, 84.0).spread == 6.0
    assert rates(90.0, None, None).spread is None


def ok(**measures):
    return {**make_record(), "measures": measures}


def test_records_are_averaged_over_seeds_in_the_direction_of_their_metric():
    loss = {"task": "t", "metric": {"key": "loss", "title": "loss", "better": "lower"}}
    diverged = {**ok(), "status": "diverged", "reason": "the training loss is nan"}
    tuning = tuning_from(
        [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}, {"lr": 0.4}],
        [
            [ok(**loss, score_validation=1.0), ok(**loss, score_validation=2.0)],
            [ok(**loss, score_validation=1.0), diverged],
            [ok(**loss), Rejected("result.json", "is not valid JSON")],
            [ok(**loss, score_validation=1.7), ok(**loss, score_validation=1.2)],
        ],
    )
    assert [one.score for one in tuning.candidates] == [1.5, 1.0, None, 1.45]
    assert [len(one.failed) for one in tuning.candidates] == [0, 1, 2, 0]
    assert tuning.candidates[1].failed == ("diverged: the training loss is nan",)
    assert (tuning.better, tuning.chosen) == ("lower", 3)


def test_a_record_says_its_tuning_and_reads_it_back_whatever_made_it_fail():
    long = Rejected("result.json", "\x1b[2J" + "long " * 5000)
    tuning = tuning_from([{"lr": 0.1}, {"lr": 1}], [[ok(top1_validation=90.0)], [long]], mine=1)
    sealed = seal({**make_record(), "provenance": {TUNED: tuning.to_json()}})
    assert json.loads(json.dumps(sealed))["provenance"][TUNED] == tuning.to_json()
    assert tuning_of(sealed) == tuning
    assert (tuning.is_mine, tuning.said) == (False, "lr=0.1 (at the edge of the grid), in place of this")


@pytest.mark.parametrize(
    "said",
    [
        None, 5, "text", [], {}, {"candidates": 3}, {"candidates": [], "better": "higher", "settings": {}},
        {"candidates": [{"settings": {"lr": [1]}, "score": 1, "trainings": 1, "failed": []}], "better": "higher",
         "settings": {"lr": [1]}},
        {"candidates": [{"settings": {"lr": 1}, "score": "a", "trainings": 1, "failed": []}], "better": "higher",
         "settings": {"lr": 1}},
        {"candidates": [{"settings": {"lr": 1}, "score": 1, "trainings": 1, "failed": []}], "better": "best",
         "settings": {"lr": 1}},
    ],
)  # fmt: skip
def test_what_is_no_tuning_is_none(said):
    assert tuning_of({"provenance": {TUNED: said}}) is None


def test_where_every_training_fails_the_metric_is_still_known():
    metric = {"key": "squared_error", "title": "squared error", "better": "lower"}
    failed = make_record("set", status="diverged", reason="nan", measures={"metric": metric})
    tuning = tuning_from([{"lr": 1.0}], [[failed]])
    assert (tuning.chosen, tuning.better, tuning.metric) == (None, "lower", Ranking(**metric))
