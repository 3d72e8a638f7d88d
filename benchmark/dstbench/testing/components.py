"""Checks of registered components, by name: what a plugin author runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dstbench.api import CLASSIFICATION, DataUnavailable, ImageData, Recipe, Spec, Task, TaskData
from dstbench.core.network.inputs import zero_input
from dstbench.core.network.layers import maskable_layers
from dstbench.errors import BadInput
from dstbench.hookspecs import KINDS, PARTS
from dstbench.registration.loader import canonical
from dstbench.registration.registry import Component, Registry, registry
from dstbench.testing.assigned import check_values
from dstbench.testing.foldings import check_accumulator
from dstbench.testing.moves import movement
from dstbench.testing.problem import Findings, Problem, describe, summarise
from dstbench.testing.schedules import check_schedule
from dstbench.testing.strategies import check_policy, check_share
from dstbench.testing.structures import check_structure

_DEFAULT_INPUT = (3, 32, 32)


def check_component(kind: str, spec: Spec, source: Registry | None = None) -> list[Problem]:
    """Problems of one registered component, by name or ``{"name": ..., parameter: value}``.

    Loads and builds it, checks it in the role of its kind and, for what decides about masks, that they move
    through real topology updates. An empty list means that nothing was found. Raises BadInput only for a
    name that isn't registered.
    """
    source = registry() if source is None else source
    name = spec if isinstance(spec, str) else spec["name"]
    component = source.resolve(kind, name)
    title = f"{kind} {name}"
    broken = summarise(title, _registration(component))
    if component.name.endswith(":") and name.endswith(component.name) and isinstance(spec, str):
        return broken  # a family: nothing to build before somebody names a variant
    try:
        normal = source.normalise(kind, spec)
        built = source.build(kind, normal)
        if source.normalise(kind, normal) != normal:
            broken.append(Problem(title, "identity", f"normalising {normal!r} again changes it"))
        return broken + _ROLES[kind](title, built, component, source)
    except BadInput as error:
        return [*broken, Problem(title, "builds", str(error))]
    except SystemExit as error:  # else one component would end the check of all others
        return [*broken, Problem(title, "runs", f"{describe(error)}: it must not end the process")]


def problems(
    distribution: str | None = None, kind: str | None = None, source: Registry | None = None
) -> list[Problem]:
    """Problems of every registered component, or of one distribution's or kind's, and of disabled plugins."""
    source = registry() if source is None else source
    broken = [] if kind else check_loading(source, distribution)
    for wanted in [kind] if kind else KINDS:
        for name, component in source[wanted].items():
            if distribution is None or component.distribution == canonical(distribution):
                broken += check_component(wanted, name, source)
    return broken


def check_loading(source: Registry | None = None, distribution: str | None = None) -> list[Problem]:
    """A Problem for every disabled plugin, or for those of one distribution."""
    source = registry() if source is None else source
    return [
        Problem(f"plugin {d.plugin} of {d.distribution} {d.version}", "loads", d.reason)
        for d in source.disabled
        if distribution is None or d.distribution == canonical(distribution)
    ]


def _registration(component: Component) -> Findings:
    if not component.summary:
        yield "summary", "has no summary: listings show one line about each component"
    try:
        parameters = component.parameters()
    except BadInput as error:
        yield "loads", str(error)
        return
    for parameter in parameters:
        if parameter.type == "any":
            yield "parameters", f"parameter {parameter.name!r} has no type hint, so no value of it is checked"


def _policy(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    init = component.kind == "init"
    broken = check_policy(built, title, signals=not init)
    return broken or summarise(title, movement(**{component.kind: built}))


def _share(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    from dstbench.api import Policy

    broken = check_share(built, title)
    return broken or summarise(title, movement(grow=Policy(share=built)))


def _accumulator(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    return check_accumulator(built, title)


def _structure(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    broken = check_structure(built, title)
    return broken or summarise(title, movement(structure=built))


def _schedule(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    return check_schedule(built, title)


def _values(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    return check_values(built, title)


def _recipe(title: str, built: Recipe, component: Component, source: Registry) -> list[Problem]:
    """Every part must be registered with these parameters."""
    broken = []
    for kind in PARTS:
        try:
            source.normalise(kind, getattr(built, kind))
        except BadInput as error:
            broken.append(Problem(title, kind, str(error)))
    return broken


def _model(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    return summarise(title, _model_findings(built, component))


def _model_findings(factory: Callable[..., Any], component: Component) -> Findings:
    shape = tuple(component.metadata.get("input_shape", _DEFAULT_INPUT))
    sizes = {}
    for classes in (10, 7):
        try:
            with torch.random.fork_rng(devices=[]):
                model = factory(num_classes=classes, input_shape=shape)
                x = zero_input(model, shape)
                output = model(x.expand(2, *shape))
        except Exception as error:
            yield "runs", f"{classes} classes, input {list(shape)}: {describe(error)}"
            continue
        images = x.is_floating_point()
        expected, samples = ([2, classes], "images") if images else ([2, *shape, classes], "texts")
        maps = [2, classes, *shape[1:]] if images else expected  # a class of each pixel
        if list(output.shape) not in (expected, maps):
            yield "output", f"expected {expected} for two {samples}, got {list(output.shape)}"
        if not maskable_layers(model):
            yield "maskable", "has no convolution or linear layer"
        sizes[classes] = sum(p.numel() for p in model.parameters())
    if 10 not in sizes or "width" not in {p.name for p in component.parameters()}:
        return
    narrow = factory(num_classes=10, input_shape=shape, width=0.5)
    if sum(p.numel() for p in narrow.parameters()) >= sizes[10]:
        yield "width", "width=0.5 doesn't make it smaller: the small-dense control needs that"


def _dataset(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    return summarise(title, _dataset_findings(built, component.metadata))


def _dataset_findings(factory: Callable[..., Any], metadata: Mapping[str, Any]) -> Findings:
    for key in ("revision", "input_shape", "num_classes"):
        if key not in metadata:
            yield "metadata", f"isn't registered with {key!r}, which a plan needs before there is any data"
    try:
        data = factory(None, False)
    except DataUnavailable:
        return  # nothing to look at on this machine
    except Exception as error:
        yield "runs", describe(error)
        return
    if isinstance(data, ImageData):
        yield from _image_findings(data, metadata)
    elif isinstance(data, TaskData):
        yield from _task_findings(data, metadata, getattr(factory, "task", CLASSIFICATION))
    else:
        yield "type", f"expected TaskData or ImageData, got {type(data).__name__}"


def _misdeclared(
    data: TaskData | ImageData, metadata: Mapping[str, Any], sizes: Mapping[str, int]
) -> Findings:
    """What a data set is registered with that it isn't."""
    for key, actual in {"input_shape": data.input_shape, "num_classes": data.num_classes, **sizes}.items():
        declared = metadata.get(key, actual)
        if (tuple(declared) if isinstance(declared, list) else declared) != actual:
            yield "metadata", f"registered with {key} {declared}, but it is {actual}"


