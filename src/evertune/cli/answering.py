"""Answers of a stage of a run, and of the untouched model beside."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evertune.adapters.spec import AdapterPlan
from evertune.backbones.base import Encoded
from evertune.cli.stored import task_index
from evertune.console import Console
from evertune.errors import ConfigError, DataError, Problem
from evertune.restore import RestoredStage, restore_stage
from evertune.settings import RunSettings
from evertune.streams.contents import TaggedTokens
from evertune.streams.examples import PromptTarget, Segment

# A prompt that someone typed to a language model is never cut.
_ANY_LENGTH = 1 << 30


@dataclass(frozen=True)
class Answerer:
    """Answers texts.

    Attributes:
        restored: The stage.
        index: Index of the task whose adapters answer.
        frame: A row of that task, whose input the texts take the place of; None to take texts as whole prompts.
        base: Whether the untouched model answers, too.
        max_new_tokens: Tokens of an answer at most.
    """

    restored: RestoredStage
    index: int
    frame: PromptTarget | None
    base: bool
    max_new_tokens: int

    @classmethod
    def load(
        cls,
        settings: RunSettings,
        run_dir: Path,
        stage: int | None,
        task: str | None,
        base: bool,
        max_new_tokens: int | None,
        console: Console,
    ) -> Answerer:
        """Loads a stage.

        Raises:
            InputError: If the run, the stage or the task cannot be used.
        """
        restored = restore_stage(settings, run_dir, stage, console)
        index = restored.stage.tasks[-1] if task is None else task_index(restored.stream, task, where="--task")
        if not restored.backbone.answers_in_text:
            _check_readable(restored, index)
        # An encoder is told what it is to find by the task alone.
        frame = None if task is None and restored.backbone.answers_in_text else _frame(restored, index)
        longest = max_new_tokens or restored.parts.task_settings(index).train.max_target_length
        return cls(restored, index, frame, base, longest)

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template."""
        backbone = self.restored.backbone
        return backbone.answers_in_text and bool(backbone.tokenizer.chat_template)

    def answer(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Answers texts: each a mapping with ``prompt``, ``answer`` and, if asked for, ``base``."""
        return self._answered([self._row(text, number) for number, text in enumerate(texts, 1)], texts)

    def reply(self, turns: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Answers a conversation that ends with a turn of the user."""
        row = PromptTarget("conversation", (), "", messages=tuple(turns))
        return self._answered([row], [turns[-1]["content"]])[0]

    def _row(self, text: str, number: int) -> PromptTarget:
        frame, name = self.frame, f"prompt {number}"
        if not self.restored.backbone.answers_in_text:
            name = f"{self.restored.stream.names[self.index]}/prompt/{number}"
        if frame is not None and isinstance(frame.content, TaggedTokens):
            words = tuple(text.split()) or (text,)
            return replace(frame, id=name, content=TaggedTokens(words, ("O",) * len(words)))
        if frame is None:
            return PromptTarget(name, (Segment(text),), "")
        if frame.messages:
            turns = (*frame.messages[:-1], {**frame.messages[-1], "content": text})
            return replace(frame, id=name, messages=turns)
        cut = not self.restored.backbone.answers_in_text
        pieces = tuple(Segment(text, cut=cut) if segment.cut else segment for segment in frame.prompt)
        return replace(frame, id=name, prompt=pieces)

    def _answered(self, rows: Sequence[PromptTarget], texts: Sequence[str]) -> list[dict[str, Any]]:
        self.restored.place(self.index)
        answers = [{"prompt": text, "answer": said} for text, said in zip(texts, self._generated(rows), strict=True)]
        if not self.base:
            return answers
        self.restored.bank.apply(AdapterPlan(()))
        untouched = self._generated(rows)
        return [{**answer, "base": said} for answer, said in zip(answers, untouched, strict=True)]

    def _generated(self, rows: Sequence[PromptTarget]) -> list[str]:
        backbone, evaluation = self.restored.backbone, self.restored.parts.task_settings(self.index).evaluation
        # An encoder reads what it read in training and is scored on: a long text in windows, or its beginning.
        own = self.restored.parts.task_settings(self.index).train.max_source_length
        length = _ANY_LENGTH if backbone.answers_in_text else own
        encoded = backbone.encode(rows, max_source_length=length, max_target_length=self.max_new_tokens, answers=False)
        self._check_room(encoded)
        size = evaluation.per_device_eval_batch_size
        answers: list[str] = []
        with _autocast(self.restored):
            for start in range(0, len(encoded), size):
                answers += backbone.generate(
                    self.restored.bank.model,
                    encoded[start : start + size],
                    max_new_tokens=self.max_new_tokens,
                    num_beams=evaluation.num_beams,
                )
        return answers

    def _check_room(self, encoded: Sequence[Encoded]) -> None:
        """Refuses what is longer than the model was made for: it would be answered with nonsense.

        Raises:
            DataError: With every prompt that is too long.
        """
        if not self.restored.backbone.answers_in_text:
            return  # it reads long texts in windows
        model = self.restored.backbone.model.config.get_text_config()
        limit = getattr(model, "max_position_embeddings", None) or getattr(model, "n_positions", None)
        if limit is None or model.is_encoder_decoder:
            return
        problems = [
            Problem(row.id, f"{len(row.prompt)} tokens and {self.max_new_tokens} of an answer; the model has {limit}.")
            for row in encoded
            if len(row.prompt) + self.max_new_tokens > limit
        ]
        if problems:
            raise DataError(problems)


def _check_readable(restored: RestoredStage, index: int) -> None:
    """Refuses tasks whose rows are more than a text.

    Raises:
        ConfigError: Naming what to do instead.
    """
    task = restored.stream.tasks[index]
    if task.task_type not in ("sequence_classification", "token_classification"):
        raise ConfigError(
            f"Rows of {task.name} are for {task.task_type}: a text alone is none.",
            where="evertune generate",
            instead="Put rows into a file and score them: `evertune evaluate RUN --data FILE`.",
        )


def _frame(restored: RestoredStage, index: int) -> PromptTarget:
    """A row of the task that shows where an input goes.

    Raises:
        ConfigError: If its prompts have no single place for an input.
    """
    task = restored.stream.tasks[index]
    row = task.test[0]
    if isinstance(row.content, TaggedTokens):
        return row
    fits = row.messages[-1].get("role") == "user" if row.messages else sum(part.cut for part in row.prompt) == 1
    if not fits:
        instead = "Leave out --task, and give whole prompts."
        raise ConfigError(f"Prompts of {task.name} have no single place for an input.", where="--task", instead=instead)
    return row


def _autocast(restored: RestoredStage) -> contextlib.AbstractContextManager[object]:
    dtype = restored.parts.autocast
    return contextlib.nullcontext() if dtype is None else torch.autocast(restored.device.type, dtype=dtype)
