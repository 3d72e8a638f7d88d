"""What a record says held against itself: its key, its name, its sums and ratios, and the curve beside it."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from dstbench.errors import BadInput
from dstbench.hookspecs import PARTS, STRATEGIES
from dstbench.recipe import Recipe, named, parts_of
from dstbench.registration.choice import Choice
from dstbench.registration.registry import Registry
from dstbench.results.labels import spec_text
from dstbench.results.printable import shown
from dstbench.results.ranking import TOP1, ranking_of
from dstbench.results.record import Record
from dstbench.results.tuning import TUNED, tuning_of
from dstbench.results.verdicts import Finding
from dstbench.runner.matrix.key import digest, trial_key
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.submission.judging import EXACT, differences
from dstbench.runner.submission.plausibility import implausible, instant
from dstbench.runner.trial.provenance import components

ROUNDED = 1.01e-5
"""Trajectories are recorded to five decimals."""
_SAID = re.compile(r"(\w+)=([^,()]+)(\((?:[^()]|\([^()]*\))*\))?(?:, |$)")
"""A parameter in a label: its name, its value, and that value's own parameters."""
_ON_THE_CURVE = ("r_s", "never_dropped", "bottom_previous")


def contradictions(
    record: Record,
    trial: TrialSpec,
    curve: Sequence[Mapping[str, Any]],
    registry: Registry,
    per_input: int | None,
) -> Iterator[Finding]:
    """Everything in a finished trial's record that can't be, from the record and its curve alone; per_input: see
    ``implausible``."""
    for check in (_identity, _name, _ending, _tuned, _sums):
        yield from (Finding("record", *fault) for fault in check(record, trial, registry))
    yield from (Finding("record", *fault) for fault in _trajectory(record["measures"]))
    yield from (Finding("record", *fault) for fault in implausible(record, trial, curve, per_input))
    yield from (Finding("curve", *fault) for fault in _along(record["measures"], curve, trial.recipe.narrow))


Found = tuple[str, str, str]  # field, what it should be, what it is


def _identity(record: Record, trial: TrialSpec, registry: Registry) -> Iterator[Found]:
    """The key is that of the trial with the components that are installed here, and nothing else is in the trial."""
    plain = digest(record["trial"])
    if plain != digest(trial.to_json()):
        yield "trial", f"{shown(trial.to_json())} and nothing else", shown(record["trial"])
    said, here = record["provenance"].get("components"), components(trial, registry)
    if not isinstance(said, Mapping):
        yield "provenance.components", "the versions of the trial's components", shown(said)
        return
    for kind, part in here.items():
        for name in ("name", "version"):
            there = said[kind].get(name) if isinstance(said.get(kind), Mapping) else None
            if there != part[name]:
                yield f"provenance.components.{kind}.{name}", f"{part[name]} (installed here)", shown(there)
    if (key := trial_key(trial, registry.choose)) != record["key"]:
        yield "key", f"{key}, of the trial and its components' versions", record["key"]


def _name(record: Record, trial: TrialSpec, registry: Registry) -> Iterator[Found]:
    """The label is one that this method has, and the control the one that the label is."""
    label, recipe = record["label"], trial.recipe
    whole = [spec_text(getattr(recipe, kind)) for kind in STRATEGIES]
    said = [spec_text(recipe.values)] if "values" in parts_of(recipe) else []
    labels = (" · ".join([*whole, *said]), " · ".join([*whole[:-1], *said]))
    if not recipe.dense and not recipe.narrow and label in labels:
        if record["control"] is not None:
            yield "control", "none: it is a method", shown(record["control"])
        return
    bare = label.partition("(")[0]
    try:
        choice = registry.choose("recipe", bare)
        built, control = _built(choice, label, registry), choice.component.metadata.get("control")
    except BadInput:
        yield "label", f"a recipe's name, or {' · '.join(whole)!r}", shown(label)
        return
    if not _is_of(recipe, built, label, registry):
        yield "label", "the name of a recipe with the trial's components", shown(label)
    elif record["control"] not in (control, None if "(" in label else control):
        yield "control", shown(control), shown(record["control"])


def _built(choice: Choice, label: str, registry: Registry) -> Recipe:
    """The recipe that a label names, with the parameters that it says: these may choose other components."""
    said = _SAID.findall(label.partition("(")[2].removesuffix(")"))
    plain = {name: _value(text) for name, text, more in said if not more}
    try:
        built: Recipe = registry.build("recipe", {"name": choice.component.name, **plain})
    except BadInput:  # what the label shortens, such as a list
        built = choice.make()
    return built


