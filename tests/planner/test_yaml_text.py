"""YAML as files of ours read it."""

import pytest
import yaml

from potluck.planner.fields import FieldError
from potluck.planner.yaml_text import read_yaml


def test_plain_data():
    assert read_yaml("a: {b: [1, x, true]}\nc: null") == {"a": {"b": [1, "x", True]}, "c": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice"),
        ("n:\n  x: {p: 1}\n  x: {p: 2}", "line 3: 'x' is given twice"),
        ("a: [1", "line 1: not valid YAML"),
        ("a: 1\n\tb: 2", "line 2: not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: !!python/name:os.system", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("{[1]: 2}", "not valid YAML"),
        ("[" * 20_000, "not valid YAML"),
        ("a: 2020-99-99", "not valid YAML"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(FieldError) as error:
        read_yaml(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_tables_know_the_lines_of_their_names():
    data = read_yaml("a: 1\nb:\n  c: 2\n  d:\n    - {e: 3}\n")
    assert data.lines == {"a": 1, "b": 2} and data["b"].lines == {"c": 3, "d": 4}
    assert data["b"]["d"][0].lines == {"e": 5}
    assert type(data["a"]) is int and yaml.safe_load("a: 1") == read_yaml("a: 1")


def test_a_table_may_contain_itself():
    data = read_yaml("a: &x {b: *x}")
    assert data["a"]["b"] is data["a"] and data["a"].lines == {"b": 1}


def test_merge_keys_may_override():
    assert read_yaml("base: &b {x: 1}\nown: {<<: *b, x: 2}")["own"] == {"x": 2}
