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
_APOSTROPHE: Final = re.compile(r"[^\W_]{2}'[^\W_]")
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}
_QUOTES: Final = "\"'`"
_MARKS: Final = frozenset("([{;=<")
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# What makes a text a program: bare names and constants are Python too, and so is any single word.
_CONSTRUCTS: Final = (
    *_DEFINITIONS,
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.With, ast.Try),
    *(ast.Import, ast.ImportFrom, ast.Call, ast.Lambda, ast.BinOp, ast.Compare, ast.Subscript),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


def code_of(answer: str) -> str:
    """The program in an answer: its first fenced block, or the whole answer if it has none."""
    found = _FENCE.search(answer)
    return found[2] if found else answer


def python_constructs(code: str) -> frozenset[type] | None:
    """The constructs of a Python program, empty for bare names and constants; None if a text is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes, which parse all the same
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not tree.body:
        return None
    return frozenset(type(node) for node in ast.walk(tree) if isinstance(node, _CONSTRUCTS))


def is_balanced(code: str) -> bool:
    """Whether brackets and quotes of a program in any language come in pairs.

    Brackets within quotes do not count; an apostrophe within a word is no quote, behind a single letter (``f'``) it is.
    """
    opened: list[str] = []
    quote = ""
    text = _ESCAPED.sub("", code)
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = "" if character == "'" and _APOSTROPHE.match(text, max(place - 2, 0), place + 2) else character
        elif character in _PAIRS.values():
            opened.append(character)
        elif character in _PAIRS and (not opened or opened.pop() != _PAIRS[character]):
            return False
    return not opened and not quote


def code_parses(prediction: str, reference: str, labels: Labels = None) -> float:
    """1.0 if the answer has the form of a program of the kind of the right one, else 0.0: no more than form.

    The program is the first fenced block, or else the whole answer. Where the right answer is Python, the answer must
    parse too, define a function or class if the right one does, and share a construct with it (an assignment, a loop, a
    call, ...). Where the right answer is in another language, the answer must hold at least half of the marks
    ``( [ { ; = <`` that the right one has, with brackets and quotes in pairs, unless those of the right one are not
    either. Where it is a bare value or prose, which have no form, the answer must be the same but for white space.
    The labels play no part.

    Source: the check by abstract syntax tree that is usual where code may not be run.
    """
    code, right = code_of(prediction), code_of(reference)
    wanted = python_constructs(right)
    if wanted:
        found = python_constructs(code) or frozenset()
        defines = any(kind in found for kind in _DEFINITIONS) or not any(kind in wanted for kind in _DEFINITIONS)
        return float(defines and bool(found & wanted))
    marks = _MARKS & set(right)
    if wanted is not None or not marks:
        return float(bool(code.strip()) and code.split() == right.split())
    return float(2 * len(marks & set(code)) >= len(marks) and (is_balanced(code) or not is_balanced(right)))


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
