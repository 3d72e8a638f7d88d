"""Matrix files that no one means: each is refused at once, in a few words, whatever it holds."""

from __future__ import annotations

import copy
import time

import pytest

from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import Training, load_matrix
from dstbench.runner.matrix.plan import MOST_CELLS, plan
from dstbench.runner.matrix.yaml import DEEPEST, MOST_NODES, parse_yaml, read_document

MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {"model": "small_cnn", "dataset": "digits", "density": [0.1], "recipe": ["rigl"]},
    "training": {"epochs": 2},
}
TEXT = """schema: 1
name: test
axes: {model: small_cnn, dataset: digits, density: [0.1], recipe: [rigl]}
training: {epochs: 2}
"""


def bomb(last, item="[{previous}]", key="k", levels=9):
    """Nine levels of nine aliases."""
    lines = ["a0: &a0 [x, y]"]
    for level in range(1, levels + 1):
        previous = ", ".join(f"*a{level - 1}" for _ in range(9))
        lines.append(f"a{level}: &a{level} {item.format(previous=previous)}")
    return "\n".join([*lines, last.format(top=f"*a{levels}")])


def numbers(count, first=0):
    return ",".join(map(str, range(first, first + count)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb("summary: {top}"), "aliases repeat what they stand for"),
        (bomb("z: {{<<: {top}}}", item="{{<<: [{previous}]}}").replace("[x, y]", "{x: 1}"), "aliases repeat"),
        (bomb("{top}: 1"), "aliases repeat|holds itself"),
        ("a: &a [*a]", "line 1: a list or mapping that holds itself"),
        ("a: &a {b: [*a]}", "holds itself"),
        (
            TEXT + "x: " + "[" * 5000 + "]" * 5000,
            "line 5: .*(levels|nesting depth)",
        ),
        (TEXT + "x: " + "{a: " * 5000 + "}" * 5000, f"in more than {DEEPEST} levels"),
        (TEXT + "\n".join("  " * level + "- " for level in range(300)), "line|levels"),
        ("seed: " + "9" * 5000, "line 1: expected a number of at most 40 digits, got 5,000"),
        ("seed: 0x" + "f" * 5000, "line 1: expected a number of at most 40 digits, got 5,002"),
        (f"seed: [{numbers(1_000_000)}]", "expected at most 262,144 characters"),
        (f"seed: [{numbers(30_000)}]", f"line 1: more than {MOST_NODES:,} values"),
        ("include:\n" + "- {seed: 0}\n" * 100_000, "expected at most 262,144 characters"),
        ("include:\n" + "- {a: 0}\n" * 20_000, f"more than {MOST_NODES:,} values"),
        ("#" * 10_000_000, "expected at most 262,144 characters"),
    ],
    ids=range(15),
)
def test_text_that_would_not_end(text, reason):
    start = time.process_time()
    with pytest.raises(BadInput, match=f"^m.yaml: .*({reason})") as error:
        parse_yaml(text, "m.yaml")
    assert len(str(error.value)) < 300
    assert time.process_time() - start < 1


def changed(path, value):
    document = copy.deepcopy(MATRIX)
    *sections, last = path.split(".")
    inner = document
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return document


def shared(levels=9):
    """The same lists again and again, as an alias makes them."""
    value = ["x"]
    for _ in range(levels):
        value = [value] * 9
    return value


def nested(levels=5000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("summary", shared(), f"expected at most {MOST_NODES:,} values"),
        ("exclude", nested(), f"in more than {DEEPEST} levels"),
        ("axes.seed", list(range(10**6)), f"expected at most {MOST_NODES:,} values"),
        ("axes.seed", [10**5000], "axes.seed[0]: expected an integer that 128 bits hold"),
        ("axes.seed", [2**63], "axes.seed[0]: expected a number less than"),
        ("axes.model", [{"name": "small_cnn", "width": float("nan")}], "axes.model[0]: width: expected a finite"),
        ("axes.model", [{"name": "small_cnn", "x": {"y": [float("inf")]}}], "axes.model[0]: x.y: expected a finite"),
        ("overrides", [{"when": {}, "set": {"training.lr": float("nan")}}], "training.lr: expected a finite number"),
        ("axes.model", ["m" * 10**6], "expected a text of at most 10,000 characters, got 1,000,000"),
        ("axes.model", ["m" * 201], "axes.model[0]: expected a name of at most 200 characters"),
        ("name", "n" * 201, "name: expected at most 200 characters, got 201"),
        ("name", "n\x1b[2J", r"name: expected a text that can be shown, got 'n\x1b[2J'"),
        ("axes.grow", [{"name": "random", "\u202e": 1}], r"expected a text that can be shown, got '\u202e'"),
        ("include", [{"seed": 0}] * 1001, "include: expected at most 1,000 values, got 1,001"),
        ("training.epochs", 10**12, "training.epochs: expected a number less than or equal to 1000000"),
        ("training.batch_size", 10**10, "training.batch_size: expected a number less than or equal to 1000000"),
        ("training.gradient_accumulation", 100_000, "training.gradient_accumulation: expected a number less"),
        ("training.lr", 1e300, "training.lr: expected a number less than or equal to 1000000, got 1e+300"),
        ("training.weight_decay", 1e300, "training.weight_decay: expected a number less than"),
        ("training.milestones", [10**12], "training.milestones[0]: expected a number less than"),
        ("training.eval_every", 10**12, "training.eval_every: expected a number less than"),
        ("measure.rounds", 10**9, "measure.rounds: expected a number less than or equal to 10000"),
        ("budget.trial_seconds", 1e308, "budget.trial_seconds: expected a number less than or equal to 31622400"),
    ],
)  # fmt: skip
def test_what_no_one_means(path, value, reason):
    start = time.process_time()
    with pytest.raises(BadInput) as error:
        load_matrix(changed(path, value))
    assert reason in str(error.value)
    assert len(str(error.value)) < 400
    assert time.process_time() - start < 1


