"""Every field of a record, changed and sealed again: which check notices, and which fields none can prove."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter

import pytest

from dstbench.core.training.method import as_recipe
from dstbench.registration.registry import registry
from dstbench.results.curve_file import CURVE
from dstbench.results.record import FILE, checksum, folder_of, read_record, write_record
from dstbench.results.schema import problem
from dstbench.runner.matrix.config import Measure, Training
from dstbench.runner.matrix.key import trial_key
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.submission import evidence
from dstbench.runner.submission.plausibility import implausible
from dstbench.runner.submission.submit import submit
from dstbench.runner.submission.verify import verify
from dstbench.runner.trial.trial import run_trial

RECIPE = {
    "init": {"name": "erk"},
    "structure": {"name": "unstructured"},
    "prune": {"name": "magnitude"},
    "grow": {"name": "gradient"},
    "schedule": {"name": "cosine", "delta_t": 4},
}
PARTS = ("load", "recounted", "evaluated", "replayed", "reproduced")

UNPROVABLE = {
    "measures.peak_memory", "measures.throughput", "provenance.cores", "provenance.cpu", "provenance.gpu",
    "provenance.memory", "provenance.platform", "provenance.timm", "provenance.torchvision", "provenance.accelerate",
}  # fmt: skip
"""What only the machine of the training knew: a change as small as these contradicts nothing else in the record."""


def spec(seed=0, **training):
    settings = Training(**{"epochs": 2, "batch_size": 128, "lr": 0.05, **training})
    recipe = as_recipe(RECIPE)
    return TrialSpec(
        {"name": "small_cnn"}, {"name": "digits"}, 0.1, seed, recipe, settings, Measure(rounds=3)
    )


def text_spec():
    """A trial whose metric is a loss: lower is better, and there is no top-1."""
    gpt, fables = {"name": "gpt", "layers": 1, "heads": 1, "dim": 16}, {"name": "fables", "windows": 128}
    settings = Training(epochs=2, batch_size=16, lr=0.01, optimizer="adamw")
    return TrialSpec(gpt, fables, 0.3, 0, as_recipe(RECIPE), settings, Measure(rounds=3))


TRIALS = {"digits": spec, "text": text_spec}


@pytest.fixture(scope="module", params=["digits"])
def submission(request, tmp_path_factory):
    """The folder of a true submission."""
    root = tmp_path_factory.mktemp("true")
    trial = TRIALS[request.param]()
    record = run_trial(trial, root / "trial", device="cpu", threads=1)
    assert record["status"] == "ok", record["traceback"]
    key = trial_key(trial, registry().choose)
    label = "erk · unstructured · magnitude · gradient"
    samples = {"digits": 128, "text": 16 * 32}[request.param]  # of a batch: images, tokens
    speed = {
        "path": "masked-dense", "images_per_second": 9e4, "dense_images_per_second": 1e5, "ratio": 0.9,
        "latency_median": samples / 9e4,
    }  # fmt: skip
    versions = f"torch {record['provenance']['torch']}, Python {record['provenance']['python']}"
    record["measures"]["throughput"] = {
        "device": "cpu", "contended": False, "rounds": 3, "versions": versions, "train": speed,
        "batch_size": trial.training.batch_size,
    }  # fmt: skip
    folder = folder_of(root, key)
    folder.parent.mkdir()
    (root / "trial").rename(folder)
    write_record({**record, "key": key, "label": label}, folder)
    [submitted] = submit([folder], root / "submissions")
    return submitted.folder


@pytest.fixture(scope="module")
def made(submission):
    """What checkpoint, evaluation and retraining give of the true submission."""
    return {}


@pytest.fixture
def once(made, monkeypatch):
    """It doesn't depend on the record: made once."""
    for name in PARTS:
        monkeypatch.setattr(evidence, name, remembered(made, name, getattr(evidence, name)))


def remembered(made, name, function):
    def instead(*arguments):
        if name not in made:
            made[name] = function(*arguments)
        return made[name]

    return instead