def _task_findings(data: TaskData, metadata: Mapping[str, Any], task: Task) -> Findings:
    entries = {"train_images": data.train.entries}
    yield from _misdeclared(data, metadata, entries)
    for name in ("train", "test"):
        split = getattr(data, name)
        counted = sum(task.count(split.take(batch)[1]) for batch in split.passes(64))
        if not len(split):
            yield "splits", f"{name} is empty"
        elif counted != len(split):
            yield (
                "splits",
                f"an evaluation of {name} counts {counted} {task.samples} of {len(split)}: its length is to be what "
                "the task's `count` counts (`Examples(inputs, targets, count)`)",
            )


def _image_findings(data: ImageData, metadata: Mapping[str, Any]) -> Findings:
    sizes = {f"{split}_images": len(getattr(data, split)) for split in ("train", "validation", "test")}
    yield from _misdeclared(data, metadata, sizes)
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        if not len(split):
            yield "splits", f"{name} is empty"
        elif not 0 <= int(split.labels.min()) <= int(split.labels.max()) < data.num_classes:
            yield "labels", f"{name} has labels outside 0 to {data.num_classes - 1}"
    channels = data.input_shape[0]
    if not len(data.mean) == len(data.std) == channels or not all(
        math.isfinite(s) and s > 0 for s in data.std
    ):
        yield (
            "normalisation",
            f"expected mean and std > 0 for {channels} channels, got {data.mean}, {data.std}",
        )


def _executor(title: str, built: Any, component: Component, source: Registry) -> list[Problem]:
    return []  # that it can be called was checked when it was built


_ROLES: dict[str, Callable[[str, Any, Component, Registry], list[Problem]]] = {
    **dict.fromkeys(("init", "prune", "grow"), _policy),
    "share": _share,
    "accumulator": _accumulator,
    "structure": _structure,
    "schedule": _schedule,
    "values": _values,
    "recipe": _recipe,
    "model": _model,
    "dataset": _dataset,
    "executor": _executor,
}
