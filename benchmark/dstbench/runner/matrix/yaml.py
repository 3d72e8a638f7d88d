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
from dstbench.results.files import read_plain

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


LARGEST = 2**18
"""Bytes of a configuration file."""
MOST_NODES = 20_000
"""Values in one, each counted as often as an alias repeats it: nine levels of nine aliases come to 400 million."""
DEEPEST = 32
"""Levels of lists and mappings."""
_DIGITS = 40  # of an integer: 2**64 has 20

_Base = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # ten times as fast


class _Loader(_Base):  # type: ignore[misc, valid-type]
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
        made: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return made


def _integer(_: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    if len(text) > _DIGITS:
        line = node.start_mark.line + 1
        raise BadInput(f"line {line}: expected a number of at most {_DIGITS} digits, got {len(text):,}")
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
    """The value of one YAML document. Raises BadInput with ``source`` and the line; at once, before anything is
    built, where it is too large or too deep."""
    try:
        if len(text) > LARGEST:
            raise BadInput(f"expected at most {LARGEST:,} characters, got {len(text):,}")
        text.encode()  # an argument of the command line may hold bytes that are no text
        _check_depth(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _check_size(node)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None
    except UnicodeEncodeError as error:
        raise BadInput(f"{source}: expected UTF-8, got {text[error.start : error.end]!r}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadInput(f"{source}: {where}{getattr(error, 'problem', None) or error}") from None


def _check_depth(text: str) -> None:
    """Raise BadInput for a document that its loader would recurse into without end, or take minutes for."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        line = event.start_mark.line + 1 if event.start_mark else 1
        if depth > DEEPEST:
            raise BadInput(f"line {line}: lists and mappings in more than {DEEPEST} levels")
        if nodes > MOST_NODES:
            raise BadInput(f"line {line}: more than {MOST_NODES:,} values")


def _check_size(root: yaml.Node | None) -> None:
    """Raise BadInput for anchors that hold themselves, or whose aliases multiply to more than MOST_NODES values."""
    sizes: dict[yaml.Node, int] = {}
    inside: set[yaml.Node] = set()

    def size(node: yaml.Node) -> int:
        if node in inside:
            raise BadInput(f"line {node.start_mark.line + 1}: a list or mapping that holds itself")
        if node not in sizes:
            inside.add(node)
            sizes[node] = 1 + sum(map(size, _children(node)))
            inside.remove(node)
        return sizes[node]

    if root is not None and (number := size(root)) > MOST_NODES:
        raise BadInput(
            f"expected at most {MOST_NODES:,} values, got {number:,}: aliases repeat what they stand for"
        )


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in a ``.yaml``, ``.yml`` or ``.toml`` file. Raises BadInput where it isn't one."""
    try:
        text = read_plain(path, LARGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is one, too
        raise BadInput(f"{path}: can't be read: {error}") from None
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text.replace("\r\n", "\n"))
        except (ValueError, RecursionError) as error:  # an integer of 5,000 digits is no TOMLDecodeError
            raise BadInput(f"{path}: {error}") from None
    if path.suffix not in (".yaml", ".yml"):
        raise BadInput(f"{path}: expected a .yaml, .yml or .toml file")
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected a mapping of keys to values, got {type(value).__name__}")
    return value
