from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.metrics.mathematics import gsm8k_flexible, gsm8k_strict

WORKED = "She buys 3 boxes of 4.\n3 * 4 = <<3*4=12>>12\n#### 12"


@pytest.mark.parametrize(
    ("answer", "strict", "flexible"),
    [
        (WORKED, 1, 1),
        ("#### 12.", 1, 1),
        ("#### 12.00", 1, 1),
        ("#### $12", 1, 1),
        ("#### 012", 1, 1),
        ("#### 12 boxes", 1, 1),
        ("#### 3\nNo, wait.\n#### 12", 1, 1),
        ("#### 12\n#### 3", 0, 0),
        ("#### 12, that is 3 times 4", 1, 0),
        ("####12", 0, 1),
        ("The answer is 12", 0, 1),
        ("The answer is $12.00.", 0, 1),
        ("12 boxes of 3", 0, 0),
        ("#### -12", 0, 0),
        ("#### 12.5", 0, 0),
        ("#### 1.2.3", 0, 0),
        ("#### twelve", 0, 0),
        ("#### ", 0, 0),
        ("#### $.,", 0, 0),
        ("", 0, 0),
    ],
)
def test_answers_to_a_question_whose_answer_is_twelve(answer: str, strict: float, flexible: float) -> None:
    assert (gsm8k_strict(answer, WORKED), gsm8k_flexible(answer, WORKED)) == (strict, flexible)


def test_commas_and_signs() -> None:
    assert gsm8k_strict("#### 1200000", "#### 1,200,000") == 1
    assert gsm8k_strict("#### 1,200,000.0", "#### 1200000") == 1
    assert gsm8k_strict("#### -5", "#### -5") == 1
    assert gsm8k_flexible("It fell to -5.", "#### -5") == 1
    assert gsm8k_flexible("It is 0.5", "#### .5") == 1


def test_a_reference_without_mark_ends_with_its_answer() -> None:
    assert gsm8k_strict("#### 7", "3 + 4 = 7") == 1
    assert gsm8k_strict("#### 7", "no number") == 0


@given(value=st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_the_way_a_number_is_written_plays_no_part(value: Decimal) -> None:
    for written in (f"{value}", f"{value:,}", f"{value}0", f"{value}."):
        assert gsm8k_strict(f"#### {written}", f"#### {value}") == 1
        assert gsm8k_flexible(f"so it is {written}", f"#### {value}") == 1
    assert gsm8k_strict(f"#### {value + 1}", f"#### {value}") == 0


@given(answer=st.text())
def test_any_text_is_scored(answer: str) -> None:
    assert gsm8k_strict(answer, WORKED) in (0, 1)
    assert gsm8k_flexible(answer, WORKED) in (0, 1)
    # No letter and no second mark comes behind: both read the same number.
    assert gsm8k_flexible(f"{answer}\n#### 12", WORKED) == gsm8k_strict(f"{answer}\n#### 12", WORKED) == 1
