"""A language model that can be worked out by hand: the next character depends on the last one alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evertune.backbones.base import Batch, Encoded
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Task

END = 0
VOCABULARY = 128


class BigramModel(nn.Module):
    """Logits of the next character are a row of a table; remembers under which conditions it was called."""

    def __init__(self, follows: dict[str, str]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        table = torch.rand(VOCABULARY, VOCABULARY, generator=generator)
        for before, after in follows.items():
            table[ord(before), ord(after) if after else END] = 5.0
        self.table = nn.Embedding.from_pretrained(table, freeze=False)
        self.frozen_part = nn.Dropout(0.5)
        self.calls: list[dict[str, object]] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.calls.append(
            {
                "training": self.training or self.frozen_part.training,
                "gradients": torch.is_grad_enabled(),
                "autocast": torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
                "rows": len(ids),
            }
        )
        return self.table(ids)


class CharacterTokenizer:
    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(character) for character in text] for text in texts]}


class BigramBackbone:
    """The part of the backbone protocol that evaluation uses."""

    answers_in_text = True

    def __init__(self) -> None:
        self.tokenizer = CharacterTokenizer()
        self.batches: list[list[str]] = []
        self.max_new_tokens: set[int] = set()
        self.num_beams: set[int] = set()

    def encode(self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int) -> list[Encoded]:
        return [
            Encoded(row.id, _ids(row.prompt_text)[-max_source_length:], (*_ids(row.target), END)[-max_target_length:])
            for row in rows
        ]

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        sequences = [(*row.prompt, *row.target) for row in rows]
        width = max(map(len, sequences))
        ids = torch.tensor([[*sequence, *[END] * (width - len(sequence))] for sequence in sequences])
        labels = torch.full_like(ids, -100)
        for row, encoded in enumerate(rows):
            labels[row, len(encoded.prompt) : encoded.length] = torch.tensor(encoded.target)
        return Batch({"ids": ids}, labels, tuple(row.id for row in rows), int((labels != -100).sum()))

    def answer_loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = model(batch.inputs["ids"][:, :-1]).float()
        labels = batch.labels[:, 1:]
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        return losses.sum(dim=1), (labels != -100).sum(dim=1)

    def generate(
        self, model: nn.Module, rows: Sequence[Encoded], *, max_new_tokens: int, num_beams: int = 1
    ) -> list[str]:
        self.batches.append([row.id for row in rows])
        self.max_new_tokens.add(max_new_tokens)
        self.num_beams.add(num_beams)
        return [self._continue(model, row.prompt[-1], max_new_tokens) for row in rows]

    def _continue(self, model: nn.Module, last: int, max_new_tokens: int) -> str:
        text = ""
        for _ in range(max_new_tokens):
            last = int(model(torch.tensor([[last]]))[0, -1].argmax())
            if last == END:
                break
            text += chr(last)
        return text

    def label_ids(self, labels: Sequence[str]) -> list[tuple[int, ...]]:
        return [(*_ids(label), END) for label in labels]

    def label_scores(self, model: nn.Module, rows: Sequence[Encoded], labels: Sequence[tuple[int, ...]]) -> Tensor:
        self.batches.append([row.id for row in rows])
        scores = torch.empty(len(rows), len(labels))
        for index, row in enumerate(rows):
            for place, label in enumerate(labels):
                loss, _ = self.answer_loss(model, self.collate([Encoded(row.id, row.prompt, label)]))
                scores[index, place] = -loss[0]
        return scores


def _ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def row(number: int, prompt: str, target: str, *, task: str = "letters") -> PromptTarget:
    return PromptTarget(f"{task}/test/{number}", (Segment(prompt, cut=True),), target)


def task_of(
    rows: Sequence[PromptTarget],
    *,
    name: str = "letters",
    labels: tuple[str, ...] | None = None,
    metric: str = "exact_match",
    group: str = "",
    invalid: tuple[str, ...] = (),
) -> Task:
    audit = {"invalid_labels": list(invalid)}
    return Task(name, (), (), tuple(rows), labels=labels, metric=metric, group=group, audit=audit)