@pytest.fixture
def faked(submission, tmp_path):
    """A function that hands in the submission with another record."""

    def write(record):
        folder = folder_of(tmp_path, record["key"])
        folder.parent.mkdir(exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(submission, folder)
        (folder / FILE).write_text(json.dumps({**record, "checksum": checksum(record)}))
        return folder

    return write


def verdict(folder, **options):
    [verified] = verify(folder, **options)
    return verified


def fields(record):
    """(name, path of keys) of what a record says: its own fields, and those of its three mappings."""
    for name, value in record.items():
        if name in ("trial", "measures", "provenance"):
            yield from ((f"{name}.{inner}", (name, inner)) for inner in value)
        elif name != "checksum":
            yield name, (name,)


def changed(value):
    """Another value of the same kind, as near as a cheat would choose."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.97 if value else 0.03
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    if isinstance(value, dict):
        name = next(name for name in reversed(value) if value[name] not in (None, {}, []))
        return {**value, name: changed(value[name])}
    if isinstance(value, list) and value:
        return [*value[:-1], changed(value[-1])]
    return "x"


def edited(record, path):
    copied = copy.deepcopy(record)
    *above, name = path
    inner = copied
    for step in above:
        inner = inner[step]
    inner[name] = changed(inner[name])
    return copied


def test_a_true_submission_is_replayed_and_reproduced(submission, once):
    assert verdict(submission).verdict.tier == "re-evaluated"
    replayed = verdict(submission, replay=8).verdict
    assert (replayed.tier, replayed.exact, replayed.findings) == ("replayed", True, ())
    whole = verdict(submission, whole=True).verdict
    assert (whole.tier, whole.findings, whole.steps) == ("reproduced elsewhere", (), 18)


def test_each_figure_is_labelled_by_how_it_was_made_again(submission, once):
    how = verdict(submission, replay=8).verdict.how
    labels = {
        name: how.get(f"measures.{name}", "reported")
        for name in ("density", "top1", "course", "r_s", "seconds")
    }
    assert list(labels.values()) == ["recounted", "re-evaluated", "replayed", "reported", "reported"]
    whole = verdict(submission, whole=True).verdict.how
    assert {whole[f"measures.{name}"] for name in ("density", "top1", "r_s")} == {"reproduced"}
    assert "measures.seconds" not in whole


@pytest.mark.parametrize("options", [{"replay": 8}, {"whole": True}], ids=str)
def test_what_several_processes_trained_is_evaluated_and_never_replayed(submission, once, faked, options):
    trial = spec(processes=2)
    named = {"key": trial_key(trial, registry().choose), "trial": trial.to_json()}
    verified = verdict(faked(read_record(submission) | named), **options).verdict
    assert (verified.tier, verified.findings, verified.steps) == ("re-evaluated", (), 0)
    assert {"replayed", "reproduced"}.isdisjoint(verified.how.values())
    assert any(note.startswith("not replayed: it was trained by 2 processes") for note in verified.notes)


@pytest.mark.parametrize("kind", ["grow", "dataset"])
def test_another_component_version_is_noticed(submission, once, faked, kind):
    record = copy.deepcopy(read_record(submission))
    record["provenance"]["components"][kind]["version"] = "0"
    [finding] = verdict(faked(record)).verdict.findings
    assert finding.field == f"provenance.components.{kind}.version"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"seed": 1}, "masks at step 0"),
        ({"lr": 0.06}, "loss at step 2"),
        ({"weight_decay": 1e-3}, "loss at step"),
        ({"batch_size": 64}, "measures"),
    ],
)
def test_a_trial_changed_together_with_its_key_is_noticed(submission, faked, settings, field):
    """A cheat who knows how keys are made: what was trained isn't what is said to have been."""
    trial = spec(**settings)
    key = trial_key(trial, registry().choose)
    record = read_record(submission) | {"key": key, "trial": trial.to_json()}
    verified = verdict(faked(record), replay=4)
    assert verified.verdict.tier == "refused"
    assert any(field in finding.field for finding in verified.verdict.findings)


@pytest.mark.parametrize("submission", TRIALS, indirect=True)
def test_every_changed_field_is_noticed_but_those_that_nobody_can_prove(submission, once, faked):
    """A whole retraining decides; without one, what the trajectory came to can't be proven."""
    assert verdict(submission, whole=True).ok
    record = read_record(submission)
    unnoticed, by_check = set(), Counter()
    names = [name for name, _ in fields(record)]
    for name, path in fields(record):
        fake = edited(record, path)
        if problem(fake) or fake["schema_version"] != 1:
            by_check["schema"] += 1
            continue
        verified = verdict(faked(fake), whole=True)
        if verified.ok:
            assert verified.verdict.how.get(name, "reported") == "reported"
            unnoticed.add(name)
        else:
            found = getattr(verified.verdict, "findings", ())
            by_check[found[0].check if found else "folder"] += 1
    print(f"caught {len(names) - len(unnoticed)} of {len(names)}: {dict(by_check)}")
    assert unnoticed <= UNPROVABLE, by_check
    assert len(names) - len(unnoticed) >= 58


@pytest.mark.parametrize(("told", "right"), [(0.0333517, True), (0.033, True), (0.032, False)])
def test_a_training_of_milliseconds_is_held_to_its_curve_all_the_same(submission, once, faked, told, right):
    """The curve tells what the record does, or, where it is an older one, that in whole milliseconds."""
    record = read_record(submission)
    record["measures"]["seconds"] = 0.0333517
    folder = faked(record)
    lines = [json.loads(line) for line in (folder / CURVE).read_text().splitlines()]
    lines = [{**line, "seconds": told * (at + 1) / len(lines)} for at, line in enumerate(lines)]
    (folder / CURVE).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    fields = [finding.field for finding in verdict(folder).verdict.findings]
    assert fields == ([] if right else ["measures.seconds"])


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("measures", "throughput", "train", "images_per_second"), 4e7, "throughput.train.ratio"),
        (("measures", "throughput", "train", "ratio"), 4.0, "throughput.train.ratio"),
        (("measures", "throughput", "train", "ratio_low"), 0.95, "throughput.train.ratio"),
        (("measures", "throughput", "train", "latency_median"), 1.0, "train.images_per_second"),
        (("measures", "throughput", "rounds"), 50, "throughput.rounds"),
        (("measures", "throughput", "device"), "cuda", "provenance.gpu"),
        (("measures", "peak_memory"), 1000, "measures.peak_memory"),
        (("provenance", "started"), "2999-01-01T00:00:00+00:00", "provenance.started"),
        (("provenance", "python"), "3.99.0", "provenance.python"),
        (("provenance", "commit"), "a good one", "provenance.commit"),
    ],
)
def test_what_can_not_be_proven_must_not_contradict_the_rest(submission, faked, path, value, field):
    record = copy.deepcopy(read_record(submission))
    inner = record
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    if path[1] == "throughput":
        record["measures"]["throughput"] |= {"batch_size": 128}
        if path[-1] == "ratio_low":
            inner["ratio_high"] = 1.0
    found = [name for name, _, _ in implausible(record, spec(), ())]
    assert any(field in name for name in found), found