def test_a_training_extended_without_end():
    with pytest.raises(BadInput, match="multiplier: expected at most 1,000,000 epochs, got 2 x 1e"):
        Training(epochs=2).extended(1e300)


def test_many_cells_are_counted_not_made():
    matrix = load_matrix(MATRIX | {"axes": MATRIX["axes"] | {"seed": list(range(1000)), "density": [
        (i + 1) / 1000 for i in range(1000)]}})  # fmt: skip
    start = time.process_time()
    with pytest.raises(
        BadInput, match=r"1,000,000 cells \(seed 1,000, density 1,000\), more than 10,000: .*--yes"
    ):
        plan(matrix, registry())
    assert time.process_time() - start < 1


def test_many_rules_for_many_cells_are_counted_too():
    axes = MATRIX["axes"] | {"seed": list(range(9000))}
    matrix = load_matrix(MATRIX | {"axes": axes, "exclude": [{"seed": seed} for seed in range(1000)]})
    start = time.process_time()
    with pytest.raises(BadInput, match=r"9,000 cells to hold against 1,000 rules .*--yes"):
        plan(matrix, registry())
    assert time.process_time() - start < 1


def test_names_without_end():
    for source, settings in (("x" * 5000, []), (MATRIX, ["x" * 10**5 + "=1"])):
        with pytest.raises(BadInput, match=r"unknown (suite|name)") as error:
            load_matrix(source, settings)
        assert len(str(error.value)) < 1000


def test_bytes_that_are_no_text():
    with pytest.raises(BadInput, match=r"-S model=.*: expected UTF-8, got '\\udcff'"):
        load_matrix(MATRIX, ["model=\udcff"])


def test_whoever_says_yes_gets_them(monkeypatch):
    monkeypatch.setattr("dstbench.runner.matrix.plan.MOST_CELLS", 1)
    matrix = load_matrix(MATRIX, ["seed=0,1", "controls="])
    with pytest.raises(BadInput, match="2 cells"):
        plan(matrix, registry())
    assert len(plan(matrix, registry(), yes=True).trials) == 2
    assert MOST_CELLS == 10_000


def test_cells_are_the_product_and_the_recipes():
    axes = MATRIX["axes"] | {"seed": [0, 1], "grow": ["random", "gradient"], "prune": ["magnitude"]}
    assert load_matrix(MATRIX | {"axes": axes}).axes.cells == 2 * (2 + 1)
    assert load_matrix(MATRIX).axes.cells == 1


def test_settings_of_the_command_line_multiply_no_further():
    many = ",".join(f"{{name: random, x: {i}}}" for i in range(200))
    with pytest.raises(BadInput, match="40,000 recipes, more than 20,000"):
        load_matrix(MATRIX, [f"grow={many}", f"prune={many}", "recipe=rigl"])
    with pytest.raises(BadInput, match=r"-S seed=.*at most 40 digits"):
        load_matrix(MATRIX, [f"seed={'9' * 5000}"])


@pytest.mark.parametrize("name", ["m.yaml", "m.toml"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    text = "schema: 1\n" if name == "m.yaml" else "schema = 1\r\n"
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_document(tmp_path / name) == {"schema": 1}


@pytest.mark.parametrize("text", ["x = " + "9" * 5000, "x = " + "[" * 5000 + "]" * 5000, "x = 1\n" * 2])
def test_absurd_toml(tmp_path, text):
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(BadInput, match=r"m\.toml: "):
        read_document(tmp_path / "m.toml")
