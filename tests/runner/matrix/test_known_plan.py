"""A plan that was made before is the same plan, and is made anew when its code changes."""

from __future__ import annotations

import json

import pytest

from dstbench.registration.registry import Registry, registry
from dstbench.runner.matrix import known_plan as module
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.known_plan import known_plan
from dstbench.runner.matrix.plan import plan

MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {
        "model": "small_cnn",
        "dataset": "digits",
        "density": [0.1, 1e-5],  # the second can't be
        "seed": list(range(3)),
        "recipe": ["rigl", "chase", {"name": "rigl", "grow": {"name": "momentum", "share": "global"}}],
        "schedule": {"name": "cosine", "delta_t": 100},
    },
    "dense_layers": ["@first_conv"],
    "overrides": [{"when": {"recipe": "rigl"}, "set": {"training.lr": 1}}],
    "training": {"epochs": 1},
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "FEWEST", 1)


@pytest.fixture
def made(monkeypatch):
    """How often a plan was made."""
    calls = []
    monkeypatch.setattr(module, "plan", lambda *args, **options: (calls.append(1), plan(*args, **options))[1])
    return calls


def test_a_known_plan_is_the_plan(made):
    matrix = load_matrix(MATRIX)
    first, second = known_plan(matrix, registry()), known_plan(matrix, registry())
    assert made == [1]
    assert first == second == plan(matrix, registry())
    assert {t.skip is None for t in second.trials} == {True, False}
    assert {t.control for t in second.trials} == {None, "dense", "static", "small-dense"}
    assert second.notes


def test_a_plan_is_made_again_when_code_or_matrix_change(made, monkeypatch):
    known_plan(load_matrix(MATRIX), registry())
    known_plan(load_matrix(MATRIX, ["training.epochs=2"]), registry())
    assert len(made) == 2
    monkeypatch.setattr(module, "_code", lambda registry: ["another"])
    known_plan(load_matrix(MATRIX), registry())
    assert len(made) == 3


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"trials": [[1, 2]]}', '{"trials": 3}', '{"trials": [["a", {}, "b", null, null]]}'],
)
def test_a_damaged_file_is_no_plan(text, made, tmp_path):
    matrix = load_matrix(MATRIX)
    first = known_plan(matrix, registry())
    [file] = (tmp_path / "cache" / "plan").glob("*.json")
    file.write_text(text)
    assert known_plan(matrix, registry()) == first
    assert len(made) == 2
    assert json.loads(file.read_text())["trials"]  # it was written again


def test_plans_with_strange_components_are_not_kept(made, tmp_path):
    strange = [c for kind in registry() for c in registry()[kind].values()]
    strange[0] = type(strange[0])(**{**vars(strange[0]), "distribution": "another"})
    known_plan(load_matrix(MATRIX), Registry(strange))
    assert not (tmp_path / "cache").exists()


def test_where_there_is_no_place_for_files_a_plan_is_made(made, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    known_plan(load_matrix(MATRIX), registry())
    known_plan(load_matrix(MATRIX), registry())
    assert len(made) == 2
