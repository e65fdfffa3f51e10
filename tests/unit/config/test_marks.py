from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evertune import dialect
from evertune.config.marks import parse
from evertune.errors import ConfigError


def read(text: str) -> object:
    return parse(text, source="f.yaml", folder=Path("/here")).plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1e-3", -0.001),
        ("1e-3", 0.001),
        ("2E5", 200000.0),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("1.", 1.0),
        ("8", 8),
        ("-8", -8),
        ("+8", 8),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("10_000", 10000),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("off", "off"),
        ("NO", "NO"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        ("'5'", "5"),
        ("~", None),
        ("", None),
        ("null", None),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("[1, a]", [1, "a"]),
    ],
)
def test_scalars_are_read_as_people_read_them(text: str, value: object) -> None:
    found = read(f"key: {text}")
    assert found == {"key": value}
    assert isinstance(found, dict)
    assert type(found["key"]) is type(value)


def test_anchors_and_merge_keys() -> None:
    text = "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x\nd: {<<: [{p: 7}, *x]}\n"
    assert read(text) == {
        "a": {"p": 1, "q": 2},
        "b": {"p": 1, "q": 3},
        "c": {"p": 1, "q": 2},
        "d": {"p": 7, "q": 2},
    }


def test_keys_are_names_even_where_they_look_like_numbers() -> None:
    assert read("1e3: a\ntrue: b\n2024: c\n") == {"1e3": "a", "true": "b", "2024": "c"}


def test_places() -> None:
    root = parse("a: 1\nb:\n  - x\n  - {c: y}\n", source="f.yaml", folder=Path("/here"))
    found = {node.key: (str(node.key_place), str(node.place)) for node in root.walk()}
    assert found == {
        "": ("f.yaml:1:1", "f.yaml:1:1"),
        "a": ("f.yaml:1:1", "f.yaml:1:4"),
        "b": ("f.yaml:2:1", "f.yaml:3:3"),
        "b.0": ("f.yaml:3:5", "f.yaml:3:5"),
        "b.1": ("f.yaml:4:5", "f.yaml:4:5"),
        "b.1.c": ("f.yaml:4:6", "f.yaml:4:9"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1", "f.yaml:2:1: A tab stands where only spaces may indent. Replace it by spaces."),
        ("a: b: c", "f.yaml:1:5: A `:` stands where no key can be."),
        ("a: [1, 2", "f.yaml:1:4: This list is not closed, or a comma is missing in it."),
        ("a: {b: 1", "f.yaml:1:4: This mapping is not closed, or a comma is missing in it."),
        ("a: 'x", "f.yaml:1:4: This quotation is not closed. Close it."),
        ("a:\n  b: 1\n c: 2", "f.yaml:3:2: This line is indented differently from the lines that it belongs to."),
        ("a: - b", "f.yaml:1:4: A list item (`- `) stands where no list can begin."),
        ("a: *x", "f.yaml:1:4: This `*name` refers to an `&name` that is not written above it."),
        ("a: @x", "f.yaml:1:4: Text cannot begin with `@`. Put it into quotation marks."),
        ('a: "\\q"', "f.yaml:1:6: There is no such escape in double quotation marks."),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: A second document begins here."),
        ("a: 1\nb: \x00", "f.yaml:2:4: This character (U+0000) cannot stand in YAML. Delete it."),
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: a: is written twice, first at line 1. Keep one of the two."),
        ("a: {b: 1, b: 2}", "f.yaml:1:11: a.b: is written twice, first at line 1."),
        ("? [a]\n: 1", "f.yaml:1:3: A key must be plain text."),
        ("a: &x [*x]", "f.yaml:1:4: a.0: is an alias of what it is part of. Remove it."),
        ("a: !!int x", "f.yaml:1:4: a: has the tag `!!int`, which is not allowed here."),
        ("a: !!python/object/apply:os.system [ls]", "a: has the tag `!!python/object/apply:os.system`"),
        ("a: {<<: 1}", "f.yaml:1:9: `<<` can only take in a mapping."),
    ],
)
def test_what_cannot_be_read_is_said_in_plain_words(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in str(caught.value)


def test_a_file_of_nested_aliases_ends_in_an_error_not_in_all_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError, match="Aliases blow this file up"):
        read("\n".join(lines))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, max_size=4))
def test_what_is_written_reads_back_equal(value: dict[str, object]) -> None:
    assert read(dialect.dump(value)) == value


@pytest.mark.parametrize("text", ["1e-3", "yes", "0o17", "08", "null", "2024-01-01", "12:30:00", "", " x", "a: b", "#"])
def test_text_that_looks_like_something_else_is_quoted_for_both_readings(text: str) -> None:
    written = dialect.dump({"key": text})
    assert read(written) == {"key": text}
    assert yaml.safe_load(written) == {"key": text}
