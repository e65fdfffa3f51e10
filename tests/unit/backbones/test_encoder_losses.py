"""Losses and answers of encoders, against what transformers itself makes of the same rows."""

from __future__ import annotations

import json
import random

import pytest
import torch
from torch.nn import functional

from evertune.backbones import BACKBONES
from evertune.backbones.argument_extraction import spans_of
from evertune.backbones.base import BackboneConfig
from evertune.backbones.encoder import Encoder
from evertune.backbones.windows import EncodedRow
from evertune.errors import ConfigError
from evertune.streams.task import Task

from .encoder_tasks import events, labelled, passages, pictures, tagged

LENGTH = 48


def prepared(task_type: str, *tasks: Task, path: str = "builtin:tiny-bert", stride: int = 16) -> Encoder:
    config = BackboneConfig(path=path, task_type=task_type, doc_stride=stride)
    backbone = BACKBONES.get(task_type).load(config)
    backbone.prepare(tasks, seed=1)
    return backbone


def encode(backbone: Encoder, task: Task, *, answers: bool = True, length: int = LENGTH) -> list[EncodedRow]:
    return backbone.encode(task.train, max_source_length=length, max_target_length=8, answers=answers)


def learn(backbone: Encoder, tasks: list[Task], steps: int, rate: float = 3e-3, length: int = LENGTH) -> None:
    """Plain full fine-tuning."""
    draw = random.Random(0)
    torch.manual_seed(0)
    rows = [row for task in tasks for row in encode(backbone, task, length=length)]
    backbone.model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(backbone.model.parameters(), lr=rate)
    for _ in range(steps):
        batch = backbone.collate(draw.sample(rows, 8))
        output = backbone.loss(backbone.model, batch)
        (output.sum / batch.count).backward()
        torch.nn.utils.clip_grad_norm_(backbone.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    backbone.model.eval()


def test_labels_cost_what_transformers_says() -> None:
    task = labelled("notes", ["a", "b", "c"])
    backbone = prepared("sequence_classification", task)
    rows = encode(backbone, task)[:5]
    batch = backbone.collate(rows)
    backbone._routed["classifier"].route = [0] * 5
    backbone.model.num_labels = 3
    with torch.no_grad():
        theirs = backbone.model(**batch.inputs, labels=batch.labels[:, 0])
        ours = backbone.loss(backbone.model, batch)
    assert batch.count == 5
    torch.testing.assert_close(ours.sum / batch.count, theirs.loss)


def test_tags_cost_what_transformers_says() -> None:
    task = tagged("names")
    backbone = prepared("token_classification", task)
    rows = encode(backbone, task)[:5]
    assert all(len(row.windows) == 1 for row in rows)
    batch = backbone.collate(rows)
    backbone.model.num_labels = 4
    with torch.no_grad():
        ours = backbone.loss(backbone.model, batch)
        theirs = backbone.model(**batch.inputs, labels=batch.labels)
    assert batch.count == 35, "one label a word, whatever the pieces"
    torch.testing.assert_close(ours.sum / batch.count, theirs.loss)


def test_places_cost_what_transformers_says() -> None:
    task = passages("questions")
    backbone = prepared("question_answering", task)
    row = next(row for row in encode(backbone, task, length=400) if len(row.windows) == 1)
    batch = backbone.collate([row])
    with torch.no_grad():
        ours = backbone.loss(backbone.model, batch)
        start, end = batch.labels[:, 0], batch.labels[:, 1]
        theirs = backbone.model(**batch.inputs, start_positions=start, end_positions=end)
    torch.testing.assert_close(ours.sum / batch.count, theirs.loss)


def test_arguments_cost_the_surprise_at_every_begin_and_end() -> None:
    task = events("attacks")
    backbone = prepared("argument_extraction", task)
    row = encode(backbone, task, length=200)[1]
    batch = backbone.collate([row])
    with torch.no_grad():
        ours = backbone.loss(backbone.model, batch)
        outputs = backbone.model(**batch.inputs)
        expected = 0.0
        for at, window in enumerate(row.windows):
            for token, label in enumerate(window.labels):
                if label != -100:
                    for logit, wanted in (
                        (outputs.start_logits[at, token], label & 1),
                        (outputs.end_logits[at, token], label >> 1),
                    ):
                        probability = torch.sigmoid(logit) if wanted else 1 - torch.sigmoid(logit)
                        expected -= float(probability.log())
    assert batch.count == len(row.windows) == 3
    assert float(ours.sum) == pytest.approx(expected, rel=1e-4)


def test_a_head_that_the_architecture_lacks_reads_the_last_states() -> None:
    own, foreign = labelled("notes", ["a", "b"]), tagged("names")
    backbone = prepared("sequence_classification", own, foreign)
    rows = encode(backbone, foreign)[:3]
    batch = backbone.collate(rows)
    head = backbone._heads["names"]["task_heads"]
    with torch.no_grad():
        ours = backbone.loss(backbone.model, batch)
        states = backbone.model.bert(**batch.inputs).last_hidden_state
        theirs = functional.cross_entropy(
            head(states).flatten(0, 1), batch.labels.flatten(), ignore_index=-100, reduction="sum"
        )
    torch.testing.assert_close(ours.sum, theirs)


@pytest.mark.parametrize(
    ("task_type", "task"),
    [
        ("sequence_classification", labelled("one", ["a", "b"])),
        ("token_classification", tagged("one")),
        ("question_answering", passages("one")),
        ("argument_extraction", events("one")),
    ],
)
def test_padding_other_rows_and_fillers_change_nothing(task_type: str, task: Task) -> None:
    backbone = prepared(task_type, task)
    rows = encode(backbone, task)
    with torch.no_grad():
        alone = [backbone.loss(backbone.model, backbone.collate([row])).sum for row in rows[:4]]
        together = backbone.collate([*rows[:4], backbone.filler(rows[5])])
        output = backbone.loss(backbone.model, together)
        sums, counts = backbone.answer_loss(backbone.model, together)
    torch.testing.assert_close(output.sum, torch.stack(alone).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sums[:4], torch.stack(alone), rtol=1e-4, atol=1e-4)
    assert together.count == int(counts.sum()) == sum(backbone.collate([row]).count for row in rows[:4])
    assert together.ids[-1] == ""


@pytest.mark.parametrize(
    ("task_type", "task", "steps", "length"),
    [
        ("sequence_classification", labelled("one", ["good", "bad"]), 40, LENGTH),
        ("token_classification", tagged("one"), 30, LENGTH),
        ("question_answering", passages("one", 12), 50, LENGTH),
        ("argument_extraction", events("one", 12), 60, 128),
    ],
)
def test_what_is_learnt_is_found_again(task_type: str, task: Task, steps: int, length: int) -> None:
    backbone = prepared(task_type, task)
    learn(backbone, [task], steps, rate=1e-3 if length > LENGTH else 3e-3, length=length)
    rows = encode(backbone, task, answers=False, length=length)
    answers = backbone.generate(backbone.model, rows)
    assert sum(map(_right, task.train, answers)) >= 0.8 * len(rows)


def _right(row, answer: str) -> bool:
    content = row.content
    if content is None:
        return answer == row.target
    if hasattr(content, "tags"):
        found = {(one["type"], one["start"], one["end"]) for one in json.loads(answer)}
        return found == {("person", 1, 3), ("place", 5, 6)}
    if hasattr(content, "question"):
        return answer == content.answers[0]
    found = {(role, span["start"], span["end"]) for role, spans in json.loads(answer).items() for span in spans}
    return found == {(one.role, one.start, one.end) for one in content.arguments}


def test_a_text_without_an_answer_gets_none() -> None:
    task = passages("one", 18, unanswerable=True)
    backbone = prepared("question_answering", task)
    learn(backbone, [task], 60)
    rows = encode(backbone, task, answers=False)
    answers = backbone.generate(backbone.model, rows)
    expected = [row.content.answers[0] if row.content.answers else "" for row in task.train]
    assert sum(one == other for one, other in zip(answers, expected, strict=True)) >= 15


def test_places_name_the_text_itself() -> None:
    """Through windows and overlaps, labels point at the very characters of the answer."""
    task = passages("one")
    backbone = prepared("question_answering", task)
    for row in encode(backbone, task):
        held = 0
        for window in row.windows:
            first, last = window.labels
            if (first, last) != (0, 0):
                start, stop = window.spots[first][0], window.spots[last][1]
                assert row.row.content.context[start:stop].strip() == row.row.content.answers[0]
                held += 1
        assert held >= 1
        assert len(row.windows) > 1 or len(row.windows[0].ids) <= LENGTH


def test_long_documents_of_events_are_learnt_where_something_happens_and_scored_whole() -> None:
    task = events("attacks")
    backbone = prepared("argument_extraction", task)
    long = next(row for row in task.train if len(row.content.text) > 250)
    learning = backbone.encode([long], max_source_length=LENGTH, max_target_length=8)[0]
    import dataclasses

    same = dataclasses.replace(long, id=long.id.replace("/train/", "/test/"))
    scored = backbone.encode([same], max_source_length=LENGTH, max_target_length=8)[0]
    assert len(learning.windows) < len(scored.windows)
    flags = [label for window in learning.windows for label in window.labels if label > 0]
    assert flags, "no argument is left to learn"


def test_words_in_many_pieces_and_long_sentences_are_judged_once() -> None:
    task = tagged("names")
    backbone = prepared("token_classification", task)
    import dataclasses

    content = task.train[0].content
    long = dataclasses.replace(content, tokens=content.tokens * 12, tags=content.tags * 12)
    row = dataclasses.replace(task.train[0], content=long)
    encoded = backbone.encode([row], max_source_length=32, max_target_length=8)[0]
    assert len(encoded.windows) > 2
    judged = sorted(word for window in encoded.windows for word in window.spots if word is not None)
    assert judged == list(range(len(long.tokens)))


def test_images_cost_what_transformers_says(tmp_path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    settings = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=8,
        patch_size=4,
        num_channels=3,
        num_labels=5,
    )
    ViTForImageClassification(settings).save_pretrained(tmp_path)
    task = pictures("squares")
    backbone = prepared("image_classification", task, path=str(tmp_path))
    rows = encode(backbone, task)[:4]
    batch = backbone.collate(rows)
    pixels = torch.tensor(list(task.train[0].content.pixels), dtype=torch.float32).view(8, 8) / 255
    torch.testing.assert_close(batch.inputs["pixel_values"][0], ((pixels - 0.5) / 0.5).expand(3, 8, 8))
    backbone._routed["classifier"].route = [0] * 4
    with torch.no_grad():
        theirs = backbone.model(**batch.inputs)
        loss = functional.cross_entropy(theirs.logits, batch.labels[:, 0])
        ours = backbone.loss(backbone.model, batch)
    torch.testing.assert_close(ours.sum / batch.count, loss)
    learn(backbone, [task], 80, rate=1e-3)
    assert backbone.generate(backbone.model, rows) == [row.target for row in task.train[:4]]


def test_a_begin_counts_with_the_nearest_end_that_counts() -> None:
    begins, ends = [0.29, 0.4, 0.0, 0.0, 0.9], [0.0, 0.0, 0.29, 0.5, 0.0]
    assert list(spans_of(begins, ends)) == [(1, 3, 0.2)]


def test_many_windows_are_scored_in_pieces_that_change_nothing(monkeypatch) -> None:
    from evertune.backbones import encoder

    task = passages("one")
    backbone = prepared("question_answering", task)
    rows = encode(backbone, task)[:6]
    batch = backbone.collate(rows)
    whole = backbone.answer_loss(backbone.model, batch)
    answers = backbone.generate(backbone.model, rows)
    monkeypatch.setattr(encoder, "SCORED_TOGETHER", 3)
    assert len(batch.windows) > 9
    pieces = backbone.answer_loss(backbone.model, batch)
    torch.testing.assert_close(pieces[0], whole[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(pieces[1], whole[1])
    assert backbone.generate(backbone.model, rows) == answers


def _saved(folder, settings, tokenizer_of: str = "tiny-bert") -> str:
    """A random model of an architecture with the tokenizer of a built-in one."""
    from transformers import AutoModel, AutoTokenizer

    from evertune.backbones.builtin import builtin_folder

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder(tokenizer_of))
    settings.vocab_size, settings.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    AutoModel.from_config(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_head_in_two_parts_with_a_pooler_of_its_own(tmp_path) -> None:
    from transformers import DebertaV2Config

    settings = DebertaV2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, pooler_hidden_size=32
    )
    task = labelled("notes", ["a", "b"])
    backbone = prepared("sequence_classification", task, path=_saved(tmp_path, settings))
    output = backbone.loss(backbone.model, backbone.collate(encode(backbone, task)[:3]))
    assert {name.split("/")[1].split(".")[0] for name in backbone.head_parameters(["notes"])} == {
        "pooler",
        "classifier",
    }
    assert float(output.sum) > 0


def test_an_encoder_decoder_is_given_the_end_that_it_looks_for(tmp_path) -> None:
    task = labelled("notes", ["a", "b"])
    backbone = prepared("sequence_classification", task, path="builtin:tiny-t5")
    learn(backbone, [task], 2)
    assert all(row.windows[0].ids[-1] == backbone.tokenizer.eos_token_id for row in encode(backbone, task))
    with pytest.raises(ConfigError, match="has the head of sequence_classification alone"):
        prepared("sequence_classification", task, tagged("names"), path="builtin:tiny-t5")


def test_where_tokens_see_only_those_before_them_the_last_one_speaks() -> None:
    own, foreign = tagged("names"), labelled("notes", ["a", "b"])
    backbone = prepared("token_classification", own, foreign, path="builtin:tiny-llama")
    rows = encode(backbone, foreign)[:4]
    scores = backbone.label_scores(backbone.model, rows, [(0,), (1,)])
    assert len({round(float(score), 4) for score in scores[:, 0]}) == 4, "rows that begin alike must differ"
    head = backbone._heads["notes"]["task_heads"]
    with torch.no_grad():
        ids = torch.tensor([rows[0].windows[0].ids])
        states = backbone.model.model(input_ids=ids).last_hidden_state
        expected = head(states[0, -1]).log_softmax(-1)
    torch.testing.assert_close(scores[0], expected, rtol=1e-4, atol=1e-5)


def test_words_are_read_as_in_running_text(tmp_path) -> None:
    from transformers import RobertaConfig

    from .conftest import train_tokenizer

    tokenizer = train_tokenizer(frame="<s> $A </s>")
    torch.manual_seed(0)
    from transformers import RobertaModel

    settings = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=0,
    )
    RobertaModel(settings).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    task = tagged("names")
    backbone = prepared("token_classification", task, path=str(tmp_path))
    row = encode(backbone, task)[0]
    [window] = row.windows
    words = row.row.content.tokens
    assert list(window.ids[1:-1]) == tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    firsts = {word: at for at, word in enumerate(window.spots) if word is not None}
    assert sorted(firsts) == list(range(len(words)))
    for word, at in firsts.items():
        piece = tokenizer.decode([window.ids[at]])
        assert words[word].startswith(piece.strip())
        assert piece.strip()
