"""YAML 1.2 scalars, duplicate keys, TOML, and errors that say where."""

import math

import pytest

from dstbench.errors import BadInput
from dstbench.runner.matrix.yaml import parse_yaml, read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), ("0.90", 0.9), (".5", 0.5), ("3.", 3.0), ("-2.5e+1", -25.0),
        ("no", "no"), ("off", "off"), ("yes", "yes"), ("on", "on"), ("true", True), ("False", False),
        ("10:30", "10:30"), ("3.10.2", "3.10.2"),
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("+7", 7), ("1_000", "1_000"),
        ("2024-01-31", "2024-01-31"), ("~", None), ("null", None), ("", None), ("'1e-3'", "1e-3"),
        (".inf", math.inf), ("-.inf", -math.inf), ("timm:resnet18", "timm:resnet18"), ("erk", "erk"),
    ],
)  # fmt: skip
def test_scalar(text, value):
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_nan():
    assert math.isnan(parse_yaml(".nan"))


def test_empty_value_is_null():
    assert parse_yaml("a:\nb: 1") == {"a": None, "b": 1}


def test_duplicate_key_names_both_lines():
    with pytest.raises(BadInput, match=r"m\.yaml: line 4: the key 'lr' is there twice, first on line 2"):
        parse_yaml("training:\n  lr: 1\n  epochs: 2\n  lr: 3\n", "m.yaml")


def test_duplicate_key_on_one_line():
    with pytest.raises(BadInput, match="'a' is there twice"):
        parse_yaml("{a: 1, a: 2}")


def test_equal_keys_in_different_mappings_are_fine():
    assert parse_yaml("a: {x: 1}\nb: {x: 2}") == {"a": {"x": 1}, "b": {"x": 2}}


def test_merge_keys_still_work_and_may_be_overridden():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3")["b"] == {"x": 3, "y": 2}


def test_python_tags_are_refused():
    with pytest.raises(BadInput, match="line 1"):
        parse_yaml("!!python/object/apply:os.getcwd []")


def test_syntax_error_names_the_line():
    with pytest.raises(BadInput, match=r"m\.yaml: line 2"):
        parse_yaml("a: 1\n  b: [", "m.yaml")


def test_toml_and_yaml_files_agree(tmp_path):
    (tmp_path / "m.yaml").write_text("schema: 1\naxes: {density: [0.1, 1e-2]}\n")
    (tmp_path / "m.toml").write_text("schema = 1\n[axes]\ndensity = [0.1, 1e-2]\n")
    assert read_document(tmp_path / "m.yaml") == read_document(tmp_path / "m.toml")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.yaml", "- 1", "expected a mapping"),
        ("m.toml", "a = 1\na = 2", "overwrite"),
        ("m.json", "{}", "expected a .yaml, .yml or .toml"),
    ],
)
def test_unreadable_file(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        read_document(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(BadInput, match="can't be read"):
        read_document(tmp_path / "nothing.yaml")
