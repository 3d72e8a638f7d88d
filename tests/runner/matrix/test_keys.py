"""Keys of finished trials. Results are found by them: one that moves makes someone's hours of training worthless."""

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import Training, load_matrix, suites
from dstbench.runner.matrix.key import trial_key
from dstbench.runner.matrix.plan import plan
from dstbench.runner.matrix.trial_spec import TrialSpec

BOARDS = Path(__file__).parents[3] / "leaderboards"
COMMITTED = {  # some of each board's trials, of all kinds
    "quick": [
        "00e51fb8bc2342edc444c2cd97020a3f375f0103ebc5e492d2b184f6e8ea6a8f",  # static
        "047500ff86eff0bc93439842addd73daf5d5f28fa473779a636bf1e1f9e7a50b",  # erk · channel · magnitude · gradient
        "0e4db6260ac3149f0456abaed9fed1e4d486be8d9818593d4489b86166b1e93e",  # uniform · shuffled_block · mest
        "620260b745b604e499dd1783bfae697a0024a30c140d1cc6515ef469fb82234f",  # uniform · unstructured · mest
        "87f6d93cc64867f398529edb0e6def3a13ac8b63d7658ab877a3f9d9a0a25333",  # small-dense
        "8c3f5cd12e08f8a21a623503c54988b1a6d0da8547fffa5db55d155143cbaf18",  # dense
    ],
    "cifar10-10-epochs": [
        "1adc12297565ff70505cd2b0067818e7fce1d0667edb426c03ef24538ba52aae",  # small-dense
        "9883773b8a846b8420c004631b191efde0d641af1671b0ccc50fc155f442dbb3",  # chase-0.3
        "b81e3292ce51006b3ebc34b7f068bd68ffc7f9605d5fbdf06f837aa8b3a7e886",  # dsb-16
        "ca9ca9882fd495f675e45d666993ac188605397dbbe6d1d63b495424c692479c",  # dense
    ],
    "mnist-lenet300": [
        "0387520a5ca3fd86558f768d8ba6697669211eac2856c9c0a5472d5da0bedb9d",  # small-dense
        "c4e15a77db23f575a07b679d3376e977270e79e1550f711a78d9ab3996acf960",  # static
        "0b190a29dfef84c3a6ba9e62ec7d34b52717aa0ad6d5b16f53ed9acb321fdeb1",  # gmp
        "62dcac24db3aed212cb36bde56a9a7d31f160a9748510f51c2618a38f4db9566",  # set-itop
        "e14b7c07d1cf298ad46c3b5e4b9eef052fb3c1af0773b82b9324d5696aeea76c",  # snfs
        "ca846990b0665745ac448ac5139474b8d1fdc2679cdfaf0d8fd665d5b0cd8175",  # dense
    ],
    "mnist-lenet300-bn": [
        "34fdb05a45fd1d6d4c8589f710b13218a22baac86b96b6ef850f2faf834ce45d",  # dsr
        "935af8cf186da8bb35fcb421980428e5f2877120f904df2ffeae4234ee5c60c5",  # dense
    ],
    "speed": [
        "242b9203ae2a063cd1e4390496906ac6008abb594f5527fb6eea3be1fba7c198",  # dsb-fast
        "83f0dbcaa3a17d1e4e44f3b5a7a87df048a25c15b4cebd0c331d632d967b5475",  # small-dense
        "c91ac556f3472840dc31284aa4df0a49d08ca2ba1c77ea01825e3603dab93210",  # rigl
    ],
}
AS_COMMITTED = {
    "cifar10-10-epochs": ["training.mixed_precision=bf16"],
    "mnist-mlp-99": ["training.storage=condensed"],
}
"""What a board was made with, where its suite asks for something else."""
PINNED = [(suite, key) for suite, keys in COMMITTED.items() for key in keys]
SUITES = {  # the number of trials, and the sha256 of their keys, sorted, a line each
    "cifar10": (333, "35eeffcb678760d70213df5a77381ffd9ab537138b27602efbe20db1a4ee24fd"),
    "cifar10-10-epochs": (8, "9bdf4c154b84696c54843a3c63223eef418ec689102ac732bca92445e8a4988c"),
    "cifar100": (333, "f662020b4ea841783134b1db1b08417f32320dba70b61c68ba6630f8f6e1bb55"),
    "cifar10-factorial": (240, "ebb10152e9b6a25ad41c02bd5e58164e72a7b59b30f91afa12d633dc4f7b745c"),
    "cifar10-vit-10-epochs": (45, "a7dc833314374957e8bd20cdf3d737592a7af0ca920aacd701df3ca4461d5fb7"),
    "mnist-lenet300": (123, "ca6496dc6bd77fb3d6f1657677ba6147eded79d0df0769bc46d532e1c5b63848"),
    "mnist-lenet300-bn": (27, "96f96ac39545879c309ced866214f6474f5ce0efd153c6020de377a8305a0212"),
    "mnist-mlp-99": (15, "1f6ff24106a85b8771d395cd0a04b8778be898e8bafc0d6ad516c58263f1b859"),
    "quick": (80, "1dac2e9ff1a9fe018eb5ab505b6d2ff7d260bd5fcf2ead8eafd526498696081e"),
    "shakespeare-char": (93, "aa9f21cae972d3c463a66ce4d1363ab37f43d79f29481d975030395fb5de1972"),
    "speed": (7, "ab3510e8f3c7e664b9ccdc9c7491ad4c0ff2f24eeb250366ac93148aaf28dec7"),
    "wrn-22-2": (39, "2de63c878a9a07d7d6ca86ef28d28879c6876f1fb13d32a556497b044613a14c"),
}
MATRIX = {  # what no committed trial has: an extended training, a share, a layer kept dense by the matrix
    "schema": 1,
    "name": "keys",
    "axes": {
        "model": {"name": "small_cnn", "width": 2},
        "dataset": "digits",
        "density": 0.1,
        "recipe": [
            {"name": "rigl", "multiplier": 5, "dense_layers": ["@first_conv"]},
            {"name": "dense", "multiplier": 2.5},
            {"name": "small-dense", "multiplier": 2},
            {"name": "rigl", "grow": {"name": "momentum", "share": "global"}},
        ],
    },
    "controls": [],
    "dense_layers": ["conv2"],
    "training": {"epochs": 10, "schedule": "multistep", "milestones": [4, 7]},
    "measure": {"rounds": 3},
}
MATRIX_KEYS = [
    "59a084e3021c8b073c2fdf14a4ab7848f7ae95195bfd829c7a9fbd5bb54791ab",
    "1972b32e4e072c48fee074784c9fc4501c975c7fff581e4cd6aa47e9f7b26814",
    "dbaf2811af8e71a8e21eb6e0abc58adcc56ee9a64ab75d1ac71788e33b2ec2cf",
    "20c6b5c3d267593d4ca9156e28c87e37fb3660622111696290c6c6ecdad4febd",
]


