"""Reads configuration files: YAML with YAML 1.2's scalars and no duplicate keys, or TOML.

YAML 1.1, which PyYAML speaks, reads ``1e-3`` as a string, ``no`` and ``off`` as false and ``10:30`` as 630,
and lets the last of two equal keys win. A hyper-parameter file can afford none of these.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dstbench.errors import BadInput

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, refusing a key that is there twice."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # "<<": overriding a merged key is its purpose
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in seen:
                raise BadInput(f"line {line}: the key {key!r} is there twice, first on line {seen[key]}")
            if isinstance(key, Hashable):
                seen[key] = line
        return super().construct_mapping(node, deep=deep)


def _integer(_: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(_: _Loader, node: yaml.ScalarNode) -> float:
    text = node.value.lower()
    return float(text.replace(".", "") if text.endswith(("inf", "nan")) else text)


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", _INT.pattern, "-+0123456789"),
    ("tag:yaml.org,2002:float", _FLOAT.pattern, "-+.0123456789"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
):
    # PyYAML looks resolvers up by a scalar's first character, and under "" for the empty scalar
    _Loader.add_implicit_resolver(
        _tag, re.compile(rf"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(text: str, source: str = "YAML") -> Any:
    """The value of one YAML document. Raises BadInput with ``source`` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadInput(f"{source}: {where}{getattr(error, 'problem', None) or error}") from None


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in a ``.yaml``, ``.yml`` or ``.toml`` file. Raises BadInput where it isn't one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: can't be read: {error}") from None
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadInput(f"{path}: {error}") from None
    if path.suffix not in (".yaml", ".yml"):
        raise BadInput(f"{path}: expected a .yaml, .yml or .toml file")
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected a mapping of keys to values, got {type(value).__name__}")
    return value
