"""What errors say, and with which exit code they end."""

from __future__ import annotations

import pickle

import pytest

from evertune.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EvertuneError,
    Interrupted,
    MemoryExhaustedError,
    NonFiniteError,
    Problem,
    RunError,
    did_you_mean,
)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (
            Problem("run.yaml:4:3", "There is no key `lr`.", "Did you mean x?"),
            "run.yaml:4:3: There is no key `lr`. Did you mean x?",
        ),
        (Problem("", "It is late."), "It is late."),
        (Problem("here", "It is late."), "here: It is late."),
        (Problem("", "It is late.", "Sleep."), "It is late. Sleep."),
    ],
)
def test_a_problem_says_where_what_and_instead(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_an_error_takes_a_text_a_problem_or_many() -> None:
    assert str(ConfigError("No.", where="key", instead="Yes.")) == "key: No. Yes."
    assert ConfigError(Problem("key", "No.")).problems == (Problem("key", "No."),)
    many = DataError(Problem(f"rows.jsonl:{line}", "Empty.") for line in (1, 2))
    assert str(many) == "rows.jsonl:1: Empty.\nrows.jsonl:2: Empty."
    assert [problem.where for problem in many.problems] == ["rows.jsonl:1", "rows.jsonl:2"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ConfigError, 2),
        (DataError, 2),
        (CheckpointError, 2),
        (RunError, 1),
        (NonFiniteError, 1),
        (MemoryExhaustedError, 1),
        (Interrupted, 130),
    ],
)
def test_exit_codes(kind: type[EvertuneError], code: int) -> None:
    assert kind("x").exit_code == code


def test_an_error_travels_between_processes_whole() -> None:
    error = ConfigError([Problem("a", "One.", "Do."), Problem("b", "Two.")])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ConfigError
    assert again.problems == error.problems
    assert str(again) == str(error)


@pytest.mark.parametrize(
    ("word", "options", "text"),
    [
        ("learning_rat", ["learning_rate", "optim"], "Did you mean `learning_rate`?"),
        ("DBPedia", ["dbpedia", "amazon"], "Did you mean `dbpedia`?"),
        ("mnli", ["MNLI"], "Did you mean `MNLI`?"),
        ("zzz", ["a", "b"], "Write one of: a, b."),
        ("zzz", [], ""),
        ("zzz", [f"o{n}" for n in range(12)], "Write one of: o0, o1, o2, o3, o4, o5, o6, o7, o8, o9, o10, o11."),
        ("zzz", [f"o{n}" for n in range(13)], "Write one of: o0, o1, o2, o3, o4, o5, o6, o7, o8, o9, o10, o11, ...."),
    ],
)
def test_suggestions(word: str, options: list[str], text: str) -> None:
    assert did_you_mean(word, options) == text
