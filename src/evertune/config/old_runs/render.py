"""A translated launch script as a commented configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evertune import dialect
from evertune.config.marks import Plain
from evertune.config.old_runs.commands import Command
from evertune.config.old_runs.translate import Translation

_FIRST = {
    "stream": {"name": ("cl-benchmark", "")},
    "backbone": {},
    "adapter": {},
    "method": {},
    "train": {},
    "evaluation": {},
}
_STEPS = "train.gradient_accumulation_steps"
_LONG = 60  # characters of a comment that gets a line of its own
_ORDER = {"stream": ("name", "root", "order"), "backbone": ("path", "task_type")}


def render(translation: Translation, commands: Sequence[Command], source: str) -> str:
    """The text of the configuration.

    Args:
        translation: The keys.
        commands: The commands that they are from.
        source: The script as the user named it.
    """
    base, after, own = _blocks(translation.values, translation.tasks)
    comments = {**translation.comments, _STEPS: batch_said(translation, commands)}
    base.setdefault(_STEPS, 1)
    lines = [f"# What {one_line(source)} launched, as `evertune init --from` read it."]
    lines += [f"# {one_line(said)}" for said in (*translation.notes, *_passed_over(translation))]
    lines.append("")
    lines += entry("seed", base.pop("seed", 42), comments.get("seed", ""))
    for section, first in _FIRST.items():
        options: dict[str, tuple[Plain, str]] = dict(first)
        if section == "method":
            options["name"] = (translation.method, "")
        options |= {
            key.partition(".")[2]: (value, comments.get(key, ""))
            for key, value in base.items()
            if key.startswith(f"{section}.")
        }
        lines += [f"{section}:", *_options(options, _ORDER.get(section, ("name",)))]
    lines += _block("after_first", after)
    if own:
        lines.append("per_task:")
        for task, changes in own.items():
            lines += [f"  {line}" for line in _dumped(task, changes)]
    return "\n".join([*lines, ""])


def _blocks(
    values: Mapping[str, Sequence[Plain]], tasks: Sequence[str]
) -> tuple[dict[str, Plain], dict[str, Plain], dict[str, dict[str, Plain]]]:
    """Takes values apart into the base, what holds after the first task, and what holds for single tasks.

    Returns:
        The base, ``after_first`` and ``per_task``.
    """
    base: dict[str, Plain] = {}
    after: dict[str, Plain] = {}
    own: dict[str, dict[str, Plain]] = {}
    for key, each in values.items():
        later = list(each[1:])
        if later and each[0] != later[0] and all(value == later[0] for value in later):
            base[key], after[key] = each[0], later[0]
            continue
        base[key] = max(each, key=lambda value: list(each).count(value))
        for task, value in zip(tasks, each, strict=True):
            if value != base[key]:
                own.setdefault(task, {})[key] = value
    ordered = {task: own[task] for task in tasks if task in own}
    return base, after, ordered


def _passed_over(translation: Translation) -> list[str]:
    """The flags of which nothing came here, though they may have done something there."""
    rows = [row for row in translation.rows if "passed over" in row.effect]
    return [f"Line {row.lines[0]}: {row.flag} {', '.join(row.values)}: {row.effect}." for row in rows]


def one_line(text: str) -> str:
    """Text that cannot leave the line of its comment."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _options(options: Mapping[str, tuple[Plain, str]], first: Sequence[str]) -> list[str]:
    names = [*(name for name in first if name in options), *(name for name in options if name not in first)]
    return [f"  {line}" for name in names for line in entry(name, *options[name])]


def entry(name: str, value: Plain, comment: str) -> list[str]:
    """The lines of a key and its value, with a comment that fits."""
    lines, comment = _dumped(name, value), one_line(comment)
    if not comment:
        return lines
    # A text that goes on in the next line would take a comment behind it for its own.
    if len(comment) > _LONG or (len(lines) > 1 and not isinstance(value, list)):
        return [f"# {comment}", *lines]
    return [f"{lines[0]} # {comment}", *lines[1:]]


def _dumped(name: str, value: Plain | dict[str, Plain]) -> list[str]:
    """The lines of a key and its value, which may be moved to the right."""
    return dialect.dump({name: value}).rstrip("\n").split("\n")


def _block(name: str, changes: Mapping[str, Plain]) -> list[str]:
    if not changes:
        return []
    return [f"{name}:", *(f"  {line}" for key, value in changes.items() for line in _dumped(key, value))]


def batch_said(translation: Translation, commands: Sequence[Command]) -> str:
    """How many rows a step had as launched, for the first command."""
    rows = batch_rows(translation)
    devices = commands[0].devices
    if devices.count is None:
        return f"x {rows[0]} rows a device and micro-batch; devices: {one_line(devices.said)}"
    total = rows[0] * rows[1] * devices.count
    said = f"{rows[0]} x {rows[1]} x {devices.count} devices = {total} rows a step ({devices.said})"
    alone = f"; {rows[1] * devices.count} here for the same on one device"
    return f"{said}{alone if devices.count > 1 else ''}"


def batch_rows(translation: Translation) -> tuple[int, int]:
    """Rows per device and micro-batch, and micro-batches per step, of the first command."""
    rows = translation.values.get("train.per_device_train_batch_size", [8])[0]
    steps = translation.values.get("train.gradient_accumulation_steps", [1])[0]
    assert isinstance(rows, int)
    assert isinstance(steps, int)
    return rows, steps