@cache
def planned(suite):
    """Key -> trial of a suite, as its committed board was made."""
    matrix = load_matrix(suite, AS_COMMITTED.get(suite, ()))
    return {trial.key: trial for trial in plan(matrix, registry()).trials}


def record(suite, key):
    return json.loads((BOARDS / suite / "results" / key[:2] / key / "result.json").read_text())


@pytest.mark.parametrize(
    ("suite", "key"),
    PINNED,
    ids=lambda value: value[:17],
)
def test_a_committed_trial_keeps_its_key(suite, key):
    committed = record(suite, key)
    trial = TrialSpec.from_json(committed["trial"])
    assert committed["key"] == trial_key(trial, registry().choose) == key
    assert trial.to_json() == committed["trial"]
    again = planned(suite)[key]
    assert replace(again.trial, measure=trial.measure) == trial  # measured otherwise, it is the same trial
    assert (again.label, again.control) == (committed["label"], committed["control"])


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_keeps_its_keys(suite):
    keys = sorted(planned(suite))
    assert (len(keys), hashlib.sha256("\n".join(keys).encode()).hexdigest()) == SUITES[suite]


def test_no_suite_asks_for_a_precision_that_processors_may_have_to_emulate():
    assert {load_matrix(suite).training.mixed_precision for suite in suites()} == {"no"}


def test_every_committed_trial_is_one_of_its_suite():
    for suite in SUITES:
        committed = [path.parent.name for path in (BOARDS / suite).rglob("result.json")]
        seeds = ["seed=0,1,2,3,4"] if suite == "quick" else []  # its board has more than its suite runs
        matrix = load_matrix(suite, [*AS_COMMITTED.get(suite, ()), *seeds])
        assert set(committed) <= {trial.key for trial in plan(matrix, registry()).trials}
        for key in committed:
            trial = record(suite, key)["trial"]
            assert TrialSpec.from_json(trial).to_json() == trial


def test_extended_trainings_shares_and_dense_layers_keep_their_keys():
    assert [trial.key for trial in plan(load_matrix(MATRIX), registry()).trials] == MATRIX_KEYS


def test_processes_are_part_of_a_trial_where_they_change_it():
    """Sums add up in another order in two processes; norms of a whole batch are those of one process anyway."""
    [alone, *_] = PINNED
    trial = TrialSpec.from_json(record(*alone)["trial"])

    def key(**settings):
        training = Training(**{**trial.training.model_dump(exclude_defaults=True), **settings})
        return trial_key(replace(trial, training=training), registry().choose)

    assert (
        key(processes=1) == key(sync_batch_norm=True) == key(processes=1, sync_batch_norm=False) == alone[1]
    )
    assert len({alone[1], key(processes=2), key(processes=4), key(processes=2, sync_batch_norm=True)}) == 4
    assert key(processes=2, sync_batch_norm=False) == key(processes=2)


@pytest.mark.parametrize(("version", "same"), [("1", True), ("2", False)])
def test_another_version_of_an_accumulator_is_another_trial(version, same):
    """Version 1 adds nothing to a key, so that records from before keep theirs; nor does one that nobody reads."""

    def choose(kind, spec):
        choice = registry().choose(kind, spec)
        return replace(choice, component=replace(choice.component, version=version), _resolve=choose)

    def key(prune, choose):
        components = {"prune": prune}
        return trial_key(replace(trial, recipe=replace(trial.recipe, **components)), choose)

    def only_accumulators(kind, spec):
        choice = choose(kind, spec)
        return choice if kind == "accumulator" else replace(registry().choose(kind, spec), _resolve=choose)

    [alone, *_] = PINNED
    trial = TrialSpec.from_json(record(*alone)["trial"])
    assert (key("wanda", only_accumulators) == key("wanda", registry().choose)) is same
    assert key("magnitude", only_accumulators) == key("magnitude", registry().choose)
