"""``dstbench``: the commands, and what all of them have in common."""

from __future__ import annotations

import errno
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dstbench.cli.cite import cite
from dstbench.cli.evidence import effects, groups
from dstbench.cli.export import export
from dstbench.cli.plan import plan
from dstbench.cli.plugins import datasets, models, plugins_app
from dstbench.cli.published import published
from dstbench.cli.report import compare, explore, index, leaderboard, plots, results_app
from dstbench.cli.run import run
from dstbench.cli.status import status
from dstbench.cli.submissions import ci_template, push, submit, verify
from dstbench.cli.suites import suites
from dstbench.cli.worker import worker
from dstbench.errors import BadInput
from dstbench.results.printable import printable
from dstbench.results.storage import is_full

FULL = 73
"""The exit code where nothing more can be written: that of sysexits.h for a file that can't be made."""

_UNUSABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}
"""What is said of a path that can't be used as a user meant it, such as an ``--out`` in a read-only folder."""


class _Group(TyperGroup):
    """Turns what a user got wrong into a message and exit code 2, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        from dstbench.registration.loader import PluginError

        try:
            return super().invoke(ctx)
        except (BadInput, PluginError) as error:
            message = printable(str(error), kept="\n")
            typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            unusable = error.filename is not None and error.errno in _UNUSABLE
            if not (is_full(error) or unusable):
                raise
            place = f"{error.filename}: " if error.filename else ""
            typer.secho(f"error: {printable(place + str(error.strerror))}", fg=typer.colors.RED, err=True)
            raise typer.Exit(FULL if is_full(error) else 2) from None


app = typer.Typer(
    cls=_Group,
    help="The benchmark for dynamic sparse training: init x structure x prune x grow, measured on real data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from dstbench import __version__

        typer.echo(f"dstbench {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    strict_plugins: Annotated[
        bool, typer.Option("--strict-plugins", help="Stop at a broken plugin instead of leaving it out.")
    ] = False,
    no_plugin: Annotated[
        list[str] | None, typer.Option("--no-plugin", metavar="NAME", help="Leave a plugin out; repeatable.")
    ] = None,
) -> None:
    # by way of the environment: the processes that run trials must see the same plugins
    if strict_plugins:
        os.environ["DSTBENCH_STRICT_PLUGINS"] = "1"
    if no_plugin:
        from dstbench.registration.registry import registry

        registry(no_plugins=frozenset(no_plugin))  # refuses a name that isn't installed
        already = os.environ.get("DSTBENCH_DISABLE_PLUGINS", "")
        os.environ["DSTBENCH_DISABLE_PLUGINS"] = ",".join([*filter(None, [already]), *no_plugin])


app.command()(run)
app.command()(worker)
app.command()(status)
app.command()(plan)
app.command()(leaderboard)
app.command()(compare)
app.command()(effects)
app.command()(groups)
app.command()(explore)
app.command()(plots)
app.command()(index)
app.command()(export)
app.command()(cite)
results_app.command()(submit)
results_app.command()(verify)
results_app.command("ci-template")(ci_template)
results_app.command()(push)
app.add_typer(results_app, name="results")
app.add_typer(plugins_app, name="plugins")
app.command()(suites)
app.command()(models)
app.command()(datasets)
app.command()(published)
