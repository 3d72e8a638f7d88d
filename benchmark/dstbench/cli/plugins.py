"""``dstbench plugins``: what is installed, from where, with which parameters; conformance; scaffold."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dstbench.cli.catalogue import datasets, models
from dstbench.cli.tables import print_json, print_rows
from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import KINDS, PARTS
from dstbench.registration.loader import canonical
from dstbench.registration.registry import Component, Registry, registry

if TYPE_CHECKING:
    from dstbench.testing import Problem

__all__ = ["datasets", "models", "plugins_app"]

plugins_app = typer.Typer(help="What is installed, from where, with which parameters.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@plugins_app.command("list")
def list_plugins(
    kind: Annotated[str | None, typer.Option(help=f"Only one of: {', '.join(KINDS)}.")] = None,
    as_json: Json = False,
) -> None:
    """List every registered component, and every disabled plugin with its reason."""
    installed = registry()
    rows = [
        _row(name, component) for shown in _kinds(kind) for name, component in installed[shown].items()
    ] + _disabled(installed)
    if as_json:
        print_json(rows)
        return
    columns = ["kind", "name", "distribution", "version", "summary"]
    print_rows([row for row in rows if row["status"] == "ok"], columns, as_json=False)
    for disabled in installed.disabled:
        typer.echo(f"disabled: {disabled}", err=True)


def _kinds(kind: str | None) -> tuple[str, ...]:
    if kind is not None and kind not in KINDS:
        raise BadInput(f"unknown kind {kind!r}{nearest(kind, KINDS)}")
    return KINDS if kind is None else (kind,)


def _row(name: str, component: Component) -> dict[str, Any]:
    return {
        "name": name,
        "kind": component.kind,
        "distribution": component.distribution,
        "version": component.version,
        "summary": component.summary,
        "distribution_version": component.distribution_version,
        "plugin": component.plugin,
        "status": "ok",
        "reason": None,
    }


def _disabled(installed: Registry) -> list[dict[str, Any]]:
    return [
        {
            "name": disabled.plugin,
            "kind": "plugin",
            "distribution": disabled.distribution,
            "version": None,
            "summary": "",
            "distribution_version": disabled.version,
            "plugin": disabled.plugin,
            "status": "disabled",
            "reason": disabled.reason,
        }
        for disabled in installed.disabled
    ]


@plugins_app.command("show")
def show_component(
    words: Annotated[list[str], typer.Argument(metavar="[KIND] NAME", help="Such as: grow gradient")],
    as_json: Json = False,
) -> None:
    """Show one component: parameters, where it is defined, and what a recipe is made of."""
    installed = registry()
    targets = _pick(installed, words)
    if len(targets) > 1:
        raise BadInput(
            f"{words[0]!r} is registered as {' and '.join(kind for kind, _ in targets)}: say which"
        )
    [(kind, name)] = targets
    details = describe(installed, kind, name)
    if as_json:
        print_json(details)
        return
    parameters = details.pop("parameters")
    parts, text, formula = details.pop("parts", None), details.pop("text"), details.pop("computes")
    details.pop("documentation")  # its first paragraph
    width = max(map(len, details))
    for key, value in details.items():
        if value not in (None, "", {}):
            typer.echo(f"{key.replace('_', ' ').ljust(width)}  {value}")
    typer.echo("")
    if parameters:
        rows = [{**p, "default": "required" if p["required"] else repr(p["default"])} for p in parameters]
        print_rows(rows, ["name", "type", "default"], as_json=False)
    else:
        typer.echo("no parameters")
    for part, spec in (parts or {}).items():
        typer.echo(f"{part}: {spec}")
    for paragraph in _paragraphs(text, formula):
        typer.echo("")
        typer.echo(paragraph)


def _paragraphs(text: str, formula: str) -> list[str]:
    """What a component says of itself, its formula first: as it stands in its source, but for line ends."""
    first = [f"computes: {' '.join(formula.split())}"] if formula else []
    return first + [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def describe(installed: Registry, kind: str, name: str) -> dict[str, Any]:
    """Return all that is known of a component, JSON-ready but for the defaults of unusual parameters."""
    component = installed.resolve(kind, name)
    target = component.load()
    scored = _score(component, target)
    file, line = component.source()
    details = {
        **{key: value for key, value in _row(name, component).items() if key not in ("status", "reason")},
        "full_name": component.full_name,
        "alias_of": _original(installed, component),
        "target": component.target if isinstance(component.target, str) else repr(target),
        "documentation": (getattr(target, "__doc__", None) or "").strip().split("\n\n")[0],
        "text": "\n\n".join(
            filter(None, map(inspect.getdoc, (target, scored)))
        ),  # all: formula, source, departures
        "computes": _formula(scored or target),
        "file": file,
        "line": line,
        "metadata": dict(component.metadata),
        "parameters": [
            {"name": p.name, "type": p.type, "default": p.default, "required": p.required}
            for p in component.parameters()
        ],
    }
    return details | ({"parts": _parts(installed, name)} if kind == "recipe" else {})


def _score(component: Component, target: Any) -> type | None:
    """What a function that makes a policy has it score by, and so what says most of it; None of anything else."""
    if not inspect.isfunction(target) or any(p.required for p in component.parameters()):
        return None
    score = getattr(target(), "score", None)
    return None if score is None else type(score)


def _formula(target: Any) -> str:
    """What a class says of being called, or of folding, and so of what it computes."""
    if not inspect.isclass(target):
        return ""
    calls = (inspect.getattr_static(target, name, None) for name in ("__call__", "fold"))
    own = [call for call in calls if inspect.isfunction(call)]
    return (inspect.getdoc(own[0]) or "") if own else ""


def _original(installed: Registry, component: Component) -> dict[str, Any] | None:
    """The spec that an alias is another name of; None of what isn't one. A target that has no name of its own is
    called by where it is.
    """
    if not component.bound:
        return None
    names = [
        name
        for name, other in installed[component.kind].items()
        if other.target == component.target and not other.bound
    ]
    return {"name": (*names, str(component.target))[0], **component.bound}


def _parts(installed: Registry, name: str) -> dict[str, Any]:
    """Return what a recipe chooses, defaults included; only its flag where it has no masks."""
    recipe = installed.build("recipe", name)
    if recipe.dense or recipe.narrow:
        return {"dense" if recipe.dense else "narrow": True, "multiplier": recipe.multiplier}
    parts: dict[str, Any] = {kind: _in_full(installed, kind, getattr(recipe, kind)) for kind in PARTS}
    return parts | {"dense_layers": list(recipe.dense_layers), "multiplier": recipe.multiplier}


def _in_full(installed: Registry, kind: str, spec: Any) -> dict[str, Any]:
    """Return a component's name with all its parameters; an alias's, where that says some of them."""
    choice = installed.choose(kind, spec)
    defaults = {p.name: p.default for p in choice.component.parameters() if not p.required}
    whole = {"name": choice.normal["name"], **defaults, **choice.normal}
    if choice.component.bound:
        return whole
    own = choice.component
    aliases = [
        (name, other.bound)
        for name, other in installed[kind].items()
        if other.bound and (other.target, other.distribution) == (own.target, own.distribution)
        if other.bound.items() <= whole.items()
    ]
    if not aliases:
        return whole
    name, bound = max(aliases, key=lambda alias: len(alias[1]))
    return {key: value for key, value in {**whole, "name": name}.items() if key not in bound}


def _pick(installed: Registry, words: list[str]) -> list[tuple[str, str]]:
    """(kind, name) of ``KIND NAME``, or of every kind that has NAME. Raises BadInput where none has."""
    if len(words) == 2:
        installed.resolve(*words)
        return [(words[0], words[1])]
    if len(words) > 2:
        raise BadInput(f"expected [KIND] NAME, got {' '.join(words)!r}")
    targets = []
    for kind in KINDS:
        try:
            installed.resolve(kind, words[0])
        except BadInput as error:
            if "ambiguous" in str(error):
                raise
            continue
        targets.append((kind, words[0]))
    if not targets:
        names = {name for kind in KINDS for name in installed[kind]}
        disabled = "".join(f"; disabled: {d}" for d in installed.disabled)
        raise BadInput(f"nothing is registered as {words[0]!r}{nearest(words[0], names)}{disabled}")
    return targets


@plugins_app.command("check")
def check_plugins(
    words: Annotated[list[str] | None, typer.Argument(metavar="[KIND] [NAME]")] = None,
    distribution: Annotated[
        str | None, typer.Option(help="Everything that a distribution registers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance kit on a component, a kind, a distribution or everything. Exits 1 on a problem."""
    from dstbench.testing import check_component, check_loading

    installed = registry()
    if words and distribution:
        raise BadInput("say either a name or --distribution, not both")
    targets = _wanted(installed, words, distribution)
    problems = [] if words else check_loading(installed, distribution)
    if not as_json:
        _report("", problems)
    for kind, name in targets:
        new = check_component(kind, name, installed)
        problems += new
        if not as_json:
            _report(f"{kind} {name}", new)
    if as_json:
        print_json([asdict(problem) for problem in problems])
    if problems:
        raise typer.Exit(1)


