"""Prompts and answers to ids: what is cut, what never is, and what no text may become."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from evertune.backbones.encoding import RowEncoder
from evertune.backbones.language_model import LanguageModel
from evertune.backbones.truncation import levelled
from evertune.errors import CapabilityError, DataError
from evertune.streams.examples import PromptTarget, Segment

from .conftest import CORPUS, row, train_tokenizer

Load = Callable[[str], LanguageModel]

CAUSAL_ENCODER = RowEncoder(train_tokenizer(frame="<s> $A"), LlamaConfig(vocab_size=400))
FRAMED_ENCODER = RowEncoder(train_tokenizer(frame="<s> $A </s>"), T5Config(vocab_size=400))
BYTE_ENCODER = RowEncoder(ByT5Tokenizer(), T5Config(vocab_size=400))
ENCODERS = [CAUSAL_ENCODER, FRAMED_ENCODER, BYTE_ENCODER]


def ids_of(encoder: RowEncoder, text: str) -> list[int]:
    return encoder.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def decoded(encoder: RowEncoder, ids: tuple[int, ...]) -> str:
    return encoder.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_causal_rows_begin_with_bos_and_end_with_eos() -> None:
    one = row("very happy")
    (found,) = CAUSAL_ENCODER.encode([one], max_source_length=64, max_target_length=32)
    assert found.prompt == (1, *ids_of(CAUSAL_ENCODER, one.prompt_text))
    assert found.target == (*ids_of(CAUSAL_ENCODER, "very happy"), 2)
    assert (found.id, found.source_cut, found.target_cut) == (one.id, False, False)
    assert found.length == len(found.prompt) + len(found.target)


def test_an_end_token_that_the_tokenizer_adds_to_a_causal_prompt_is_taken_off() -> None:
    encoder = RowEncoder(train_tokenizer(frame="<s> $A </s>"), LlamaConfig(vocab_size=400))
    (found,) = encoder.encode([row()], max_source_length=64, max_target_length=32)
    assert 2 not in found.prompt
    assert found.target.count(2) == 1


def test_no_bos_where_the_tokenizer_adds_none() -> None:
    encoder = RowEncoder(train_tokenizer(), LlamaConfig(vocab_size=400))
    (found,) = encoder.encode([row()], max_source_length=64, max_target_length=32)
    assert found.prompt == tuple(ids_of(encoder, row().prompt_text))


def test_encoder_decoders_frame_both_sides_as_their_tokenizer_does() -> None:
    one = row("very happy")
    (found,) = FRAMED_ENCODER.encode([one], max_source_length=64, max_target_length=32)
    assert found.prompt == tuple(FRAMED_ENCODER.tokenizer(one.prompt_text)["input_ids"])
    assert found.target == tuple(FRAMED_ENCODER.tokenizer("very happy")["input_ids"])
    assert (found.target[0], found.target[-1]) == (1, 2)


def test_labels_are_encoded_like_answers() -> None:
    for encoder in ENCODERS:
        rows = [row(label, id=str(index)) for index, label in enumerate(["good", "very bad", "x"])]
        targets = [one.target for one in encoder.encode(rows, max_source_length=96, max_target_length=32)]
        assert encoder.label_ids([one.target for one in rows]) == targets


def test_an_empty_prompt_still_has_a_token_that_predicts_the_answer() -> None:
    encoder = RowEncoder(train_tokenizer(), LlamaConfig(vocab_size=400))
    (found,) = encoder.encode([PromptTarget("a/train/0", (), "good")], max_source_length=8, max_target_length=8)
    assert found.prompt == (1,)


def test_rows_without_answers_on_request() -> None:
    (found,) = CAUSAL_ENCODER.encode([row("")], max_source_length=64, max_target_length=32, answers=False)
    assert found.target == ()


texts = st.text(st.sampled_from("abc the🙂ö日 \n.:</s>"), max_size=200)
rows = st.builds(
    lambda text, second, ending: PromptTarget(
        "t/train/0",
        (
            Segment("What is it? "),
            Segment(text, cut=True),
            Segment(" and "),
            Segment(second, cut=True),
            Segment(ending),
        ),
        "good",
    ),
    texts,
    texts,
    st.sampled_from(["\nAnswer:", "", " \n"]),
)


@pytest.mark.parametrize("encoder", ENCODERS, ids=["causal", "framed", "bytes"])
@settings(max_examples=150, deadline=None)
@given(one=rows, limit=st.integers(48, 120))
def test_only_input_text_is_cut_and_only_from_its_end(encoder: RowEncoder, one: PromptTarget, limit: int) -> None:
    (found,) = encoder.encode([one], max_source_length=limit, max_target_length=8)
    assert len(found.prompt) <= limit
    around = sum(len(side) for side in encoder.around_prompt)
    whole = ids_of(encoder, one.prompt_text)
    assert found.source_cut == (len(whole) + around > limit)
    text = decoded(encoder, found.prompt)
    first, second, ending = one.prompt[1].text, one.prompt[3].text, one.prompt[4].text
    if not found.source_cut:
        assert text == one.prompt_text
        return
    assert text.startswith("What is it? ")
    assert text.endswith(ending)
    middle = text[len("What is it? ") : len(text) - len(ending)]
    splits = [at for at in range(len(middle)) if middle.startswith(" and ", at)]
    assert any(first.startswith(middle[:at]) and second.startswith(middle[at + 5 :]) for at in splits)


@pytest.mark.parametrize("encoder", ENCODERS, ids=["causal", "framed", "bytes"])
@settings(max_examples=50, deadline=None)
@given(target=st.text(min_size=1, max_size=60).filter(str.strip), limit=st.integers(4, 40))
def test_answers_keep_their_end(encoder: RowEncoder, target: str, limit: int) -> None:
    (found,) = encoder.encode([row(target)], max_source_length=96, max_target_length=limit)
    before, after = encoder.around_answer
    whole = (*before, *encoder.text.plain([target])[0], *after)
    assert len(found.target) <= limit
    assert found.target[-1] == encoder.tokenizer.eos_token_id
    assert found.target_cut == (len(whole) > limit)
    assert found.target[:-1] == whole[: len(found.target) - 1]
    if not found.target_cut:
        assert found.target == whole


@pytest.mark.parametrize("encoder", ENCODERS, ids=["causal", "framed", "bytes"])
def test_a_cut_prompt_is_nearly_full(encoder: RowEncoder) -> None:
    one = row(text="the quick brown fox jumps over the lazy dog " * 40)
    (found,) = encoder.encode([one], max_source_length=80, max_target_length=8)
    assert found.source_cut
    assert 76 <= len(found.prompt) <= 80


def test_a_cut_prompt_is_the_prompt_of_a_shorter_input() -> None:
    long = row(text="the quick brown fox jumps over the lazy dog " * 40)
    (found,) = CAUSAL_ENCODER.encode([long], max_source_length=60, max_target_length=8)
    text = decoded(CAUSAL_ENCODER, found.prompt)
    short = row(text=text.removeprefix("What is the sentiment?\n").removesuffix("\nAnswer:"))
    (again,) = CAUSAL_ENCODER.encode([short], max_source_length=60, max_target_length=8)
    assert again.prompt == found.prompt
    assert not again.source_cut


def test_the_longest_of_several_texts_is_cut_first() -> None:
    one = PromptTarget(
        "t/train/0",
        (Segment("the cat sleeps", cut=True), Segment("\n"), Segment("the quick brown fox jumps " * 30, cut=True)),
        "good",
    )
    (found,) = CAUSAL_ENCODER.encode([one], max_source_length=40, max_target_length=8)
    assert decoded(CAUSAL_ENCODER, found.prompt).startswith("the cat sleeps\nthe quick brown fox")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(-5, 300))
def test_levelling(lengths: list[int], total: int) -> None:
    kept = levelled(lengths, total)
    assert all(0 <= keep <= length for keep, length in zip(kept, lengths, strict=True))
    assert sum(kept) == min(max(total, 0), sum(lengths))
    # No text is shortened below one that keeps more.
    cut = [keep for keep, length in zip(kept, lengths, strict=True) if keep < length]
    assert not cut or max(kept) <= min(cut) + 1


@pytest.mark.parametrize("encoder", ENCODERS, ids=["causal", "framed", "bytes"])
def test_control_tokens_in_text_stay_text(encoder: RowEncoder) -> None:
    spoof = "a</s> b <pad><s>c</s>"
    (found,) = encoder.encode([row(spoof, text=spoof)], max_source_length=120, max_target_length=60)
    before, after = encoder.around_prompt
    body = found.prompt[len(before) : len(found.prompt) - len(after)]
    assert not encoder.text.controls & set(body)
    assert decoded(encoder, body) == row(spoof, text=spoof).prompt_text
    assert not encoder.text.controls & set(found.target[len(encoder.around_answer[0]) : -1])
    assert not encoder.text.controls & set(encoder.label_ids([spoof])[0][len(encoder.around_answer[0]) : -1])


def test_a_unigram_vocabulary_does_not_let_text_end_the_answer() -> None:
    """It holds its special tokens as pieces, which text reaches although the tokenizer is told to split them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS + ["/s<>"] * 20,
        trainers.UnigramTrainer(
            vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", bos_token=None
    )
    encoder = RowEncoder(fast, LlamaConfig(vocab_size=200))
    spoof = "bad </s> good <pad>"
    assert 1 in ids_of(encoder, spoof), "the tokenizer alone lets it through, so the test shows something"
    long = "the cat sleeps " * 40
    for found in encoder.encode(
        [row(spoof, text=spoof), row(spoof, text=spoof + long)], max_source_length=90, max_target_length=64
    ):
        assert not encoder.text.controls & {*found.prompt, *found.target[:-1]}
        assert found.target[-1] == 1
        assert "".join(fast.convert_ids_to_tokens(found.target[:-1])).replace("▁", " ").strip() == spoof
        assert len(found.prompt) <= 90
    assert found.source_cut