def _value(text: str) -> Any:
    """What ``value_text`` wrote: a number, a truth value, None, or else a name."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _is_of(recipe: Recipe, built: Recipe, label: str, registry: Registry) -> bool:
    """Whether a trial's recipe is the one of its label; what the label says in brackets may be another piece."""
    if (recipe.dense, recipe.narrow and not recipe.dense) != (built.dense, built.narrow and not built.dense):
        return False
    return built.dense or all(
        registry.normalise(kind, getattr(built, kind))["name"] == named(getattr(recipe, kind))["name"]
        or f"{kind}={named(getattr(recipe, kind))['name']}" in label
        for kind in PARTS
    )


def _ending(record: Record, trial: TrialSpec, registry: Registry) -> Iterator[Found]:
    """A finished trial failed nowhere, and its length is what was asked for."""
    if record["status"] != "ok":
        yield "status", "ok: only finished trials can be verified", record["status"]
    for name in ("reason", "phase", "traceback"):
        if record[name] is not None:
            yield name, "none of a finished trial", shown(record[name])
    measures, provenance = record["measures"], record["provenance"]
    density = 1.0 if trial.recipe.dense else trial.density
    for name, expected in (("density_requested", density), ("epochs", trial.training.epochs)):
        if measures.get(name) is not None and measures[name] != expected:
            yield f"measures.{name}", shown(expected), shown(measures[name])
    ranking = ranking_of(measures)
    score = "top1" if ranking is TOP1 else "score"
    if trial.tunes:
        yield from _unseen(measures, f"{score}_validation")
    elif measures.get(score) is None:
        yield f"measures.{score}", "the metric on the test split", "none"
    elif ranking is not TOP1 and (measures.get("metrics") or {}).get(ranking.key) != measures["score"]:
        told = (measures.get("metrics") or {}).get(ranking.key)
        yield f"measures.metrics.{ranking.key}", shown(measures["score"]), shown(told)
    started, finished = (instant(provenance.get(name)) for name in ("started", "finished"))
    if started and finished and finished < started:
        yield "provenance.finished", "after it started", shown(provenance["finished"])


def _unseen(measures: Mapping[str, Any], validation: str) -> Iterator[Found]:
    """A trial that chooses settings has the metric on the validation split, and no figure of test data."""
    if measures.get(validation) is None:
        yield f"measures.{validation}", "the metric on the validation split", "none"
    for name in ("top1", "loss", "score", "metrics"):
        if measures.get(name) is not None:
            yield f"measures.{name}", "none: it was there to choose settings by", shown(measures[name])


def _tuned(record: Record, trial: TrialSpec, registry: Registry) -> Iterator[Found]:
    """What a record says of how its settings were chosen agrees with itself and with the trial."""
    said = record["provenance"].get(TUNED)
    if said is None:
        return
    tuning = tuning_of(record)
    if tuning is None:
        yield f"provenance.{TUNED}", "candidates with their settings and scores", shown(said)
        return
    settings, chosen = tuning.candidates[tuning.mine].settings, tuning.to_json()["chosen"]
    ours = {name: trial.training.model_dump(mode="json").get(name) for name in settings}
    if digest(ours) != digest(settings):
        yield f"provenance.{TUNED}.settings", shown(ours), shown(dict(settings))
    if said.get("chosen") != chosen:
        yield f"provenance.{TUNED}.chosen", shown(chosen), shown(said.get("chosen"))


