"""The templates of the pages, and the styles and scripts that are put into them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench.results.printable import counted

if TYPE_CHECKING:
    import jinja2


@cache
def templates() -> jinja2.Environment:
    """The templates of this package; everything put into them is escaped."""
    import jinja2

    loader = jinja2.PackageLoader("dstbench.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.globals["counted"] = counted
    return environment


def part(name: str) -> Any:
    """CSS or a script of the package, put into the page as it is."""
    from markupsafe import Markup

    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8").rstrip())
