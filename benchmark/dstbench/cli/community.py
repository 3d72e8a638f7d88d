"""``results ci-template``: a repository to which others hand in results, verified by its own workflows."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from dstbench import __version__
from dstbench.errors import BadInput
from dstbench.results.files import write_all

_FILES = {
    ".github/workflows/verify.yml": "verify.yml.tmpl",
    ".github/workflows/publish.yml": "publish.yml.tmpl",
    "README.md": "README.md.tmpl",
}
_KEPT = ("results", "verdicts", "boards")  # there from the start, though empty


def write_community(
    out: Path, replay: int = 200, requirement: str = f"dstbench=={__version__}"
) -> list[Path]:
    """Write workflows and layout into a folder; returns the files. Nothing that is there is replaced.

    replay: steps that are retrained of each result; requirement: what pip installs to verify with. Raises BadInput
    where one of the files exists.
    """
    texts = {
        name: Template(_template(template)).substitute(replay=replay, requirement=requirement)
        for name, template in _FILES.items()
    }
    texts |= {f"{name}/.gitkeep": "" for name in _KEPT}
    if there := [name for name in texts if (out / name).exists()]:
        raise BadInput(f"--out: {out / there[0]} exists: choose another folder")
    for name, text in texts.items():
        file = out / name
        write_all(file.parent, {file.name: text})
    return [out / name for name in texts]


def _template(name: str) -> str:
    return (files("dstbench.cli") / "templates" / "community" / name).read_text(encoding="utf-8")
