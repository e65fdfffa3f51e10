"""From the commands of a launch script to the keys of a configuration."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evertune.config.hints import fields_of
from evertune.config.marks import Plain
from evertune.config.models import task_type_of
from evertune.config.old_runs.commands import Command, Launches, Use
from evertune.config.old_runs.flags import FLAGS, ONLY_GORP, TRUTH, OldFlag, find_flag, truth
from evertune.config.schema import OVERRIDABLE, SECTIONS
from evertune.errors import InputError, Problem
from evertune.methods import METHODS
from evertune.streams.cl_orders import ORDERS

_PROMPT_LINES = ("add_task_name", "add_dataset_name")
_NAMES = {name.lower(): name for names in ORDERS.values() for name in names}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one old flag.

    Attributes:
        flag: With its dashes.
        lines: Where it stands; empty if it is not written and its old default differs from ours.
        values: Its values, each once.
        key: The new key, empty if there is none.
        effect: What differs, or why there is none.
    """

    flag: str
    lines: tuple[int, ...]
    values: tuple[str, ...]
    key: str
    effect: str


@dataclass
class Translation:
    """A launch script in the words of a configuration.

    Attributes:
        method: The method.
        tasks: Names of the tasks, in order.
        values: Dotted keys to their values, one for each task.
        comments: Dotted keys to where their values are from.
        lines: Dotted keys to ``--flag`` and its line.
        rows: What became of every flag.
        notes: What was assumed, and what was passed over.
    """

    method: str
    tasks: list[str]
    values: dict[str, list[Plain]] = field(default_factory=dict[str, list[Plain]])
    comments: dict[str, str] = field(default_factory=dict[str, str])
    lines: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    rows: list[Row] = field(default_factory=list[Row])
    notes: list[str] = field(default_factory=list[str])

    def put(self, key: str, value: Plain, comment: str = "") -> None:
        """Gives a key one value for all tasks."""
        self.values[key] = [value] * len(self.tasks)
        self.comments[key] = comment


def translate(
    launches: Launches, source: str, folder: Path, method: str | None = None, *, ignore_unknown: bool = False
) -> Translation:
    """Says the commands of a script in the keys of a configuration.

    Args:
        launches: The commands.
        source: The script, for messages.
        folder: Folder of the configuration, from which its relative paths start.
        method: The method; told from the flags if None.
        ignore_unknown: Pass over flags that no script of these methods has, and values that are not available.

    Raises:
        InputError: With everything that cannot be said.
    """
    commands = launches.commands
    chosen, reason = (method, "") if method else _choose_method(commands, source)
    translation = Translation(chosen, _task_names(commands), notes=[*filter(None, [reason]), *launches.notes])
    problems = [*_broken_chains(commands, source), *_task_problems(translation.tasks, commands, source)]
    flags = dict.fromkeys(name for command in commands for name in command.flags)
    for name in flags:
        uses = [command.flags.get(name) for command in commands]
        problems += _translate_flag(name, uses, translation, source, ignore_unknown=ignore_unknown)
    if not problems:
        _add_defaults(set(flags), translation)
        _add_stream(commands, translation)
        _add_model(commands[0], translation, folder)
        _mend(translation)
        problems += _differing(translation, source)
    if problems:
        raise InputError(sorted(problems, key=lambda problem: _line(problem.where)))
    return translation


def _line(where: str) -> int:
    found = re.search(r":(\d+)(?::|$)", where)
    return int(found[1]) if found else 0


def _choose_method(commands: Sequence[Command], source: str) -> tuple[str, str]:
    """The method, and what was assumed."""
    if any(command.flags.keys() & ONLY_GORP for command in commands):
        return "gorp", "The method is gorp: only its scripts have flags such as --galore_rank."
    paths = ["/".join(Path(source).resolve().parts[-4:]), *(command.program for command in commands)]
    paths += [use.text for command in commands if (use := command.flags.get("output_dir"))]
    if any(re.search(r"(?<![a-z])n[-_]?lora", path.lower()) for path in paths):
        said = "its path says so, and flags alone do not tell N-LoRA from O-LoRA"
        return "n-lora", f"The method is taken to be n-lora: {said}. `--method o-lora` overrides."
    terms = any(command.flags.keys() & {"lamda_1", "lamda_2"} for command in commands)
    if not terms and not any("uie" in command.program for command in commands):
        said = "no flag names a term of O-LoRA or N-LoRA. `--method` overrides."
        return "seq-lora", f"The method is taken to be seq-lora: {said}"
    said = "N-LoRA's scripts have the same flags. `--method n-lora` overrides."
    return "o-lora", f"The method is taken to be o-lora; {said}"


