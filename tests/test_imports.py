"""Imports point one way, nothing in the core names a plugin, and what is light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest


def _root(package: str) -> Path:
    return Path(find_spec(package).origin).parent


CORE, PLUGINS = _root("dstbench"), _root("dstbench_plugins")
ORDER = ("api", "core", "accel", "results", "runner", "report", "cli")
BELOW = {"errors", "hookspecs", "recipe", "registration"}
ROOMS = {  # the rooms inside a part, each with the rooms of that part that it may use
    "core": {
        "ranks": set(),
        "network": {"ranks"},
        "engine": {"ranks", "network"},
        "storage": {"ranks", "network"},
        "training": {"ranks", "network", "engine", "storage"},
        "cost": {"ranks", "network", "engine", "storage", "training"},
    },
    "runner": {
        "failures": set(),
        "matrix": {"failures"},
        "trial": {"failures", "matrix"},
        "execution": {"failures", "matrix", "trial"},
        "submission": {"failures", "matrix", "trial"},
        "cluster": {"failures", "matrix", "trial", "execution"},
    },
}
TOOLS = {"bench", "__main__", "__init__"}  # entry points: they may use anything
MAY_IMPORT = {
    "errors": set(),
    "hookspecs": set(),
    "recipe": {"errors"},
    "registration": {*BELOW, "api"},  # api inside functions only, for it imports torch
    "testing": {*BELOW, "testing", "api", "core"},  # the conformance kit
    **{part: {*BELOW, *ORDER[: ORDER.index(part) + 1]} for part in ORDER},
}
MAY_IMPORT["api"].remove("registration")
for upper in ("results", "runner", "report", "cli"):
    MAY_IMPORT[upper].add("__init__")  # the version
MAY_IMPORT["cli"].add("testing")


def modules(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether only for type checking) of every import in a file, in functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in typing) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(f"{node.module}.{alias.name}", id(node) in typing) for alias in node.names]
    return found


def part_of(module: str) -> str:
    """``core`` of ``dstbench.core.engine.update.Goal``; ``__init__`` of what the package itself gives."""
    parts = module.split(".")
    known = {path.stem for path in CORE.iterdir() if path.suffix == ".py" or path.is_dir()}
    return parts[1] if len(parts) > 1 and parts[1] in known else "__init__"


def ours(path: Path) -> list[str]:
    return [
        part_of(module)
        for module, typing in imports(path)
        if module.split(".")[0] == "dstbench" and not typing
    ]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(CORE.parent).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in modules(CORE)}


def used_modules(path: Path) -> set[str]:
    """The modules of ours that a file imports, in functions too; for type checking alone doesn't count."""
    used = {
        module if module in NAMES else module.rpartition(".")[0]
        for module, typing in imports(path)
        if not typing
    }
    return (used & NAMES) - {name_of(path)}


def own_part(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_imports_point_one_way(path):
    part = own_part(path)
    if part not in TOOLS:
        assert set(ours(path)) <= MAY_IMPORT[part]


def test_every_part_is_known():
    assert {own_part(path) for path in modules(CORE)} <= MAY_IMPORT.keys() | TOOLS


@pytest.mark.parametrize(("part", "room"), [(part, room) for part, rooms in ROOMS.items() for room in rooms])
def test_imports_point_one_way_inside_a_part_too(part, room):
    inside = [
        path
        for path in modules(CORE / part)
        if path.relative_to(CORE / part).parts[0] in (room, f"{room}.py")
    ]
    assert inside
    for path in inside:
        used = {name.split(".")[2] for name in used_modules(path) if name.startswith(f"dstbench.{part}.")}
        assert used <= ROOMS[part][room] | {room}, path


@pytest.mark.parametrize("part", ROOMS)
def test_every_room_is_known(part):
    rooms = {path.relative_to(CORE / part).parts[0].removesuffix(".py") for path in modules(CORE / part)}
    assert rooms - {"__init__"} == ROOMS[part].keys()


def test_no_module_needs_itself():
    """No circle of imports, those inside functions included."""
    graph = {name_of(path): used_modules(path) for path in modules(CORE)}
    order = TopologicalSorter(graph)
    order.prepare()  # raises CycleError, with the circle


@pytest.mark.parametrize("path", modules(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_nothing_in_the_core_names_a_plugin(path):
    text = path.read_text(encoding="utf-8")
    assert "dstbench_plugins" not in text
    assert not [module for module, _ in imports(path) if module.startswith("dstbench_plugins")]


@pytest.mark.parametrize("path", modules(PLUGINS), ids=lambda p: str(p.relative_to(PLUGINS)))
def test_plugins_import_only_what_outsiders_may(path):
    """A built-in that reached further would show that an outsider has to."""
    for module, _ in imports(path):
        if module.split(".")[0] == "dstbench" and module != "dstbench.hookimpl":
            assert module.split(".")[1] in ("api", "hookspecs", "errors", "accel"), module


@pytest.mark.parametrize("part", sorted(BELOW))
def test_what_is_below_everything_imports_no_torch_at_module_level(part):
    paths = [path for path in modules(CORE) if own_part(path) == part]
    assert paths
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [
                name for name in names if name.split(".")[0] == "torch" or name.startswith("dstbench.api")
            ]


HEAVY = "{'torch', 'torchvision', 'timm', 'accelerate', 'pandas', 'scipy', 'sklearn'}"


@pytest.mark.parametrize(
    "statement",
    [
        "import dstbench",
        "import dstbench; dir(dstbench)",
        "import dstbench.cli",
        "import dstbench.runner.execution.run",
        "import dstbench_plugins",
        "import dstbench; [c.summary for m in dstbench.registry().values() for c in m.values()]",
    ],
)
def test_light_imports_leave_torch_alone(statement):
    script = f"{statement}\nimport sys; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves():
    import dstbench

    assert set(dir(dstbench)) >= {"Sparsifier", "densities", "cost", "registry", "hookimpl"}
    for name in dstbench.__all__:
        assert getattr(dstbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sparsifier'"):
        _ = dstbench.sparsifier
