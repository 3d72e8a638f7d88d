"""``dstbench plugins new``: a real package with one strategy, ready to install and to test."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from dstbench import __version__
from dstbench.errors import BadInput, nearest
from dstbench.registration.registry import registry

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")

_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "src/{module}/__init__.py": "package.py",
    "src/{module}/plugin.py": "plugin.py",
    "src/{module}/strategy.py": "kinds/{kind}.py",
    "tests/test_conformance.py": "test_conformance.py",
}
"""File of the package -> its template."""
_METADATA = {"dataset": ', revision="1", input_shape=(1, 16, 16), num_classes=4'}
"""Kind -> what else its template's component is registered with."""


def scaffold(kind: str, name: str, out: Path) -> Path:
    """Write the package ``dstbench-<name>`` into ``out`` and return its folder.

    Raises BadInput for a kind without a template, a name that can't be a package's or a class's or is one of ours,
    or a folder that exists.
    """
    kinds = sorted(entry.name.partition(".")[0] for entry in (_templates() / "kinds").iterdir())
    if kind not in kinds:
        raise BadInput(f"--kind: there is no template for {kind!r}{nearest(kind, kinds)}")
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"NAME: expected lower-case words joined by '-' or '_', such as my-score, got {name!r}"
        )
    words = re.split("[-_]", name)
    title = "".join(word.capitalize() for word in words)
    if keyword.iskeyword(title):
        raise BadInput(
            f"NAME: {name!r} would make a class {title}, which is a word of Python's: choose another name"
        )
    taken = next(
        (known for known in registry()[kind] if known.replace("-", "_") == name.replace("-", "_")), None
    )
    if taken is not None:
        owner = registry()[kind][taken].distribution
        raise BadInput(
            f"NAME: {kind} {taken!r} is there already, from {owner}: commands would mean that one; choose another "
            f"name, such as my-{name.replace('_', '-')}"
        )
    distribution = f"dstbench-{name.replace('_', '-')}"
    folder = out / distribution
    if folder.exists():
        raise BadInput(f"{folder} exists: nothing was written")
    values = {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "title": title,
        "version": __version__,
        "metadata": _METADATA.get(kind, ""),
    }
    for path, template in _FILES.items():
        _write(folder / path.format(**values), template.format(**values), values)
    return folder


def _templates() -> Path:
    return Path(str(files("dstbench.cli"))) / "templates"


def _write(path: Path, template: str, values: dict[str, str]) -> None:
    text = (_templates() / f"{template}.tmpl").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(text).substitute(values), encoding="utf-8")
