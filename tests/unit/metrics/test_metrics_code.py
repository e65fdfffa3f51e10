from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.metrics.base import Row
from evertune.metrics.code import CODE_PASSES, code_of, code_parses, code_passes, is_balanced, python_constructs

PYTHON = "def double(x):\n    return 2 * x"
SQL = "SELECT name FROM people WHERE age > (20);"


def test_the_program_of_an_answer() -> None:
    assert code_of("x = 1") == "x = 1"
    assert code_of("Here it is:\n```python\nx = 1\n```\nand then\n```\ny = 2\n```") == "x = 1\n"
    assert code_of("```\nx = '`'\n```") == "x = '`'\n"
    assert code_of("~~~py\nx = 1\n~~~\n") == "x = 1\n"
    assert code_of("````\n```\nx\n```\n````") == "```\nx\n```\n"
    assert code_of("```python\nx = 1") == "x = 1", "the fence is not closed"
    assert code_of("use `x` for it") == "use `x` for it"


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (PYTHON, 1),
        (f"Sure:\n```python\n{PYTHON}\n```\nIt doubles.", 1),
        (f"Sure: {PYTHON}", 0),
        ("def double(x):\nreturn 2 * x", 0),
        ("print 'x'", 0),
        (SQL, 0),
        ("# only a comment", 0),
        ("", 0),
        ("the", 0),
        ("y = 2 * x", 0),
        ("def triple(x):\n    pass", 1),
        ("  \n", 0),
        ("```python\n```", 0),
        ("\0", 0),
        ("(" * 1000, 0),
    ],
)
def test_where_the_right_answer_is_python(answer: str, score: float) -> None:
    assert code_parses(answer, PYTHON) == score
    assert code_parses(answer, f"```\n{PYTHON}\n```") == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (SQL, 1),
        ("SELECT name FROM people", 0),
        ("the clock", 0),
        ("It's what you'd call Tom's ( > ) ;", 1),
        ("console.log('a)');", 1),
        ('say("a \\" b");', 1),
        ("SELECT name FROM people WHERE (age > 20", 0),
        ("function () { return [1; }", 0),
        ("x ) (", 0),
        ('say("a', 0),
        ("", 0),
    ],
)
def test_where_the_right_answer_is_another_language(answer: str, score: float) -> None:
    assert code_parses(answer, SQL) == score


def test_an_answer_need_not_be_better_balanced_than_the_right_one() -> None:
    assert not is_balanced("1) Say this (")
    assert code_parses("1) Say that (", "1) Say this (") == 1
    assert code_parses("1) Say that", "1) Say this (") == 0
    assert code_parses("", "1) Say this (") == 0


def test_where_the_right_answer_has_no_form_it_must_be_met() -> None:
    assert code_parses("a b", "a  b") == 1
    assert code_parses("3", "3\n") == 1
    assert code_parses("4", "3") == 0
    assert code_parses("x = 3", "3") == 0


def test_prefixed_strings_are_balanced() -> None:
    assert is_balanced("f'Hello {x}!'")
    assert is_balanced("N'a b!'")
    assert not is_balanced("f'Hello {x}!")


def test_doubtful_escapes_warn_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert python_constructs("x = '\\d'")


@given(text=st.text())
def test_any_text_is_scored(text: str) -> None:
    assert code_parses(text, PYTHON) in (0, 1)
    assert code_parses(text, SQL) in (0, 1)
    assert code_parses(text, text) == float(bool(code_of(text).strip())), "a right answer is right"


def test_what_is_run() -> None:
    assert CODE_PASSES.program is not None
    row = Row(facts={"tests": ["assert double(1) == 2", "assert double(0) == 0"]})
    program = CODE_PASSES.program(f"```python\n{PYTHON}\n```", row)
    assert (program.code, program.tests) == (PYTHON + "\n", "assert double(1) == 2\nassert double(0) == 0")
    assert CODE_PASSES.program("x", Row(facts={"tests": "assert x"})).tests == "assert x"


def test_the_outcome_is_the_score() -> None:
    assert (code_passes("", "", Row(passed=True)), code_passes("", "", Row(passed=False))) == (1, 0)
    with pytest.raises(ValueError, match="was not run"):
        code_passes("", "", Row())