def _wanted(installed: Registry, words: list[str] | None, distribution: str | None) -> list[tuple[str, str]]:
    """(kind, name) of what was named: a component, a kind, a distribution or, with nothing, everything."""
    if words and len(words) == 1 and words[0] in KINDS:
        return [(words[0], name) for name in installed[words[0]]]
    if words:
        return _pick(installed, words)
    owners = {c.distribution for kind in KINDS for c in installed[kind].values()}
    owners |= {disabled.distribution for disabled in installed.disabled}
    if distribution is not None and canonical(distribution) not in owners:
        raise BadInput(
            f"--distribution: no plugin comes from {distribution!r}{nearest(distribution, owners)}"
        )
    return [
        (kind, name)
        for kind in KINDS
        for name, component in installed[kind].items()
        if distribution is None or component.distribution == canonical(distribution)
    ]


def _report(title: str, problems: list[Problem]) -> None:
    """Print what was found about one component."""
    if title and not problems:
        typer.echo(f"{title}: ok")
    for problem in problems:
        typer.echo(str(problem))


@plugins_app.command("new")
def new_plugin(
    name: Annotated[str, typer.Argument(help="What the component is to be called, such as: my-score")],
    kind: Annotated[str, typer.Option(help="Its kind.")] = "grow",
    out: Annotated[Path, typer.Option(help="The folder in which the package's folder is made.")] = Path(),
) -> None:
    """Write an installable package with one component, its registration and a conformance test."""
    from dstbench.cli.scaffold import scaffold

    folder = scaffold(kind, name, out)
    typer.echo(f"made {folder}; next:")
    typer.echo(f"  pip install -e {folder} pytest")
    typer.echo(f"  pytest {folder}")
    typer.echo(f"  dstbench plugins show {kind} {name}")