def test_what_cannot_be_cut_is_an_error_with_the_first_twenty_rows() -> None:
    long = [row(instruction="what is it? " * 30, id=f"t/train/{index}") for index in range(23)]
    with pytest.raises(DataError) as caught:
        CAUSAL_ENCODER.encode([row(), *long], max_source_length=32, max_target_length=8)
    problems = caught.value.problems
    assert [problem.where for problem in problems[:20]] == [f"t/train/{index}" for index in range(20)]
    assert "Without any input text the prompt still has" in problems[0].what
    assert "`max_source_length` is 32" in problems[0].what
    assert "Raise `train.max_source_length`" in problems[0].instead
    assert problems[20].what == "3 more rows have the same fault."
    assert len(problems) == 21


def test_the_length_that_is_named_would_do() -> None:
    one = row(instruction="what is it? " * 30)
    with pytest.raises(DataError) as caught:
        CAUSAL_ENCODER.encode([one], max_source_length=32, max_target_length=8)
    named = int(caught.value.problems[0].what.split(" tokens;")[0].split()[-1])
    (found,) = CAUSAL_ENCODER.encode([one], max_source_length=named + 1, max_target_length=8)
    assert len(found.prompt) <= named + 1
    with pytest.raises(DataError):
        CAUSAL_ENCODER.encode([one], max_source_length=named - 2, max_target_length=8)


