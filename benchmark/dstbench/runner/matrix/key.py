"""A trial's key: its address among results, on every machine and in every release."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from dstbench.recipe import Spec
from dstbench.registration.choice import Choice
from dstbench.registration.parameters import INSIDE
from dstbench.results.record import canonical
from dstbench.runner.matrix.trial_spec import TrialSpec

Choose = Callable[[str, Spec], Choice]


def trial_key(trial: TrialSpec, choose: Choose) -> str:
    """sha256, hex, of a trial's canonical configuration and its components' own versions. How its speed is
    measured is no part of it, nor where the file is that it starts from.

    choose: ``registry.choose``, or one that remembers what it said.
    """
    choices = {kind: choose(kind, spec) for kind, spec in trial.components.items()}
    components = {kind: _identity(choice.versions) for kind, choice in choices.items()}
    revision = choices["dataset"].component.metadata.get("revision")
    identity = {name: value for name, value in trial.to_json().items() if name != "measure"}
    if trial.start is not None:
        identity["start"] = trial.start.identity
    return digest({"trial": identity, "components": {**components, "dataset_revision": revision}})


def digest(content: Mapping[str, Any]) -> str:
    """sha256, hex, of plain values. Integers and the floats equal to them are one value (density 1 and 1.0, lr 1
    and 1.0)."""
    return hashlib.sha256(canonical(_numbers(content)).encode()).hexdigest()


def _identity(versions: Mapping[str, Any]) -> dict[str, Any]:
    """Without the distribution's version: a release that changes no component keeps every key."""
    kept: dict[str, Any] = {"name": versions["name"], "version": versions["version"]}
    if read := versions.get("accumulators"):
        kept["accumulators"] = {name: _identity(one) for name, one in read.items()}
    return kept | {piece: _identity(versions[piece]) for piece in INSIDE if piece in versions}


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
