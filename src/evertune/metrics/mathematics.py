"""Grade-school mathematics: whether the last number of an answer is the right one."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from evertune.metrics.base import Labels, Metric

_STRICT = re.compile(r"#### +(-?[$0-9.,]*[0-9][0-9.,]*)")
_NUMBER = re.compile(r"-?[$0-9.,]*[0-9][0-9.,]*")


def number_of(text: str) -> Decimal | None:
    """The value of a number as people write it: commas, dollar signs and a full stop behind it are left out."""
    try:
        return Decimal(text.replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return None


def marked_number(answer: str) -> Decimal | None:
    """The number behind the last ``####`` that a number follows; None if there is none."""
    found = _STRICT.findall(answer)
    return number_of(found[-1]) if found else None


def last_number(answer: str) -> Decimal | None:
    """The last number of a text; None if there is none."""
    found = _NUMBER.findall(answer)
    return number_of(found[-1]) if found else None


def _expected(reference: str) -> Decimal | None:
    marked = marked_number(reference)
    return last_number(reference) if marked is None else marked


def gsm8k_strict(prediction: str, reference: str, labels: Labels = None) -> float:
    """1.0 if the number behind the last ``####`` of the answer is the right one by value, else 0.0.

    The right one is the number behind ``####`` of the reference, or its last number if it has no such mark. The labels
    play no part.

    Source: Cobbe et al. (2021), arXiv:2110.14168; the strict filter of the lm-evaluation-harness task ``gsm8k``.
    """
    found = marked_number(prediction)
    return float(found is not None and found == _expected(reference))


def gsm8k_flexible(prediction: str, reference: str, labels: Labels = None) -> float:
    """1.0 if the last number of the answer, wherever it stands, is the right one by value, else 0.0.

    The gap to `gsm8k_strict` is format, not mathematics. The labels play no part.

    Source: the flexible filter of the lm-evaluation-harness task ``gsm8k``.
    """
    found = last_number(prediction)
    return float(found is not None and found == _expected(reference))


GSM8K_STRICT = Metric(name="gsm8k_strict", per_row=gsm8k_strict, binary=True, beside=("gsm8k_flexible",))
GSM8K_FLEXIBLE = Metric(name="gsm8k_flexible", per_row=gsm8k_flexible, binary=True)
