"""``evertune inspect``: rows as the model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune.cli.options import ConfigArgument, JsonOption, SetOption
from evertune.cli.output import console_for, located, notes_console, result, write_json
from evertune.errors import ConfigError, InputError, did_you_mean

if TYPE_CHECKING:
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

    from evertune.backbones.base import Encoded
    from evertune.console import Console
    from evertune.settings import RunSettings
    from evertune.streams.examples import PromptTarget
    from evertune.streams.task import Split, Task

SPLITS = ("train", "dev", "test")


def inspect(
    config: ConfigArgument,
    overrides: SetOption = None,
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="Only this task.", show_default=False)] = None,
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=0, help="Rows shown of each task.")] = 2,
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="train, dev or test.")] = "train",
    model: Annotated[
        bool, typer.Option("--model", help="Show the module tree instead, and where the adapters sit.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Show rows as the model sees them: what is prompt, what is supervised, lengths and truncation."""
    from evertune.config.load import load_config

    if split not in SPLITS:
        raise InputError(f"There is no split `{split}`.", where="--split", instead=did_you_mean(split, SPLITS))
    settings = load_config(config, overrides or ())
    console = console_for(json_output=json_output)
    with result(json_output=json_output), located(settings):
        if model:
            found: Any = _modules(settings)
        else:
            found = list(_tasks(settings, task, split, rows))  # type: ignore[arg-type]
    if json_output:
        write_json(found if model else [shown.to_json() for shown in found])
    elif model:
        for module in found:
            mark = "adapter" if module["adapters"] else ""
            console.say(f"{module['line']}{f'  <- {mark}' if mark else ''}")
    else:
        for shown in found:
            shown.show(console)


@dataclass(frozen=True)
class _Shown:
    """One task as the model sees it.

    Attributes:
        task: The task.
        split: Which rows.
        encoded: All of them in ids.
        rows: The first of them.
        tokenizer: What made the ids; None for models of images.
    """

    task: Task
    split: str
    encoded: Sequence[Encoded]
    rows: Sequence[PromptTarget]
    tokenizer: PreTrainedTokenizerBase

    def numbers(self) -> dict[str, Any]:
        """Lengths in tokens and what was cut."""
        return {
            "rows": len(self.encoded),
            "prompt_tokens": _spread([len(row.prompt) for row in self.encoded]),
            "answer_tokens": _spread([len(row.target) for row in self.encoded]),
            "source_cut": sum(row.source_cut for row in self.encoded),
            "target_cut": sum(row.target_cut for row in self.encoded),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        shown = [
            {
                "id": row.id,
                "prompt": self._text(row.prompt),
                "supervised": self._text(row.target),
                "prompt_ids": list(row.prompt),
                "supervised_ids": list(row.target),
                "source_cut": row.source_cut,
                "target_cut": row.target_cut,
            }
            for row in self.encoded[: len(self.rows)]
        ]
        return {"task": self.task.name, "split": self.split, **self.numbers(), "shown": shown}

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)) if ids else ""

    def show(self, console: Console) -> None:
        """Prints the numbers, then the rows in colours."""
        from rich.text import Text

        from evertune.backbones.windows import EncodedRow

        numbers = self.numbers()
        cut = f"{numbers['source_cut']} inputs and {numbers['target_cut']} answers cut"
        console.show(Text(f"task {self.task.name}, {self.split}: {numbers['rows']} rows, {cut}", style="bold"))
        for key, name in (("prompt_tokens", "prompt"), ("answer_tokens", "answer")):
            if numbers[key]:
                console.say("  {0}: {min} to {max} tokens, median {median}".format(name, **numbers[key]))
        for row in self.encoded[: len(self.rows)]:
            cuts = [name for name, was in (("input cut", row.source_cut), ("answer cut", row.target_cut)) if was]
            note = f", {' and '.join(cuts)}" if cuts else ""
            console.say(f"\n{row.id}: {len(row.prompt)} prompt + {len(row.target)} supervised tokens{note}")
            supervised = self._coloured(row.target, "bold green")
            plain = "" if console.rich.is_terminal or not row.target else "\n[supervised] "
            console.show(Text.assemble(self._coloured(row.prompt, "dim"), plain, supervised))
            if isinstance(row, EncodedRow) and row.row is not None:
                pieces = f" (in {len(row.windows)} windows)" if len(row.windows) > 1 else ""
                console.show(Text.assemble("to find: ", (row.row.target, "bold green"), pieces))
        console.say()

    def _coloured(self, ids: Sequence[int], style: str) -> Text:
        """The text of ids, special tokens with their numbers and in a colour of their own."""
        from rich.text import Text

        special = set(self.tokenizer.all_special_ids) if ids else set[int]()
        text = Text()
        for is_special, run in _runs(ids, special):
            if is_special:
                for token in run:
                    text.append(f"{self._text([token])}({token})", style="magenta reverse")
            else:
                text.append(self._text(run), style=style)
        return text


def _runs(ids: Sequence[int], special: set[int]) -> Iterator[tuple[bool, list[int]]]:
    """Ids in stretches of special and of other tokens."""
    from itertools import groupby

    for is_special, run in groupby(ids, lambda token: token in special):
        yield is_special, list(run)


def _spread(lengths: Sequence[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]} if ordered else {}


def _tasks(settings: RunSettings, only: str | None, split: Split, count: int) -> Iterator[_Shown]:
    from evertune.backbones import BACKBONES

    stream = settings.stream.load(seed=settings.seed, console=notes_console())
    if only is not None and only not in stream.names:
        what = f"There is no task `{only}` in the stream."
        raise ConfigError(what, where="--task", instead=did_you_mean(only, stream.names))
    family = BACKBONES.get(settings.backbone.task_type)
    described = family.describe(settings.backbone)
    encoder = family.row_encoder(settings.backbone, described, stream.tasks)
    for note in described.notes:
        notes_console().say(note)
    for index, task in enumerate(stream.tasks):
        if only in (None, task.name):
            train = settings.for_task(task.name, index).train
            rows = task.rows(split)
            encoded = encoder.encode(
                rows, max_source_length=train.max_source_length, max_target_length=train.max_target_length
            )
            yield _Shown(task, split, encoded, rows[:count], described.tokenizer)


def _modules(settings: RunSettings) -> list[dict[str, Any]]:
    """The folded module tree, and which modules the adapters sit on."""
    import dataclasses
    from fnmatch import translate
    from re import fullmatch, sub

    from evertune.adapters.roles import module_tree
    from evertune.adapters.targets import resolve_targets
    from evertune.backbones import BACKBONES

    skeleton = BACKBONES.get(settings.backbone.task_type).skeleton(settings.backbone)
    paths = resolve_targets(skeleton, settings.adapter).paths
    found: list[dict[str, Any]] = []
    for group in module_tree(skeleton):
        pattern = translate(sub(r"\{[^}]*\}", "*", group.path_pattern))
        count = sum(bool(fullmatch(pattern, path)) for path in paths) if group.targetable else 0
        found.append({**dataclasses.asdict(group), "adapters": count, "line": str(group)})
    return found
