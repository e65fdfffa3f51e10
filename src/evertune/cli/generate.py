"""``evertune generate``: answers from any stage of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from evertune.cli.options import JsonOption, RunArgument, StageOption
from evertune.cli.output import console_for, located, result, write, write_json
from evertune.errors import DataError, InputError, Problem


def generate(
    run_dir: RunArgument,
    stage: StageOption = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="T",
            help="Take each text as the input of this task: its instruction is put around it, its adapters answer.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Answer this.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="Answer each line, or each `prompt` of a .jsonl.", show_default=False
        ),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Print the answer of the untouched model beside.")] = False,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", metavar="N", min=1, help="Tokens of an answer.", show_default=False),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Answer a prompt, a file of prompts, or a conversation on the terminal."""
    from evertune.cli.stored import load_settings

    if prompt is not None and file is not None:
        raise InputError("A prompt and a file at once.", where="--prompt", instead="Give one of --prompt and --file.")
    texts = [prompt] if prompt is not None else _read(file) if file is not None else None
    settings = load_settings(run_dir)
    with result(json_output=True), located(settings):
        from evertune.cli.answering import Answerer

        console = console_for(json_output=True)
        answerer = Answerer.load(settings, run_dir, stage, task, base, max_new_tokens, console)
        answers = answerer.answer(texts) if texts is not None else None
    if answers is None:
        from evertune.cli.chat import chat

        chat(answerer, json_output=json_output)
    elif json_output:
        write_json(answers if prompt is None else answers[0])
    else:
        for answer in answers:
            write(_shown(answer, alone=prompt is not None))


def _shown(answer: dict[str, Any], *, alone: bool) -> str:
    lines = [] if alone else [f"> {answer['prompt']}"]
    if "base" not in answer:
        return "\n".join([*lines, answer["answer"]])
    return "\n".join([*lines, f"tuned: {answer['answer']}", f"base:  {answer['base']}"])


def _read(file: Path) -> list[str]:
    """The prompts of a file.

    Raises:
        DataError: If it is missing, empty, or a line of a .jsonl is not a prompt.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"Cannot read this: {error.strerror}.", where=str(file)) from error
    except UnicodeDecodeError as error:
        raise DataError("This is not UTF-8 text.", where=str(file), instead="Save it as UTF-8.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError("This file holds no prompts.", where=str(file), instead="Write one prompt on each line.")
    if file.suffix not in (".jsonl", ".json"):
        return [line for _, line in numbered]
    problems: list[Problem] = []
    prompts: list[str] = []
    for number, line in numbered:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(Problem(f"{file}:{number}", f"This is not JSON: {error.msg}."))
            continue
        text = row if isinstance(row, str) else row.get("prompt") if isinstance(row, dict) else None
        if isinstance(text, str):
            prompts.append(text)
        else:
            problems.append(Problem(f"{file}:{number}", "This row has no `prompt`.", 'Write {"prompt": "..."}.'))
    if problems:
        raise DataError(problems[:20])
    return prompts
