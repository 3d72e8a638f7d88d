"""A strategy's optional abilities are looked up by name in one place; behind its doors mypy sees them."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from dstbench.api import Accumulator, Layout, Score, Share, Structure, Support, Values
from dstbench.api.abilities import ABILITIES

ROOT = Path(find_spec("dstbench").origin).parent
NAMES = {name for names in ABILITIES.values() for name in names} | {"layout"}
DOORS = {
    *("api/accumulators.py", "api/strategies.py", "api/weight_values.py"),
    "core/engine/structures.py",
}


def calls(path: Path, *functions: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions
    ]


def texts(call: ast.Call) -> set[object]:
    return {argument.value for argument in call.args if isinstance(argument, ast.Constant)}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_ability_is_asked_for_by_name(path):
    assert not [ast.unparse(call) for call in calls(path, "getattr", "hasattr") if texts(call) & NAMES]


def test_only_the_doors_look_abilities_up():
    importers = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module == "dstbench.api.abilities"
        and {alias.name for alias in node.names} & {"declared", "method"}
    }
    assert importers == DOORS
    asked = {
        text for door in DOORS for call in calls(ROOT / door, "declared", "method") for text in texts(call)
    }
    assert asked & NAMES == NAMES - {"events", "support", "layout"}  # a Support is told by its protocol


@pytest.mark.parametrize(
    ("kind", "protocols"),
    [
        ("score", [Score]),
        ("share", [Share]),
        ("accumulator", [Accumulator]),
        ("structure", [Layout, Structure, Support]),
        ("values", [Values]),
    ],
)
def test_every_ability_is_documented_at_its_protocol(kind, protocols):
    documented = "".join(protocol.__doc__ for protocol in protocols)
    assert [name for name in ABILITIES[kind] if f"``{name}" not in documented] == []
