"""Prompts of the CL benchmark: published or own instructions, options, and the row's sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evertune.errors import ConfigError
from evertune.streams.cl_orders import Dataset, read_config_json
from evertune.streams.examples import Segment
from evertune.streams.prompts import join
from evertune.streams.readers import shown_path

INSTRUCTION_FILE = "instruction_config.json"

_PICK = "Pick one of the options.\n"
# In our own words, for folders without a published instruction file; COPA's rows ask the question themselves.
DEFAULT_INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {
    "TC": (f"Which topic is this text about? {_PICK}",),
    "SC": (f"Which sentiment does this text express? {_PICK}",),
    "NLI": (f'How do "sentence 1" and "sentence 2" relate logically? {_PICK}',),
    "QQP": (f'Do the "first sentence" and the "second sentence" mean the same? {_PICK}',),
    "BoolQA": (f"Judging by the passage, is the answer to the question true or false? {_PICK}",),
    "MultiRC": (f"Judging by the paragraph, is this answer to the question true or false? {_PICK}",),
    "WiC": (f"Does the word carry the same sense in both sentences? {_PICK}",),
}


def find_instruction_file(root: Path, configs: Path | None) -> Path | None:
    """The published instruction file, where the published folders have it: beside or in `root`, or near `configs`."""
    folders = [root, root.parent, root.parent / "configs"]
    if configs is not None:
        folders = [configs, configs.parent, *folders]
    return next((folder / INSTRUCTION_FILE for folder in folders if (folder / INSTRUCTION_FILE).is_file()), None)


def read_instructions(file: Path) -> dict[str, tuple[str, ...]]:
    """Reads ``{group: [{"instruction_type": ..., "instruction": ...}]}``.

    A last newline is added to an instruction that ends without white space, as the options follow it directly.

    Returns:
        The instructions of each group, in the order of the file.

    Raises:
        ConfigError: If the file is missing or has another shape.
    """
    content = read_config_json(file)
    where = shown_path(file)
    if not isinstance(content, dict):
        raise ConfigError("This file is not an object of groups.", where=where)
    instructions: dict[str, tuple[str, ...]] = {}
    for group, entries in content.items():
        found = [entry.get("instruction") if isinstance(entry, dict) else None for entry in entries or ()]
        texts = [text for text in found if isinstance(text, str) and text.strip()]
        if len(texts) < len(found):
            raise ConfigError(
                f"An entry of {group} has no instruction.", where=where, instead='Write {"instruction": "..."}.'
            )
        instructions[group] = tuple(text if text[-1].isspace() else f"{text}\n" for text in texts)
    return instructions


def prompt(
    dataset: Dataset, instruction: str | None, labels: Sequence[str], sentence: str, *, task_names: bool
) -> tuple[Segment, ...]:
    """The prompt of a row, of which only the sentence may be cut.

    Args:
        dataset: Its data set.
        instruction: None leaves out instruction and options, as for COPA.
        labels: The options.
        sentence: The row's text.
        task_names: Whether the two lines that name group and data set come first.

    Returns:
        The pieces.
    """
    names = f"Task:{dataset.group}\nDataset:{dataset.name}\n" if task_names else ""
    # The space before the newline after the options is part of the published prompt.
    asked = "" if instruction is None else f"{instruction}Option: {', '.join(labels)} \n"
    return join([Segment(names + asked), Segment(sentence, cut=True), Segment("\nAnswer:")])