def _task_names(commands: Sequence[Command]) -> list[str]:
    names: list[str] = []
    for command in commands:
        use = _naming(command)
        last = use.text.rstrip("/").rpartition("/")[2] if use else ""
        if use is not None and use.name == "output_dir":
            last = re.sub(r"^\d+[-_.]", "", last)
        names.append(_NAMES.get(last.lower(), last))
    return names


def _naming(command: Command) -> Use | None:
    """The flag that tells the task: its last folder, ``dbpedia``, or ``1-dbpedia`` of the output."""
    return command.flags.get("task_config_dir") or command.flags.get("output_dir")


def _task_problems(tasks: Sequence[str], commands: Sequence[Command], source: str) -> Iterable[Problem]:
    for index, (task, command) in enumerate(zip(tasks, commands, strict=True)):
        use = _naming(command)
        where = f"{source}:{use.line}: --{use.name}" if use else f"{source}:{command.line}"
        if use is None:
            what = "This command has no --task_config_dir (and no --output_dir) that names its task."
            yield Problem(where, what)
        elif use.unknown and use.name == "task_config_dir":
            continue  # noted with all others
        elif use.values and (not task or "$" in task or "`" in task):
            yield Problem(where, "does not name the task of this command.", "Write `--task_config_dir FOLDER/TASK`.")
        elif task in tasks[:index]:
            before = _naming(commands[tasks.index(task)])
            first = before.line if before else commands[tasks.index(task)].line
            what = f"The task {task} is trained twice, first by line {first}: these are several streams."
            yield Problem(where, what, "Give each stream a script of its own.")


def _broken_chains(commands: Sequence[Command], source: str) -> Iterable[Problem]:
    """Commands that do not continue from the one before."""
    for index, command in enumerate(commands):
        use = command.flags.get("model_name_or_path")
        if use is None:
            yield Problem(f"{source}:{command.line}", "This command has no --model_name_or_path.")
            continue
        where = f"{source}:{use.line}: --model_name_or_path"
        if index == 0:
            if use.text.rstrip("/").endswith("adapter"):
                what = f"The first command starts from the adapter {use.text}, whose model is not named here."
                yield Problem(where, what, "Begin with the command of the first task.")
            continue
        before = commands[index - 1].flags.get("output_dir")
        if before is not None and not _is_below(use.text, before.text):
            what = f"{use.text} is not below {before.text}, which the command before writes: this is no next task."
            yield Problem(where, what, "Give each stream a script of its own.")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_below(path: str, folder: str) -> bool:
    return posixpath.normpath(path).startswith(posixpath.normpath(folder) + "/")


def _translate_flag(
    name: str, uses: Sequence[Use | None], translation: Translation, source: str, *, ignore_unknown: bool
) -> Iterable[Problem]:
    written = [use for use in uses if use is not None]
    flag = find_flag(name, translation.method)
    lines, values = tuple(use.line for use in written), tuple(dict.fromkeys(use.text for use in written))
    if flag is None:
        translation.rows.append(Row(f"--{name}", lines, values, "", "unknown, passed over"))
        for line in () if ignore_unknown else lines[:1]:
            what = f"--{name} is a flag of none of the scripts that can be read."
            where = f"{source}:{line}: --{name}"
            yield Problem(where, what, "Remove it, or pass over all such flags with `--ignore-unknown`.")
        return
    if flag.neutral and any(value.lower() not in flag.neutral for value in values):
        translation.rows.append(Row(f"--{name}", lines, values, "", f"not available, passed over: {flag.why}"))
        for use in () if ignore_unknown else written[:1]:
            what = f"--{name} {use.text} is not available: {flag.why}."
            yield Problem(f"{source}:{use.line}: --{name}", what, "Remove it, or pass over it with `--ignore-unknown`.")
        return
    translation.rows.append(Row(f"--{name}", lines, values, flag.key, flag.why))
    if flag.key and (name != "model_name_or_path" or written[0] is uses[0]):
        yield from _read_values(flag, uses[:1] if name == "model_name_or_path" else uses, translation, source)


