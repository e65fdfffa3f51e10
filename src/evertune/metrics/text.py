"""Metrics on free text: exact match under the published normalisation, ROUGE and BLEU."""

from __future__ import annotations

import functools
import itertools
import re
import string
import unicodedata
from collections.abc import Iterator
from typing import Any, Final, cast

from evertune.metrics.base import Labels, Metric

_WITHOUT_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)

# Blocks of scripts that are written without spaces between words.
_UNSPACED_BLOCKS: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark and zero
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),  # Bopomofo and Katakana extensions
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x20000, 0x3FFFF),  # Han, further extensions
)
# Latin letters with marks lie below this or in the block after it; rouge_score knows only a-z and drops the others.
_FIRST_NON_LATIN: Final = 0x0370
_LATIN_ADDITIONAL: Final = (0x1E00, 0x1EFF)


def normalise(text: str) -> str:
    """Lower-case, without ASCII punctuation, white space collapsed.

    Source: the CL benchmark's published scorer (SQuAD's normalisation without the removal of articles).
    """
    return " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())


def exact_match(prediction: str, reference: str, labels: Labels = None) -> float:
    """1.0 if both are the same after `normalise`, else 0.0. The labels play no part."""
    return float(normalise(prediction) == normalise(reference))


@functools.lru_cache(maxsize=1 << 14)
def _kind(character: str) -> str:
    """``character`` in a script without spaces, ``word`` for a letter of another script, ``latin`` for all the rest."""
    code = ord(character)
    if code < _FIRST_NON_LATIN or _LATIN_ADDITIONAL[0] <= code <= _LATIN_ADDITIONAL[1]:
        return "latin"
    if unicodedata.category(character)[0] not in "LMN":
        return "latin"
    if any(first <= code <= last for first, last in _UNSPACED_BLOCKS):
        return "character"
    return "word"


def script_pieces(text: str) -> Iterator[tuple[str, str]]:
    """Stretches of a text in one kind of script, in order: (kind, stretch).

    The kind is ``latin`` for Latin letters and all that are no letters of another script, ``character`` for scripts
    without spaces between words, and ``word`` for other scripts.
    """
    for kind, characters in itertools.groupby(text, _kind):
        yield kind, "".join(characters)


class ScriptTokenizer:
    """Tokenizer for `rouge_score` that does not throw other scripts away.

    Latin text goes through rouge_score's own tokenizer with the Porter stemmer, so that published numbers stay what
    they are. Scripts without spaces give one token a character; other scripts (Cyrillic, Arabic, Hangul, ...) give
    their words, unstemmed.
    """

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer  # pyright: ignore[reportMissingTypeStubs]

        self._latin: Any = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Tokens of a text, in order."""
        tokens: list[str] = []
        for kind, piece in script_pieces(text.lower()):
            if kind == "latin":
                tokens += cast("list[str]", self._latin.tokenize(piece))
            else:
                tokens += list(piece) if kind == "character" else [piece]
        return tokens


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingTypeStubs]

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=ScriptTokenizer())


# Short answers repeat, and the metrics are read from one computation.
@functools.lru_cache(maxsize=1 << 16)
def _rouge(prediction: str, reference: str) -> dict[str, float]:
    scores = _scorer().score(reference, prediction)
    return {name: float(each.fmeasure) for name, each in scores.items()}


def rouge1(prediction: str, reference: str, labels: Labels = None) -> float:
    """F1 of the shared tokens (ROUGE-1) with Porter stemming, in [0, 1]. The labels play no part.

    Source: Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    return _rouge(prediction, reference)["rouge1"]


def rouge2(prediction: str, reference: str, labels: Labels = None) -> float:
    """F1 of the shared pairs of neighbouring tokens (ROUGE-2), stemmed, in [0, 1]. The labels play no part.

    Source: Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    return _rouge(prediction, reference)["rouge2"]


def rouge_l(prediction: str, reference: str, labels: Labels = None) -> float:
    """F1 of the longest common subsequence of tokens (ROUGE-L), stemmed, in [0, 1]. The labels play no part.

    Source: Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    return _rouge(prediction, reference)["rougeL"]


_LATIN_TOKEN: Final = re.compile(r"\w+|[^\w\s]")


def _bleu_tokens(text: str) -> list[str]:
    """Characters of scripts without spaces, words of others, punctuation marks one by one; case is kept."""
    tokens: list[str] = []
    for kind, piece in script_pieces(text):
        tokens += list(piece) if kind == "character" else cast("list[str]", _LATIN_TOKEN.findall(piece))
    return tokens


# The row, its score in the mean and its error are read from one computation.
@functools.lru_cache(maxsize=1 << 14)
def _bleu(prediction: str, reference: str) -> float:
    from nltk.translate.bleu_score import (  # pyright: ignore[reportMissingTypeStubs]
        SmoothingFunction,
        sentence_bleu,  # pyright: ignore[reportUnknownVariableType]
    )

    found, right = _bleu_tokens(prediction), _bleu_tokens(reference)
    if not found or not right:
        return float(found == right)
    score = cast("Any", sentence_bleu)([right], found, smoothing_function=cast("Any", SmoothingFunction)().method3)
    return min(1.0, float(score))


def bleu4(prediction: str, reference: str, labels: Labels = None) -> float:
    """BLEU of one answer up to four neighbouring tokens, smoothed, in [0, 1]; a score is the mean over rows.

    Chinese text gives one token a character, as the evaluation of ChatGLM-6B does; there Latin words and numbers fall
    into characters too, here they are one token each.

    Source: Papineni et al. (2002); smoothing is method 3 of Chen and Cherry (2014) by nltk, as in the fine-tuning
    scripts of ChatGLM-6B and ChatGLM2-6B.
    """
    return _bleu(prediction, reference)


EXACT_MATCH = Metric(name="exact_match", per_row=exact_match, binary=True)
ROUGE1 = Metric(name="rouge1", per_row=rouge1, binary=False)
ROUGE2 = Metric(name="rouge2", per_row=rouge2, binary=False)
ROUGE_L = Metric(name="rougeL", per_row=rouge_l, binary=False)
BLEU4 = Metric(name="bleu4", per_row=bleu4, binary=False, beside=("rouge1", "rouge2", "rougeL"))
