from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from evertune.metrics import METRICS
from evertune.metrics.text import ScriptTokenizer, exact_match, normalise, rouge1, rouge_l


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Very   Negative\n", "very negative"),
        ("Sci/Tech.", "scitech"),
        ("It's -3!", "its 3"),
        ("the answer", "the answer"),
        ("", ""),
        ("?!.", ""),
        ("Été – “oui”", "été – “oui”"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
@settings(deadline=None)
def test_normalise_against_a_plain_loop(text: str) -> None:
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    assert normalise(text) == " ".join(kept.split())
    assert normalise(normalise(text)) == normalise(text)


def test_exact_match() -> None:
    assert exact_match("World.", "world") == 1.0
    assert exact_match("worlds", "world") == 0.0
    assert exact_match("", "world") == 0.0


LATIN = st.text(alphabet=string.ascii_letters + string.digits + " .,-'éß\n", max_size=60)


@given(LATIN, LATIN)
@settings(deadline=None)
def test_latin_text_scores_as_the_published_scorer_does(prediction: str, reference: str) -> None:
    published = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(reference, prediction)
    assert rouge1(prediction, reference) == published["rouge1"].fmeasure
    assert rouge_l(prediction, reference) == published["rougeL"].fmeasure


def test_rouge_worked_out_by_hand() -> None:
    # Stems: running/runs -> run, dogs -> dog. Shared tokens: the, dog, run (3 of 4 and 3 of 3).
    assert rouge1("the dogs running home", "dog runs the") == pytest.approx(2 * (3 / 4) * 1 / (3 / 4 + 1))
    # Longest common subsequence: dog run (2 of 4 and 2 of 3).
    assert rouge_l("the dogs running home", "dog runs the") == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))


@pytest.mark.parametrize("pair", [("", ""), ("", "word"), ("word", ""), ("...", "word")])
def test_rouge_of_nothing_is_zero(pair: tuple[str, str]) -> None:
    assert rouge1(*pair) == rouge_l(*pair) == 0.0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("我爱北京。", ["我", "爱", "北", "京"]),
        ("カメラ", ["カ", "メ", "ラ"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("GPT-4模型 runs", ["gpt", "4", "模", "型", "run"]),
        ("Привет, мир!", ["привет", "мир"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("café running", ["caf", "run"]),
    ],
)
def test_tokens_of_other_scripts(text: str, tokens: list[str]) -> None:
    assert ScriptTokenizer().tokenize(text) == tokens


def test_chinese_is_scored_by_characters() -> None:
    # 4 of 5 characters are shared, in order.
    assert rouge1("我爱北京人", "我爱南京人") == pytest.approx(0.8)
    assert rouge_l("人京北爱我", "我爱南京人") == pytest.approx(2 / 5 / 2)
    assert RougeScorer(["rouge1"], use_stemmer=True).score("我爱南京人", "我爱北京人")["rouge1"].fmeasure == 0


def test_the_registry_knows_every_metric() -> None:
    on_texts = ["exact_match", "accuracy", "f1", "rouge1", "rougeL"]
    assert METRICS.names()[:5] == on_texts
    for name in on_texts:
        metric = METRICS.get(name)
        assert metric.name == name
        assert metric.range == (0.0, 1.0)
        assert metric.higher_is_better
        assert metric.binary == (not name.startswith("rouge"))
        assert metric.score(["yes", ""], ["yes", "yes"], ["yes", "no"]) in (0.5, pytest.approx(2 / 3))
        assert metric.score([], []) is None
        assert metric.standard_error([], []) is None
        with pytest.raises(ValueError, match="shorter"):
            metric.score(["a"], [])


def test_scores_of_all_rows_are_means_of_the_rows() -> None:
    metric = METRICS.get("rougeL")
    predictions, references = ["the dog", "a cat", ""], ["the dog", "the cat", "x"]
    assert metric.rows(predictions, references) == [1.0, 0.5, 0.0]
    assert metric.score(predictions, references) == pytest.approx(0.5)