def _read_values(flag: OldFlag, uses: Sequence[Use | None], translation: Translation, source: str) -> Iterable[Problem]:
    missing = _default(flag, translation.method)
    read: list[Plain] = []
    for use in uses:
        if use is None:
            read.append(missing)
            continue
        where = f"{source}:{use.line}: --{flag.name}"
        if use.unknown:
            yield Problem(where, f"{use.unknown}.", "Write its value out.")
            return  # the commands after it have the same variable
        expected = "a text" if flag.reader is None else flag.reader.expected
        if not use.values and expected != TRUTH.expected:
            yield Problem(where, f"must be {expected}, but has no value.")
        elif len(use.values) > 1:
            yield Problem(where, f"must be {expected}, got {len(use.values)} values: {_short(use.text)}.")
        elif flag.reader is not None:
            try:
                read.append(flag.reader.read(use.text))
            except (ValueError, OverflowError):
                yield Problem(where, f'must be {flag.reader.expected}, got "{use.text}".')
    if flag.reader is None or len(read) < len(uses) or all(value is None for value in read):
        return
    first = next(use for use in uses if use is not None)
    translation.values[flag.key] = [missing if value is None else value for value in read]
    translation.comments[flag.key] = f"--{flag.name}, line {first.line}"
    translation.lines[flag.key] = (f"--{flag.name}", first.line)


def _default(flag: OldFlag, method: str) -> Plain:
    """What holds where a flag is not written: the old default, which is ours unless the table says otherwise."""
    if flag.default is not None:
        return flag.default
    section, _, option = flag.key.partition(".")
    cls: Any = METHODS.get(method) if section == "method" else SECTIONS.get(section)
    found = next((each for each in fields_of(cls) if each.name == option), None) if cls else None
    return None if found is None or found.required else found.default


def _add_defaults(written: set[str], translation: Translation) -> None:
    """The old defaults of what is not written, where ours are others."""
    for flag in FLAGS:
        applies = not flag.methods or translation.method in flag.methods
        if flag.default is not None and applies and flag.name not in written and flag.key not in translation.values:
            shown = str(flag.default).lower() if isinstance(flag.default, bool) else f"{flag.default}"
            translation.put(flag.key, flag.default, f"old default of --{flag.name}")
            translation.rows.append(Row(f"--{flag.name}", (), (shown,), flag.key, "not written: the old default"))
    if translation.method == "gorp":
        translation.put("train.adam_epsilon", 1e-6, "fixed in the code")
        translation.put("method.energy_threshold", 0.9, "fixed in the code")


def _add_stream(commands: Sequence[Command], translation: Translation) -> None:
    order = next((number for number, names in ORDERS.items() if list(names) == translation.tasks), None)
    translation.put("stream.order", list[Plain](translation.tasks) if order is None else order, "--task_config_dir")
    strange = [task for task in translation.tasks if task not in _NAMES.values()]
    if strange:
        translation.notes.append(f"No data set of the CL benchmark: {', '.join(strange)}. The names are kept.")
    both = [[_is_true(command.flags.get(name)) for name in _PROMPT_LINES] for command in commands]
    if any(task != dataset for task, dataset in both):
        said = "Only one of --add_task_name and --add_dataset_name is set; prompts here have both lines or none."
        translation.notes.append(f"{said} Both are written.")
    translation.values["stream.task_names_in_prompt"] = [any(pair) for pair in both]
    translation.comments["stream.task_names_in_prompt"] = "--add_task_name, --add_dataset_name"
    translation.put("stream.dev_fraction", 0, "every row was learnt from; nothing is chosen on dev")


def _is_true(use: Use | None) -> bool:
    try:
        return use is not None and truth(use.text)
    except ValueError:
        return True


