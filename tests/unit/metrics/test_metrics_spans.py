"""Answers in passages are scored as SQuAD's own script does; BLEU and the images' score beside."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from evertune.metrics import METRICS
from evertune.metrics.base import TARGET, Likelihood, Row
from evertune.metrics.spans import NO_ANSWER, answer_tokens

ENGLISH = [
    ("the last statement", "his last statement"),
    ("The Latin.", "Latin"),
    ("a  b-c", "bc a"),
    ("", "x"),
    ("308 points", "308"),
    ("new york new york", "New York"),
    ("An apple; the pear", "apple pear"),
]


def published(text: str) -> list[str]:
    """The words that evaluate-v2.0.py of SQuAD compares."""
    lowered = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split()).split()


def published_f1(right: str, answer: str) -> float:
    gold, found = published(right), published(answer)
    same = sum((Counter(gold) & Counter(found)).values())
    if not gold or not found:
        return float(gold == found)
    if same == 0:
        return 0.0
    precision, recall = same / len(found), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def scored(name: str, answer: str, *answers: str) -> float:
    return METRICS.get(name).score([answer], [""], None, [Row(facts={"passage": {"answers": answers}})])


@pytest.mark.parametrize(("answer", "right"), ENGLISH)
def test_english_is_scored_as_by_the_published_script(answer: str, right: str) -> None:
    assert scored("squad_f1", answer, right) == pytest.approx(published_f1(right, answer))
    assert scored("squad_exact", answer, right) == (published(right) == published(answer))


def test_the_nearest_answer_counts() -> None:
    assert scored("squad_exact", "Latin", "the tongue", "Latin") == 1
    assert scored("squad_f1", "Latin tongue", "Greek", "Latin") == pytest.approx(2 / 3)


def test_passages_without_an_answer() -> None:
    for name in ("squad_f1", "squad_exact"):
        assert [scored(name, each) for each in ("", NO_ANSWER, "Unanswerable.", "Latin")] == [1, 1, 1, 0]
        assert [scored(name, each, "Latin") for each in ("", NO_ANSWER, "Latin")] == [0, 0, 1]


def test_chinese_is_scored_by_characters() -> None:
    assert answer_tokens("“我们是 iPhone 12 用户”。") == ["我", "们", "是", "iphone", "12", "用", "户"]
    assert scored("squad_exact", "《最后声明》", "最后声明") == 1
    assert scored("squad_f1", "最后的", "最后声明") == pytest.approx(2 * 2 / (3 + 4))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("透视蕾丝连衣裙，修饰腰线。", "蕾丝立体连衣裙，修饰身材曲线。"),
        ("蕾丝", "立体连衣裙"),
        ("好", "好"),
        ("这款裙子很好看，穿着舒适", "这款裙子很好看，穿着舒适"),
    ],
)
def test_bleu_of_chinese_is_that_of_the_published_scripts(answer: str, right: str) -> None:
    # What the fine-tuning scripts of ChatGLM-6B compute.
    expected = sentence_bleu([list(right)], list(answer), smoothing_function=SmoothingFunction().method3)
    assert METRICS.get("bleu4").score([answer], [right]) == pytest.approx(expected)


def test_bleu_of_words() -> None:
    words = [["the", "cat", "sat", "on", "a", "mat", "."], ["the", "cat", "lay", "on", "a", "mat", "."]]
    expected = sentence_bleu([words[1]], words[0], smoothing_function=SmoothingFunction().method3)
    assert METRICS.get("bleu4").score(["the cat sat on a mat."], ["the cat lay on a mat."]) == pytest.approx(expected)
    assert METRICS.get("bleu4").rows(["", "a", ""], ["a", "", ""]) == [0, 0, 1]


def test_rouge2() -> None:
    answer, right = "the cats sat on a mat", "the cat sat on the mat"
    expected = RougeScorer(["rouge2"], use_stemmer=True).score(right, answer)["rouge2"].fmeasure
    assert METRICS.get("rouge2").score([answer], [right]) == pytest.approx(expected)
    assert METRICS.get("rouge2").score(["好看的裙子"], ["好看裙子"]) == pytest.approx(2 * 2 / (4 + 3))


def test_noise_explained() -> None:
    losses = [(25.0, 100), (100.0, 100), (300.0, 100), (float("nan"), 100), (0.0, 100)]
    rows = [Row(likelihoods={TARGET: Likelihood(*each)}) for each in losses]
    scores = METRICS.get("noise_explained").rows([""] * 5, [""] * 5, None, rows)
    assert scores == [0.75, 0, 0, 0, 1]