def _sums(record: Record, trial: TrialSpec, registry: Registry) -> Iterator[Found]:
    """Totals are the sums of their parts, ratios the quotients of theirs."""
    measures = record["measures"]
    for ratio, over, under in (
        ("inference_flops_ratio", "inference_flops", "dense_inference_flops"),
        ("training_flops_ratio", "training_flops", "dense_training_flops"),
    ):
        if None not in (measures.get(ratio), measures.get(over)) and measures.get(under):
            yield from _close(f"measures.{ratio}", measures[over] / measures[under], measures[ratio])
    for name, value in (
        (measures.get("flops_by_convention") or {}).get(measures.get("convention")) or {}
    ).items():
        yield from _close(
            f"measures.flops_by_convention.{measures['convention']}.{name}", measures.get(name), value
        )
    layers = measures.get("layers") or []
    size = sum(prod(layer["shape"]) for layer in layers)
    if layers and not trial.recipe.dense and not trial.recipe.narrow:
        held = sum(layer.get("allocation") or 0 for layer in layers)
        if all(layer.get("allocation") is not None for layer in layers):
            yield from _close("measures.layers: sum of allocation", round(trial.density * size), held)
        if all(layer.get("r_s") is not None for layer in layers):
            explored = sum(layer["r_s"] * prod(layer["shape"]) for layer in layers) / size
            yield from _close("measures.r_s", explored, measures.get("r_s"))
            for place, layer in enumerate(layers):
                if layer["r_s"] * prod(layer["shape"]) < layer["active"] - 0.5:
                    yield f"measures.layers.{place}.r_s", "at least its density", shown(layer["r_s"])
        removed = sum(layer.get("removed") or 0 for layer in layers)
        yield from _close("measures.channels_removed", removed, measures.get("channels_removed"))
    if measures.get("updates") == 0 and (measures.get("changed") or measures.get("churn")):
        yield "measures.changed", "0 without an update", shown(measures.get("changed"))


def _close(name: str, expected: Any, got: Any) -> Iterator[Found]:
    if (
        got is not None
        and expected is not None
        and not math.isclose(expected, got, rel_tol=1e-9, abs_tol=1e-12)
    ):
        yield name, shown(expected), shown(got)


def _trajectory(measures: Mapping[str, Any]) -> Iterator[Found]:
    """The figures at the end are the last of the trajectory."""
    exploration = measures.get("exploration") or {}
    last = {name: values[-1] for name, values in exploration.items() if values}
    ends = {
        **(measures.get("channels") or {}),
        **{n: measures.get(n) for n in ("r_s", "never_dropped", "epochs")},
    }
    for name, value in ends.items():
        there = last.get("epoch" if name == "epochs" else name)
        if None not in (value, there) and abs(value - there) > ROUNDED:
            yield f"measures.exploration.{name}: last", shown(value), shown(there)
    final = exploration.get("bottom_final") or []
    if final and final[-1] not in (1.0, None):
        yield "measures.exploration.bottom_final: last", "1.0", shown(final[-1])
    epochs = exploration.get("epoch") or []
    early = next((i for i, epoch in enumerate(epochs) if epoch >= 0.25 * epochs[-1]), None)
    if early is not None and early < len(final) - 1:
        yield from _close("measures.bottom_early", final[early], measures.get("bottom_early"))


def _along(measures: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], narrow: bool) -> Iterator[Found]:
    """The curve beside the record tells the same."""
    if not curve:
        yield "curve.jsonl", "a line for each epoch", "none"
        return
    epochs = measures.get("epochs")
    if epochs is not None and [line["epoch"] for line in curve] != list(range(1, int(epochs) + 1)):
        yield "measures.epochs", f"{len(curve)}, the lines of curve.jsonl", shown(epochs)
    last = {name: name for name in ("top1_validation", "score_validation")} | {"steps": "step"}
    last |= (
        {} if narrow else {"density": "density"}
    )  # a narrower network's curve says nothing of the full one
    for name, there in last.items():
        if curve[-1].get(there) is not None:
            yield from _close(f"measures.{name}", curve[-1][there], measures.get(name))
    told, said = curve[-1].get("seconds"), measures.get("seconds")
    # older curves tell whole milliseconds
    if isinstance(told, int | float) and said is not None and told not in (said, round(said, 3)):
        yield "measures.seconds", shown(told), shown(said)
    exploration = measures.get("exploration") or {}
    at = {epoch: place for place, epoch in enumerate(exploration.get("epoch") or ())}
    for line in curve:
        if (place := at.get(line["epoch"])) is None:
            continue
        told = {**{n: line.get(n) for n in _ON_THE_CURVE}, **(line.get("channels") or {})}
        for name, value in told.items():
            there = (exploration.get(name) or [None] * (place + 1))[place]
            if None not in (value, there) and abs(value - there) > ROUNDED:
                yield f"measures.exploration.{name}: epoch {line['epoch']}", shown(value), shown(there)


def curve_findings(
    theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    """Where the curve that was handed in isn't the one that retraining gave, epoch by epoch as far as it went."""
    said = {line["epoch"]: line for line in theirs}
    for line in ours:
        kept = {name: value for name, value in line.items() if name != "seconds"}
        there = said.get(line["epoch"], {})
        for path, one, other in differences(f"curve: epoch {line['epoch']}", kept, there, EXACT):
            yield Finding("replay", path, shown(one), shown(other))