def _add_model(first: Command, translation: Translation, folder: Path) -> None:
    use = first.flags["model_name_or_path"]
    text = use.text.rstrip("/")
    # A folder named by a script is relative to where the script is started, and looks like a hub id.
    local = os.path.exists(text) or text.startswith((".", "/", "~", "initial_model/")) or not _HUB_ID.fullmatch(text)
    shown = _relative(text, folder) if local else text
    translation.put("backbone.path", f"./{shown}" if local and shown[0] not in "./~" else shown)
    translation.comments["backbone.path"] = f"--model_name_or_path, line {use.line}"
    kind, why = task_type_of(Path(text)), "as its configuration says"
    if kind is None:
        kind = "causal_lm" if "llama" in text.lower() else "seq2seq_lm"
        why = "its path holds `llama`" if kind == "causal_lm" else "as for every path without `llama`"
    translation.put("backbone.task_type", kind, why)
    for key in ("stream.root", "stream.instruction_file"):
        if key in translation.values:
            translation.values[key] = [_relative(str(value), folder) for value in translation.values[key]]
    _add_targets(translation, causal=kind == "causal_lm")


def _relative(text: str, folder: Path) -> str:
    """A path of a script, which is relative to the current folder, as the configuration must have it."""
    if Path(text).is_absolute() or text.startswith("~"):
        return text
    return Path(os.path.relpath(Path(text).resolve(), folder.resolve())).as_posix()


def _add_targets(translation: Translation, *, causal: bool) -> None:
    gorp = translation.method == "gorp"
    if "adapter.target" not in translation.values:
        target = "self_attention_query_value" if gorp and not causal else "attention_query_value"
        translation.put("adapter.target", target, "fixed in the code")
    if gorp and "method.full_rank" not in translation.values:
        translation.put("method.full_rank", None if causal else "cross_attention_query_value")
        translation.comments["method.full_rank"] = "old default of --optim_target_modules"
        if causal:
            said = "matches no module of this model: only the adapters learnt"
            translation.notes.append(f"The old default of --optim_target_modules {said}.")


def _mend(translation: Translation) -> None:
    """What follows from several flags together."""
    _drop_warmup(translation)
    _compare_lengths(translation)
    if translation.method in ("o-lora", "n-lora"):
        translation.put("method.variant", "released", "the form of the term in the released code")
    if translation.method == "gorp" and "method.projection_kind" not in translation.values:
        said = "the old default std is `right` for weights with at least as many outputs as inputs"
        translation.notes.append(f"The projection keeps to the input side: {said}.")
    if translation.method == "gorp":
        said = "neither exchanged gradients between devices nor clipped them"
        translation.notes.append(f"GORP's code {said}; both are done here.")
    translation.put("evaluation.zero_shot", False, "the untouched model was not scored")


def _drop_warmup(translation: Translation) -> None:
    """Leaves warm-up out where the schedule is constant."""
    schedules = translation.values["train.lr_scheduler_type"]
    for key in ("train.warmup_steps", "train.warmup_ratio"):
        if key not in translation.values:
            continue
        each = zip(schedules, translation.values[key], strict=True)
        kept: list[Plain] = [0 if schedule == "constant" else value for schedule, value in each]
        why = "the schedule `constant` has no warm-up, there as here"
        if any(kept):
            translation.values[key] = kept
            if "constant" in schedules:
                translation.notes.append(f"{key} is 0 for some tasks: {why}.")
        else:
            del translation.values[key]
            translation.rows = [replace(row, key="", effect=why) if row.key == key else row for row in translation.rows]


def _compare_lengths(translation: Translation) -> None:
    """Says so where answers were generated longer, or shorter, than targets are."""
    generated = next((row.values for row in translation.rows if row.flag == "--generation_max_length"), ())
    targets = {str(value) for value in translation.values.get("train.max_target_length", [50])}
    if generated and set(generated) != targets:
        said = f"Answers were generated up to --generation_max_length {', '.join(generated)} tokens"
        translation.notes.append(f"{said}; here `train.max_target_length` ({', '.join(sorted(targets))}) holds.")


def _differing(translation: Translation, source: str) -> Iterable[Problem]:
    """Keys that are the same for a whole run, with values that are not."""
    for key, values in translation.values.items():
        if key.partition(".")[0] not in OVERRIDABLE and any(value != values[0] for value in values):
            flag, line = translation.lines.get(key, ("", 0))
            shown = " and ".join(dict.fromkeys(str(value) for value in values))
            where = f"{source}:{line}: {flag}" if line else source
            yield Problem(where, f"{key} cannot change from task to task: {shown}.", "Let all commands agree.")