@pytest.mark.parametrize("target", ["", "  ", "\n"])
def test_an_empty_answer_is_an_error(target: str) -> None:
    with pytest.raises(DataError, match=r"t/train/7: The answer is empty.*Fill it, or remove the row"):
        CAUSAL_ENCODER.encode([row(target, id="t/train/7")], max_source_length=64, max_target_length=8)


def test_no_room_for_an_answer() -> None:
    with pytest.raises(CapabilityError, match=r"`max_target_length: 2` leaves no room.*Write at least 3"):
        FRAMED_ENCODER.encode([row()], max_source_length=64, max_target_length=2)


def test_more_tokens_than_learnt_positions_is_an_error() -> None:
    encoder = RowEncoder(train_tokenizer(), GPT2Config(vocab_size=400, n_positions=40))
    long = row(text="the quick brown fox " * 20)
    with pytest.raises(DataError, match=r"need 4\d positions; the model has 40.*at most 32"):
        encoder.encode([long], max_source_length=40, max_target_length=8)
    (found,) = encoder.encode([long], max_source_length=32, max_target_length=8)
    assert len(found.prompt) <= 32


def test_a_tokenizer_that_knows_more_than_the_model_is_an_error() -> None:
    encoder = RowEncoder(train_tokenizer(), LlamaConfig(vocab_size=100))
    with pytest.raises(DataError, match=r"gives token \d+, but the model knows 100 tokens"):
        encoder.encode([row()], max_source_length=64, max_target_length=8)


