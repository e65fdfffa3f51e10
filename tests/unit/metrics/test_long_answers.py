"""Answers that a model may run on for: the time to read them grows with their length, not with its square."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable

import pytest

from evertune.metrics.arguments import NOWHERE, arguments_of
from evertune.metrics.entities import tags_of
from evertune.metrics.json_answers import members_in

KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*', re.DOTALL)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize("piece", ['\\"', '"', '"a" ', '"a\\"b": ', '\\\\"', '"k":"\\"k\\":'])
def test_quotation_marks(piece: str) -> None:
    # One quotation mark in front made this take 15 s.
    assert seconds(lambda: list(members_in('"' + piece * (40_000 // len(piece))))) < 2


def test_the_first_key_is_that_of_a_search_from_every_place() -> None:
    numbers = random.Random(0)
    for _ in range(3000):
        text = "".join(numbers.choice(['"', '"', "\\", ":", "a", " "]) for _ in range(numbers.randint(1, 14)))
        found = KEY.search(text)
        text += '1 "end": 2' if found is None else ""
        expected = KEY.search(text)
        assert expected is not None
        value = "7 " + "x" * 3
        whole = text[: expected.end()] + value
        first = next(members_in(whole), None)
        try:
            name = json.loads(f'"{expected[1]}"')
        except ValueError:
            continue
        assert first == (name, 7), whole


def test_equal_mentions() -> None:
    text = "ab " * 2000
    answer = json.dumps({"who": ["ab"] * 600, "whom": ["cd"] * 600})
    found: list[list[tuple[str, int, int]]] = []
    assert seconds(lambda: found.append(arguments_of(answer, text, (3000, 3002), ["who"]))) < 1
    assert len(set(found[0][:600])) == 600
    assert found[0][600:] == [("whom", *NOWHERE)] * 600
    tokens = ["ab"] * 3000
    entities = json.dumps([{"type": "x", "text": word} for word in ["ab", "cd", "abab", "b"] * 300])
    assert seconds(lambda: tags_of(entities, tokens)) < 1
