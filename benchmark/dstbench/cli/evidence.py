"""``effects`` and ``groups``: what results say of choices, and of the differences between methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dstbench.cli.report import Folders, name_rejected, to_terminal
from dstbench.errors import BadInput, nearest

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dstbench.results.table import LoadedResults

FORMATS = ("text", "markdown", "json")
Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="text, markdown or json.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        "-w",
        metavar="AXIS=VALUE",
        help="Only trials with it: structure=unstructured, seed=0,1, density=0.1, method=rigl; repeatable.",
    ),
]


def effects(folders: Folders, where: Where = None, output: Format = "text") -> None:
    """Which choice matters: main effects and interactions of init, structure, prune, grow, schedule."""
    from dstbench.report.evidence.as_json import effects_json
    from dstbench.report.evidence.effects import effects_of
    from dstbench.report.evidence.experiment import experiments
    from dstbench.report.evidence.show import NO_EXPERIMENT, effects_markdown, render_effects
    from dstbench.report.evidence.tried import tried_methods
    from dstbench.report.isolation import isolated
    from dstbench.results.table import frame

    _known(output)
    made, loaded = isolated(
        _read(folders, where or ()),
        lambda loaded: effects_of(experiments(tried_methods(frame(loaded.records)))),
    )
    _print(output, render_effects(made), effects_markdown(made) or f"{NO_EXPERIMENT}\n", effects_json(made))
    name_rejected(map(str, loaded.rejected), loaded.faults)


def groups(
    folders: Folders,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Every method minus this one, paired by seed; also a control."),
    ] = None,
    test: Annotated[str, typer.Option(metavar="NAME", help="Of every two methods: t or wilcoxon.")] = "t",
    difference: Annotated[
        float,
        typer.Option(
            metavar="POINTS",
            help="The number of seeds needed is for this: points of a metric in per cent, percent of another.",
        ),
    ] = 0.5,
    where: Where = None,
    output: Format = "text",
) -> None:
    """Which methods differ: Friedman's test, every two with Holm's correction, and how many seeds it would take."""
    from dstbench.report.evidence.as_json import groups_json
    from dstbench.report.evidence.groups import against_each, groups_of
    from dstbench.report.evidence.show import NO_GROUPS, groups_markdown, render_groups
    from dstbench.report.evidence.tried import tried_methods
    from dstbench.report.isolation import isolated
    from dstbench.results.table import frame

    _known(output)
    comparisons, loaded = isolated(
        _read(folders, where or ()),
        lambda loaded: groups_of(tried_methods(frame(loaded.records), by_name=True), test, difference),
    )
    rows = against_each(comparisons, baseline)
    markdown = groups_markdown(comparisons, rows, baseline) or f"{NO_GROUPS}\n"
    _print(
        output, render_groups(comparisons, rows, baseline), markdown, groups_json(comparisons, rows, baseline)
    )
    name_rejected(map(str, loaded.rejected), loaded.faults)


def _read(folders: Sequence[Path], conditions: Sequence[str]) -> LoadedResults:
    """What is there and meets all conditions."""
    from dstbench.report.evidence.narrow import narrowed
    from dstbench.report.isolation import isolated
    from dstbench.results.table import frame, read

    loaded = read(folders)
    if not conditions:
        return loaded
    trials, loaded = isolated(loaded, lambda loaded: frame(loaded.records))
    kept = set(narrowed(trials, conditions).index)
    return replace(loaded, records=tuple(one for one in loaded.records if one["key"] in kept))


def _known(output: str) -> None:
    if output not in FORMATS:
        raise BadInput(
            f"--format: expected one of {', '.join(FORMATS)}, got {output!r}{nearest(output, FORMATS)}"
        )


def _print(output: str, text: RenderableType, markdown: str, content: Any) -> None:
    if output == "text":
        to_terminal(text)
    else:
        typer.echo(
            markdown.rstrip() if output == "markdown" else json.dumps(content, indent=1, ensure_ascii=False)
        )