@pytest.mark.parametrize("length", [256, 48], ids=["whole", "cut"])
def test_five_thousand_rows_are_encoded_in_seconds(length: int) -> None:
    many = [
        row("positive", text="the quick brown fox jumps over the lazy dog " * 8, id=f"t/train/{i}") for i in range(5000)
    ]
    begin = time.process_time()
    encoded = CAUSAL_ENCODER.encode(many, max_source_length=length, max_target_length=8)
    assert len(encoded) == 5000
    assert time.process_time() - begin < (2 if length == 256 else 6)


@pytest.fixture(scope="module")
def real_t5(shared_data: Path) -> RowEncoder:
    folder = shared_data.parent / "models" / "tiny-t5"
    return RowEncoder(AutoTokenizer.from_pretrained(folder), T5Config.from_pretrained(folder))


@pytest.mark.shared_data
def test_a_unigram_tokenizer_does_not_let_text_end_the_answer(real_t5: RowEncoder) -> None:
    """Its vocabulary holds ``</s>`` as a piece that text would reach even with special tokens split."""
    assert 1 in real_t5.tokenizer("bad </s> good", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    spoof = "bad </s> good <extra_id_0> <pad>"
    (found,) = real_t5.encode([row(spoof, text=spoof)], max_source_length=128, max_target_length=64)
    assert found.prompt.count(1) == 1
    assert found.target.count(1) == 1
    assert not real_t5.text.controls & {*found.prompt[:-1], *found.target[:-1]}
    assert decoded(real_t5, found.target).endswith(">")


@pytest.mark.shared_data
def test_a_real_tokenizer_cuts_only_the_sentence(real_t5: RowEncoder) -> None:
    one = PromptTarget(
        "yahoo/test/0",
        (
            Segment("Task:TC\nDataset:yahoo\nWhat is the topic of the following passage?\nOption: Science, Sports \n"),
            Segment("Why do the planets move around the sun, and how fast do they go? " * 60, cut=True),
            Segment("\nAnswer:"),
        ),
        "Science",
    )
    (found,) = real_t5.encode([one], max_source_length=128, max_target_length=50)
    assert found.source_cut
    assert 124 <= len(found.prompt) <= 128
    text = decoded(real_t5, found.prompt)
    assert text.startswith("Task:TC Dataset:yahoo What is the topic of the following passage?")
    assert text.endswith(" Answer:")
    assert found.target == tuple(real_t5.tokenizer("Science")["input_ids"])
    (whole,) = real_t5.encode([one], max_source_length=4096, max_target_length=50)
    assert whole.prompt == tuple(real_t5.tokenizer(one.prompt_text)["input_ids"])


def test_a_tokenizer_that_puts_a_space_before_the_answer_gets_none_at_the_end_of_the_prompt() -> None:
    """As with LLaMA's: the ids of prompt and answer are those of the one text that the published code writes."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"])
    inner.train_from_iterator([*CORPUS, "[INST] Do it [/INST] yes"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    encoder = RowEncoder(tokenizer, LlamaConfig(vocab_size=400))
    prompt = (Segment("[INST] "), Segment("Do it", cut=True), Segment(" [/INST] "))
    (found,) = encoder.encode([PromptTarget("task/train/0", prompt, "yes")], max_source_length=64, max_target_length=32)
    ids = [index for index in (*found.prompt, *found.target) if index > 2]
    assert ids == ids_of(encoder, "[INST] Do it [/INST] yes")
