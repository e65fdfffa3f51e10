"""Answers that are programs: whether they parse, and whether they pass the tests of their row."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from typing import Final

from evertune.metrics.base import Labels, Metric, Program, Row

_FENCE: Final = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
_ESCAPED: Final = re.compile(r"\\.", re.DOTALL)
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}
_QUOTES: Final = "\"'`"


def code_of(answer: str) -> str:
    """The program in an answer: its first fenced block, or the whole answer if it has none."""
    found = _FENCE.search(answer)
    return found[2] if found else answer


def parses_as_python(code: str) -> bool:
    """Whether a text is Python with at least one statement in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes, which parse all the same
            return bool(ast.parse(code).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def is_balanced(code: str) -> bool:
    """Whether brackets and quotes of a program in any language come in pairs.

    Brackets within quotes do not count; an apostrophe behind a letter or a digit is no quote.
    """
    opened: list[str] = []
    quote = ""
    before = ""
    for character in _ESCAPED.sub("", code):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and not (character == "'" and before.isalnum()):
            quote = character
        elif character in _PAIRS.values():
            opened.append(character)
        elif character in _PAIRS and (not opened or opened.pop() != _PAIRS[character]):
            return False
        before = character
    return not opened and not quote


def code_parses(prediction: str, reference: str, labels: Labels = None) -> float:
    """1.0 if the program in the answer parses, else 0.0.

    The program is the first fenced block, or else the whole answer; a blank one is wrong. Where the right answer is
    Python, so must the answer be. Where it is not (SQL, HTML, JavaScript, prose), brackets and quotes of the answer
    must come in pairs, unless those of the right answer do not either. The labels play no part.

    Source: the check by abstract syntax tree that is usual where code may not be run.
    """
    code, right = code_of(prediction), code_of(reference)
    if parses_as_python(right):
        return float(parses_as_python(code))
    return float(bool(code.strip()) and (is_balanced(code) or not is_balanced(right)))


def _program(prediction: str, row: Row) -> Program:
    tests: str | Sequence[str] = row.facts["tests"]
    return Program(code_of(prediction), tests if isinstance(tests, str) else "\n".join(tests))


def code_passes(prediction: str, reference: str, row: Row) -> float:
    """1.0 if the program in the answer passes the ``tests`` of its row, else 0.0.

    The tests are Python statements, as text or as a list, that see the names of the program and fail by an exception.
    Running what a model wrote must be allowed (``evaluation.allow_code_execution``).

    Source: Chen et al. (2021), arXiv:2107.03374 (pass@1 with greedy decoding).
    """
    if row.passed is None:
        raise ValueError("the program was not run")
    return float(row.passed)


CODE_PARSES = Metric(name="code_parses", per_row=code_parses, binary=True)
CODE_PASSES = Metric(
    name="code_passes",
    row_score=code_passes,
    binary=True,
    needs=frozenset({"tests"}),
    program=_program,
    beside=("code_parses",),
)
