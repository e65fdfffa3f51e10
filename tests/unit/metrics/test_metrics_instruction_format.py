from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.metrics.base import Row
from evertune.metrics.instruction_format import constraints, instruction_format, is_clean


def score(instruction: str, answer: str) -> float:
    return instruction_format(answer, "unused", Row(instruction=instruction))


THREE = "Dr. Smith paid 3.50 dollars. Why? Nobody knows!"
LIST = "- red\n- green\n- blue"


@pytest.mark.parametrize(
    ("instruction", "met", "missed"),
    [
        ("Describe a whale in one word.", "Huge.", "Very big."),
        ("Answer with a single word", "Yes", "Yes, indeed"),
        ("Create a 5-word phrase.", "We like to read books.", "We read."),
        ("Describe a cow in 20 words.", "moo " * 23, "moo " * 30),
        ("Describe a cow in exactly 20 words.", "moo " * 20, "moo " * 21),
        ("Explain it in about 10 words.", "so " * 12, "so " * 13),
        ("In 10 words or less, say why.", "because", "so " * 11),
        ("Say it in fewer than 3 words.", "so what", "so what now"),
        ("Use at most 3 words.", "one two three", "one two three four"),
        ("Write at least 3 words.", "one two three", "one two"),
        ("Write more than 3 words.", "one two three four", "one two three"),
        ("Write a story between 3 and 5 words.", "one two three four", "one two"),
        ("Write 2-3 sentences about it.", "One. Two.", "One."),
        ("Tell me in three sentences why.", THREE, "Because."),
        ("Write a one-sentence summary.", "It is so", "It is. So."),
        ("Write a two paragraph essay with two paragraphs.", "A. B.\n\nC.", "A."),
        ("Answer in 3 bullet points.", LIST, "- red\n- green"),
        ("Answer as a bulleted list.", "* red", "red, green"),
        ("Explain the steps in a numbered list.", "1. Go\n2. Stop", "- Go\n- Stop"),
        ("Return the result as JSON.", '```json\n{"a": 1}\n```', "a: 1"),
        ("Convert it into a JSON object", "[1]", "{1}"),
        ("List colours in a comma-separated format.", "red, green", LIST),
        ("Reply in all caps.", "STOP IT", "Stop it"),
        ("Reply in lowercase letters.", "stop it", "Stop it"),
        ('Start your answer with "Dear Sir".', "Dear sir, hello", "Hello"),
        ('Write a story. End the story with "the end".', "Once. The end.", "The end came late"),
    ],
)
def test_constraints(instruction: str, met: str, missed: str) -> None:
    assert score(instruction, met) == 1
    assert score(instruction, missed) < 1


@pytest.mark.parametrize(
    "instruction",
    [
        "Generate 5 words that rhyme with cat.",
        "You are provided with two paragraphs. Count the adjectives.",
        "Explain the JSON file format.",
        "Sort the words that begin with 'a'.",
        "Convert the sentence to uppercase.",
        "Write a sentence about three words.",
        "Form a sentence using the following 3 words: sun, sea, sand",
        "Why do people speak in tongues?",
        "",
    ],
)
def test_what_is_no_constraint_on_the_answer(instruction: str) -> None:
    assert list(constraints(instruction)) == []


def test_the_score_is_the_share_that_is_met() -> None:
    instruction = "Answer in two sentences, in all caps."
    assert [score(instruction, answer) for answer in ("A. B.", "a. b.", "a", "")] == [1, 0.5, 0, 0]


def test_a_blank_answer_meets_no_bound() -> None:
    assert score("Use at most 50 words.", " \n") == 0


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        ("Yes", True),
        ("", False),
        ("It is because,", False),
        ("These are:", False),
        ("```python\nx = 1", False),
        ("```python\nx = 1\n```", True),
        ("Sure. [INST] Next question", False),
        ("Sure.\n### Response:\nYes", False),
        ("Sure.</s>", False),
        ("no " * 13, True),
        ("no " * 14, False),
        ("do it now please " * 10, True),
        ("do it now please " * 11, False),
    ],
)
def test_without_a_constraint_an_answer_is_to_be_clean(answer: str, clean: bool) -> None:
    assert is_clean(answer) == clean
    assert score("Tell me.", answer) == float(clean)


WORDS = ("in", "at", "most", "3", "five", "words", "or", "less", "-", "to", "sentences", "json", "start with", '"a"')


@given(instruction=st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join), answer=st.text())
def test_any_row_is_scored(instruction: str, answer: str) -> None:
    assert 0 <= score(instruction, answer) <= 1
