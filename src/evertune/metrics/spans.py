"""Answers that are words of a passage, scored as SQuAD is."""

from __future__ import annotations

import functools
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable

from evertune.metrics.base import Metric, Row
from evertune.metrics.text import script_pieces

FACT = "passage"
"""Name in `Row.facts` of ``{"answers": [...]}``, empty where the passage holds no answer."""

NO_ANSWER = "unanswerable"
"""What is answered where a passage holds no answer."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")


@functools.cache
def _punctuation() -> dict[int, None]:
    unicode = (code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("P"))
    return dict.fromkeys([*unicode, *map(ord, string.punctuation)])


def answer_tokens(answer: str) -> list[str]:
    """Lower-case words without punctuation and English articles; single characters of scripts without spaces.

    Source: the evaluation of SQuAD (Rajpurkar et al., 2016); characters and punctuation of other scripts as in that of
    MLQA (Lewis et al., 2020) and CMRC 2018, whose articles of other languages stay here.
    """
    text = _ARTICLES.sub(" ", answer.lower().translate(_punctuation()))
    spaced = (f" {' '.join(piece)} " if kind == "character" else piece for kind, piece in script_pieces(text))
    return "".join(spaced).split()


def _tokens(answer: str) -> list[str]:
    tokens = answer_tokens(answer)
    return [] if tokens == [NO_ANSWER] else tokens


def _overlap(found: list[str], right: list[str]) -> float:
    common = sum((Counter(found) & Counter(right)).values())
    if not found or not right:
        return float(found == right)
    return 2 * common / (len(found) + len(right))


def _same(found: list[str], right: list[str]) -> float:
    return float(found == right)


def _best(prediction: str, row: Row, score: Callable[[list[str], list[str]], float]) -> float:
    """The score against the accepted answer that is nearest; against nothing where none is accepted."""
    answers: list[str] = [text for text in row.facts[FACT]["answers"] if answer_tokens(text)] or [""]
    return max(score(_tokens(prediction), _tokens(answer)) for answer in answers)


def squad_f1(prediction: str, reference: str, row: Row) -> float:
    """F1 of the words that an answer shares with the nearest accepted one, in [0, 1].

    Where the passage holds no answer, 1 for an empty one or `NO_ANSWER`, else 0.

    Source: Rajpurkar et al. (2016, 2018), arXiv:1606.05250 and arXiv:1806.03822; see `answer_tokens`.
    """
    return _best(prediction, row, _overlap)


def squad_exact(prediction: str, reference: str, row: Row) -> float:
    """1.0 if an answer has the words of an accepted one, else 0.0; see `squad_f1`.

    Source: as for `squad_f1`.
    """
    return _best(prediction, row, _same)


SQUAD_F1 = Metric(name="squad_f1", row_score=squad_f1, binary=False, content=FACT, beside=("squad_exact",))
SQUAD_EXACT = Metric(name="squad_exact", row_score=squad_exact, binary=True, content=FACT)
