"""``results submit``, ``verify``, ``ci-template`` and ``push``: results handed in, and whether they are true."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dstbench.cli.tables import print_json
from dstbench.errors import BadInput
from dstbench.results.printable import counted

if TYPE_CHECKING:
    from dstbench.runner.submission.verify import Verified

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def submit(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULT...",
            help="A trial's folder, its result.json, how its key begins, or a whole results folder.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where submissions go.", show_default=False)
    ],
    within: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Where keys are looked up.")
    ] = Path("results"),
    as_json: Json = False,
) -> None:
    """Make finished trials ready to hand in: each one's record, curve and sparse checkpoint, read without pickle."""
    from dstbench.runner.submission.submit import submit as write

    done = write(results, out, within=within)
    if as_json:
        print_json([asdict(one) for one in done])
        return
    for one in done:
        typer.echo(
            f"{one.key[:12]} {one.label}: {one.size:,} bytes of weights, {one.size / one.dense_size:.3f}x dense, "
            f"{one.size / one.theoretical_size:.2f}x the theoretical bits"
        )
    typer.echo(f"{len(done)} in {out}. Verify them as others will: dstbench results verify {out}")


def verify(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Submissions, or one of them.", show_default=False),
    ],
    data_root: Annotated[
        Path | None, typer.Option(metavar="DIR", envvar="DSTBENCH_DATA", help="Where data sets are.")
    ] = None,
    replay: Annotated[int, typer.Option(min=0, metavar="N", help="Retrain the first N steps; 0: none.")] = 0,
    whole: Annotated[bool, typer.Option("--reproduce", help="Retrain all of it.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--verdicts",
            metavar="DIR",
            help="Where verdicts are written: a folder that submitters can't write to.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    as_json: Json = False,
) -> None:
    """Check submissions: schema, key, checkpoint recounted, metrics evaluated again, steps retrained.

    Exit code 1 where one is refused, 2 where a folder has none.
    """
    from dstbench.results.verdicts import Verdict, write_verdict
    from dstbench.runner.submission.verify import verify as verified

    refused, told, empty = 0, [], []
    for folder in folders:
        seen = 0
        for one in verified(folder, data_root=data_root, replay=replay, whole=whole, device=device):
            seen, refused = seen + 1, refused + (not one.ok)
            if as_json:
                told.append(_as_json(one))
            else:
                _print(one)
            if out is not None and isinstance(one.verdict, Verdict):
                write_verdict(one.verdict, out)
        if not seen:
            empty.append(str(folder))
    if as_json:
        print_json(told)
    if empty:
        raise BadInput(f"results verify: expected submissions, got none in {', '.join(empty)}")
    if refused:
        raise typer.Exit(1)


def ci_template(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The community's repository.", show_default=False)
    ],
    replay: Annotated[int, typer.Option(min=0, help="Steps to retrain of each result.")] = 200,
    requirement: Annotated[
        str | None, typer.Option(metavar="SPEC", help="What pip installs there; else this version.")
    ] = None,
) -> None:
    """Write GitHub workflows that verify results handed in by pull request and preview the board."""
    from dstbench.cli.community import write_community

    files = write_community(out, replay, *([requirement] if requirement else []))
    typer.echo("\n".join(str(file) for file in files))


def push(
    target: Annotated[
        str, typer.Argument(metavar="hf://OWNER/NAME", help="A model repository.", show_default=False)
    ],
    submission: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="One submission's folder.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where its files are written; else nowhere kept."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Upload nothing.")] = False,
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="The Hub data set whose leaderboard shows it; else none."),
    ] = None,
) -> None:
    """Publish a submission as a Hub model: model card, sparse weights, record and evaluation results."""
    import tempfile

    from dstbench.runner.submission.hub import upload, write_model

    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        files = write_model(submission, target, folder, benchmark)
        for file in files:
            typer.echo(f"{file.stat().st_size:>12,}  {file.relative_to(folder)}")
        if not dry_run:
            typer.echo(upload(folder, target))


def _as_json(one: Verified) -> dict[str, Any]:
    from dstbench.results.verdicts import Verdict

    content = asdict(one.verdict) if isinstance(one.verdict, Verdict) else {"refused": str(one.verdict)}
    return {"folder": str(one.folder), **content}


def _print(one: Verified) -> None:
    """One line, and below it what speaks against the submission and what wasn't checked."""
    from dstbench.results.printable import printable
    from dstbench.results.verdicts import Verdict

    verdict = one.verdict
    if not isinstance(verdict, Verdict):
        typer.secho(f"refused  {verdict}", fg=typer.colors.RED)
        return
    how = {None: "", True: ", exactly", False: ", within tolerance"}[verdict.exact]
    steps = f", {counted(verdict.steps, 'step')} retrained" if verdict.steps else ""
    colour = typer.colors.GREEN if verdict.ok else typer.colors.RED
    figures = f"{len(verdict.checked)} figures made again{how}{steps}"
    typer.secho(printable(f"{verdict.tier}  {verdict.key[:12]}  {figures}"), fg=colour)
    for finding in verdict.findings:
        typer.echo(f"  {finding}")
    for note in verdict.notes:
        typer.echo(printable(f"  {note}"))