def test_a_training_faster_than_its_measured_speed_is_noticed(submission):
    record = copy.deepcopy(read_record(submission))
    record["measures"]["throughput"]["train"] |= {"images_per_second": 90.0, "dense_images_per_second": 100.0}
    record["measures"]["seconds"] = 1.0  # 18 steps of 128 images take 25 seconds at 90 a second
    [finding] = [found for found in implausible(record, spec(), ()) if found[0] == "measures.seconds"]
    assert finding[1].startswith("about 25.6")


def test_speeds_timed_beside_other_work_contradict_nothing(submission):
    """As measured on a loaded machine: rounds were stopped on one side and not on the other."""
    record = copy.deepcopy(read_record(submission))
    speeds = record["measures"]["throughput"]
    speeds["train"] |= {"images_per_second": 90.0, "latency_median": 128 / 90, "dense_images_per_second": 4e4}
    record["measures"]["seconds"] = 1.0
    assert len(list(implausible(record, spec(), ()))) == 2
    speeds["contended"] = True
    assert not list(implausible(record, spec(), ()))


def test_figures_that_a_task_or_a_method_has_not_are_noticed(submission, once, faked):
    """A board would rank by a loss that is said of top-1's task, and show a backward density of a method without."""
    record = read_record(submission)
    loss = {
        "score": 1e-3,
        "metrics": {"loss": 1e-3},
        "metric": {"key": "loss", "title": "loss", "better": "lower"},
    }
    for added, field in (
        ({**loss, "task": "language"}, "task"),
        ({"backward_density": 0.01}, "backward_density"),
    ):
        findings = verdict(faked({**record, "measures": record["measures"] | added})).verdict.findings
        assert findings[0].field == f"measures.{field}"


@pytest.mark.parametrize("odd", [{"channels": [1]}, {"r_s": "x"}, {"top1_validation": {"a": 1}}], ids=str)
def test_a_curve_that_is_none_is_a_finding(submission, once, faked, odd):
    folder = faked(read_record(submission))
    lines = [json.loads(line) | odd for line in (folder / "curve.jsonl").read_text().splitlines()]
    (folder / "curve.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert verdict(folder).verdict.findings[0].field == "curve.jsonl"


def test_a_time_without_a_zone_is_one_in_utc(submission, once, faked):
    record = copy.deepcopy(read_record(submission))
    record["provenance"]["started"] = record["provenance"]["started"].removesuffix("+00:00")
    assert verdict(faked(record)).ok
