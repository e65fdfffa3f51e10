"""Whether an answer has the form that its instruction asks for, as far as that can be checked without a judge."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from evertune.metrics.base import Metric, Row
from evertune.metrics.code import code_of

Check = Callable[[str], bool]

_NUMBERS: Final = {
    **{"a single": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8},
    **{"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "fifty": 50, "a hundred": 100},
}
_STRICTLY_BELOW: Final = ("under", "fewer than", "less than")
_AT_MOST: Final = (
    *_STRICTLY_BELOW,
    *("at most", "no more than", "not more than", "no longer than", "up to", "within"),
    *("a maximum of", "maximum"),
)
_STRICTLY_ABOVE: Final = ("more than", "over")
_AT_LEAST: Final = (
    *_STRICTLY_ABOVE,
    *("at least", "no fewer than", "no less than", "not less than", "a minimum of", "minimum"),
)
_ABOUT: Final = ("about", "around", "approximately", "roughly")
_TOLERANCE: Final = 0.2
_FREE_ABOVE: Final = 10
"""A bare number of words above this is taken for "about"."""


def _any_of(*phrases: str) -> str:
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


_NUMBER: Final = rf"(\d{{1,5}}|{_any_of(*_NUMBERS)})"
_UNIT: Final = r"(word|sentence|paragraph|bullet point)s?\b"
# "in 3 sentences", "with at least two paragraphs", "a 100-word essay", "in 10 words or less".
_LENGTH: Final = re.compile(
    rf"(?P<asked>(?<!provided )(?<!presented )\b(?:in|with|to) (?:only |just )?)?"
    rf"(?:\b(?P<relation>exactly|{_any_of(*_AT_MOST, *_AT_LEAST, *_ABOUT)}) )?"
    rf"\b(?P<number>{_NUMBER})(?P<joint>[ -])(?P<unit>{_UNIT})"
    r"(?! ?(?:that|which|from|of|beginning|starting|:))(?: or (?P<bound>less|fewer|more)\b)?"
)
_RANGE: Final = re.compile(rf"\b{_NUMBER} ?(?:-|–|to|and) ?{_NUMBER}[ -]{_UNIT}")

_INTO: Final = r"\b(?:in|as|into|with|using|use) (?:an? )?(?:valid )?"
_BULLETS: Final = re.compile(_INTO + r"bullet(?:ed|s)?(?:[ -](?:points?|lists?))?\b")
_NUMBERED: Final = re.compile(_INTO + r"numbered (?:list|points?|items?|steps?)\b")
_JSON: Final = re.compile(_INTO + r"json\b(?! (?:file|schema))")
_COMMAS: Final = re.compile(_INTO + r"comma[ -]separated\b|\bseparated? (?:them )?(?:by|with) commas?\b")
_UPPER: Final = re.compile(r"\bin (?:all |only )?(?:upper ?case|capital letters|capitals|caps)\b")
_LOWER: Final = re.compile(r"\bin (?:all |only )?lower ?case\b")
_ANSWER: Final = r"(?:your|the) (?:answer|response|reply|output|text|story|poem|email|letter|essay)"
_EDGE: Final = re.compile(
    rf"(?:^|[.!?\n] *|\b{_ANSWER} (?:should |must )?)(start|begin|end|finish)s?(?: {_ANSWER})?"
    r" with (?:the (?:words?|phrase|sentence|text) )?[\"“']([^\"”']+)[\"”']",
    re.IGNORECASE,
)

_LIST_MARK: Final = re.compile(r"^[ \t]*(?:[-*•+]|\(?\d+[.):])(?=[ \t]+\S)", re.MULTILINE)
_BULLET_LINE: Final = re.compile(r"^[ \t]*[-*•+][ \t]+\S", re.MULTILINE)
_NUMBERED_LINE: Final = re.compile(r"^[ \t]*\(?\d+[.):][ \t]*\S", re.MULTILINE)
_SENTENCE_END: Final = re.compile(r"(?<!\b(?:Mr|Dr|St|vs))(?<!\b(?:Mrs|e\.g|i\.e))[.!?]+[\"”')\]]*(?=\s|$)|[。！？]")
_BLANK_LINE: Final = re.compile(r"\n\s*\n")

_TEMPLATE_MARKS: Final = (
    *("[INST]", "[/INST]", "<<SYS>>", "<s>", "</s>", "<|", "<start_of_turn>"),
    *("### Instruction", "### Response"),
)
_UNFINISHED: Final = ",:([{&–—"
_GRAM: Final = 4
_MOST_REPEATS: Final = 10


def instruction_format(prediction: str, reference: str, row: Row) -> float:
    """Share of the instruction's verifiable constraints that the answer meets, in [0, 1]; a blank answer meets none.

    Constraints are read from English instructions where their wording leaves little doubt:

    - a number of words, sentences, paragraphs or bullet points: exact, or a bound ("at most", "or more", a range);
      within 20 % after "about", and for a bare number of words above ten;
    - bullet points, a numbered list, JSON, items separated by commas, all upper or all lower case;
    - a beginning or an end in quotes.

    Where the instruction states none, the answer scores 1 if `is_clean`, else 0. Whether the answer is right is not
    told: the reference plays no part.

    Source: Zhou et al. (2023), arXiv:2311.07911 (IFEval), for constraints that a program can verify.
    """
    if not prediction.strip():
        return 0.0
    checks = list(constraints(row.instruction))
    if not checks:
        return float(is_clean(prediction))
    return sum(check(prediction) for check in checks) / len(checks)


def is_clean(answer: str) -> bool:
    """Whether an answer is whole and free of the marks of a model that went astray.

    It is not blank, does not stop at a comma, colon, dash or opening bracket or within a fenced block, shows no marker
    of a prompt template, and says no four words more than ten times.
    """
    stripped = answer.strip()
    words = stripped.lower().split()
    grams = Counter(tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1))
    return (
        bool(stripped)
        and stripped[-1] not in _UNFINISHED
        and stripped.count("```") % 2 == 0
        and not any(mark in stripped for mark in _TEMPLATE_MARKS)
        and max(grams.values(), default=0) <= _MOST_REPEATS
    )


def constraints(instruction: str) -> Iterator[Check]:
    """Checks of the constraints that an instruction states."""
    text = " ".join(instruction.lower().split())
    yield from _lengths(text)
    forms: tuple[tuple[re.Pattern[str], Check], ...] = (
        (_BULLETS, lambda answer: _BULLET_LINE.search(answer) is not None),
        (_NUMBERED, lambda answer: _NUMBERED_LINE.search(answer) is not None),
        (_JSON, _is_json),
        (_COMMAS, lambda answer: "," in answer and _LIST_MARK.search(answer) is None),
        (_UPPER, lambda answer: answer.upper() == answer and answer.lower() != answer),
        (_LOWER, lambda answer: answer.lower() == answer and answer.upper() != answer),
    )
    yield from (check for pattern, check in forms if pattern.search(text))
    for edge in _EDGE.finditer(instruction):
        yield _begins(edge[2]) if edge[1].lower() in ("start", "begin") else _ends(edge[2])


def _begins(words: str) -> Check:
    return lambda answer: answer.strip().lower().startswith(words.strip().lower())


def _ends(words: str) -> Check:
    wanted = words.strip().lower()
    # The full stop or quote that closes the answer need not be part of the words that were asked for.
    return lambda answer: answer.strip().lower().endswith(wanted) or answer.strip().lower()[:-1].endswith(wanted)


def _lengths(text: str) -> Iterator[Check]:
    """Checks of how much is to be written, the first that is stated of every unit."""
    seen: set[str] = set()
    for found in sorted([*_RANGE.finditer(text), *_LENGTH.finditer(text)], key=lambda match: match.start()):
        bounds = (_value(found[1]), _value(found[2])) if found.re is _RANGE else _bounds(found)
        unit = found[3] if found.re is _RANGE else found["unit"].removesuffix("s")
        if bounds is not None and unit not in seen:
            seen.add(unit)
            yield _within(unit, *bounds)


def _within(unit: str, least: float, most: float) -> Check:
    return lambda answer: least <= _COUNTS[unit](answer) <= most


def _bounds(found: re.Match[str]) -> tuple[float, float] | None:
    """Least and most that are asked for; None if the number is not the length of the answer."""
    relation, number, bound = found["relation"] or "", _value(found["number"]), found["bound"]
    if relation in _AT_MOST or bound in ("less", "fewer"):
        return 0, number - (relation in _STRICTLY_BELOW)
    if relation in _AT_LEAST or bound == "more":
        return number + (relation in _STRICTLY_ABOVE), float("inf")
    if relation == "exactly":
        return number, number
    if found["asked"] is None and found["joint"] == " ":
        return None
    if relation in _ABOUT or (found["unit"].startswith("word") and number > _FREE_ABOVE):
        return (1 - _TOLERANCE) * number, (1 + _TOLERANCE) * number
    return number, number


def _value(written: str) -> int:
    return _NUMBERS[written] if written in _NUMBERS else int(written)


def _words(answer: str) -> int:
    return sum(any(character.isalnum() for character in word) for word in _LIST_MARK.sub("", answer).split())


def _sentences(answer: str) -> int:
    pieces = _SENTENCE_END.split(_LIST_MARK.sub("", answer))
    return sum(any(character.isalnum() for character in piece) for piece in pieces)


def _paragraphs(answer: str) -> int:
    """Pieces between blank lines; lines, where there are no blank ones."""
    stripped = answer.strip()
    return len(_BLANK_LINE.split(stripped)) if _BLANK_LINE.search(stripped) else len(stripped.splitlines())


_COUNTS: Final[dict[str, Callable[[str], int]]] = {
    "word": _words,
    "sentence": _sentences,
    "paragraph": _paragraphs,
    "bullet point": lambda answer: len(_LIST_MARK.findall(answer)),
}


def _is_json(answer: str) -> bool:
    try:
        json.loads(code_of(answer).strip())
    except (ValueError, RecursionError):
        return False
    return True


INSTRUCTION_FORMAT = Metric(name="instruction_format", row_score=instruction_format, binary=False)
