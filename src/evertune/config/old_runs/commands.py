"""The training commands of a launch script, or the one of a JSON file of arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from evertune.config.old_runs.launchers import Devices, count_devices
from evertune.config.old_runs.shell import Word, plain, simple_commands
from evertune.errors import InputError, Problem

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\d|[A-Za-z_]\w*)|\{(\w+)\})")
_OPENING = ("for", "while", "until", "if", "case", "select", "function", "{")
_CLOSING = ("done", "fi", "esac", "}")
_BEFORE_A_COMMAND = ("do", "then", "else", "elif", "!", "{", "nohup", "exec", "time", "env")
_DECLARING = ("export", "local", "declare", "readonly")
_SHELLS = ("bash", "sh", "source", ".")
_FALSE = ("false", "f", "no", "n", "0")


@dataclass(frozen=True)
class Use:
    """A flag of a command.

    Attributes:
        name: Without its dashes, ``learning_rate``.
        values: What follows it, expanded as far as it could be.
        line: The line that it stands on.
        unknown: Why a variable in it has no value here; empty if all have.
    """

    name: str
    values: tuple[str, ...]
    line: int
    unknown: str = ""

    @property
    def text(self) -> str:
        """Its value as it is shown; ``true`` for a bare flag."""
        return " ".join(self.values) if self.values else "true"


@dataclass(frozen=True)
class Command:
    """A command that trains one task.

    Attributes:
        line: The line that it begins on.
        program: The script that it starts; empty for a JSON file.
        flags: The flags by name.
        devices: On how many devices.
    """

    line: int
    program: str
    flags: Mapping[str, Use]
    devices: Devices


@dataclass
class Launches:
    """What a file starts.

    Attributes:
        commands: The training commands, in order.
        notes: What was passed over, in words.
    """

    commands: list[Command] = field(default_factory=list[Command])
    notes: list[str] = field(default_factory=list[str])


def read_launches(file: Path, words: Sequence[str]) -> Launches:
    """Reads a launch script, or a JSON file of arguments (``.json``).

    Args:
        file: The file.
        words: What would follow the script's name on its command line: its ``$1``, ``$2``, ...

    Raises:
        InputError: If it cannot be read, or starts no training.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("This is not UTF-8 text.", where=str(file), instead="Save the file as UTF-8.") from error
    except OSError as error:
        raise InputError(f"Cannot read this: {error.strerror}.", where=str(file)) from error
    if file.suffix == ".json":
        return _read_json(text, str(file))
    reader = _Reader(str(file), words)
    for command in simple_commands(text, str(file)):
        reader.read(command)
    return reader.finished()


def _read_json(text: str, source: str) -> Launches:
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{source}:{error.lineno}:{error.colno}"
        raise InputError(f"This file is not JSON: {error.msg}.", where=where) from error
    except RecursionError as error:
        raise InputError("This file is nested too deeply for a list of arguments.", where=source) from error
    if not isinstance(content, dict):
        raise InputError("This file is not an object of arguments.", where=source, instead='Write {"flag": value}.')
    arguments = cast("dict[str, Any]", content)
    lines = {name: _line_of(name, text) for name in arguments}
    uses = {
        name: Use(name, _json_values(value), lines[name], _json_unknown(value))
        for name, value in arguments.items()
        if value is not None
    }
    if "do_train" in uses and uses["do_train"].text.lower() in _FALSE:
        raise InputError("These arguments train nothing.", where=f"{source}:{lines['do_train']}: do_train")
    return Launches([Command(1, "", uses, Devices(None, "the file does not say on how many"))])


def _line_of(name: str, text: str) -> int:
    found = re.search(rf"{re.escape(json.dumps(name))}\s*:", text)
    return text[: found.start()].count("\n") + 1 if found else 1


def _json_values(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(str(item) for item in cast("list[Any]", value))
    return (json.dumps(value) if isinstance(value, (bool, dict)) else str(value),)


def _json_unknown(value: Any) -> str:
    """Why no flag of a command line can have a value."""
    if isinstance(value, dict):
        return "is an object"
    # JSON can hold halves of characters, which no file can, and NUL, which no path can.
    bad = next((each for each in str(value) if "\ud800" <= each <= "\udfff" or each == "\0"), "")
    return f"holds the character U+{ord(bad):04X}" if bad else ""


class _Reader:
    """Follows a script from command to command, with the variables that are plainly assigned."""

    def __init__(self, source: str, words: Sequence[str]) -> None:
        self._source = source
        self._values: dict[str, str] = {str(number): word for number, word in enumerate(words, start=1)}
        self._unknown: dict[str, str] = {}
        self._depth = 0
        self._found = Launches()
        self._problems: list[Problem] = []
        self._started: list[str] = []

    def finished(self) -> Launches:
        if not self._found.commands and not self._problems:
            # A script that only starts others with their arguments is common.
            other = f"It starts others: read {' or '.join(f'`{one}`' for one in self._started)}." * bool(self._started)
            what = "No command of this script trains: none has `--do_train`."
            self._problems.append(Problem(self._source, what, other))
        if self._problems:
            raise InputError(self._problems)
        return self._found

    def read(self, words: list[Word]) -> None:
        while words:
            first = words[0].text
            self._depth += (first in _OPENING) - (first in _CLOSING)
            if first not in _BEFORE_A_COMMAND:
                break
            words = words[1:]
        environment: dict[str, str] = {}
        if words and words[0].text in _DECLARING:
            words = words[1:]
        elif not all(_ASSIGNMENT.fullmatch(word.text) for word in words):
            while words and (found := _ASSIGNMENT.fullmatch(words[0].text)):
                environment[found[1]] = self._expanded(found[3])[0]
                words = words[1:]
            if words:
                self._command(words, environment)
            return
        for word in words:
            if found := _ASSIGNMENT.fullmatch(word.text):
                self._assign(found[1], bool(found[2]), found[3], word.line)

    def _assign(self, name: str, added: bool, value: str, line: int) -> None:
        text, unknown = self._expanded(value)
        if added or self._depth:
            unknown = "is assigned in a loop, a branch or piece by piece"
        elif "$(" in value or "`" in value:
            unknown = "comes from a command, which is not run"
        self._values.pop(name, None)
        if unknown:
            self._unknown[name] = f"it {unknown} (line {line})" if not unknown.startswith("`") else unknown
        else:
            self._values[name] = text

    def _expanded(self, text: str) -> tuple[str, str]:
        """A word with its variables in place, and why that cannot be done for one of them."""
        unknown: list[str] = []

        def value(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            if name in self._values:
                return self._values[name]
            unknown.append(f"`{found[0]}` has no value: {self._why(name)}")
            return found[0]

        expanded = _VARIABLE.sub(value, text)
        if not unknown and ("$" in expanded or "`" in expanded):
            unknown.append(f"`{plain(expanded)}` is not plain text, and nothing is run to find its value")
        return plain(expanded), unknown[0] if unknown else ""

    def _why(self, name: str) -> str:
        if name.isdigit():
            return "it is an argument of the script; give them with `--script-args`"
        return self._unknown.get(name, "it is not assigned plainly above")

    def _command(self, words: list[Word], environment: Mapping[str, str]) -> None:
        if words[0].text == "shift":
            self._values = {name: value for name, value in self._values.items() if not name.isdigit()}
        if words[0].text in _SHELLS and len(words) > 1 and words[1].text.endswith(".sh"):
            arguments = " ".join(_quoted(self._expanded(word.text)[0]) for word in words[2:])
            asked = f' --script-args "{arguments}"' if arguments else ""
            self._started.append(f"--from {words[1].text}{asked}")
        start = _program_index(words)
        if start is None:
            return
        line = words[0].line
        uses = self._uses(words[start + 1 :])
        training = uses.get("do_train")
        if training is None or training.text.lower() in _FALSE:
            if "model_name_or_path" in uses:
                self._found.notes.append(f"line {line} trains nothing (no `--do_train`) and is passed over.")
            return
        if self._depth > 0:
            what = "This command stands in a loop, a branch or a function, which are not run."
            problem = Problem(f"{self._source}:{line}", what, "Write its commands out, one after the other.")
            self._problems.append(problem)
            return
        launcher = [self._expanded(word.text) for word in words[:start]]
        devices = count_devices(launcher, {**self._values, **environment})
        self._found.commands.append(Command(line, words[start].text, uses, devices))

    def _uses(self, words: Iterable[Word]) -> dict[str, Use]:
        """The flags as ``argparse`` reads them: the last of equal ones counts."""
        uses: dict[str, Use] = {}
        name = ""
        for word in self._with_split_variables(words):
            if word.text.startswith("--"):
                written, equals, value = word.text[2:].partition("=")
                name = written.replace("-", "_")
                if name in uses:
                    note = f"line {word.line}: --{name} is written twice in its command; the last counts, as there."
                    self._found.notes.append(note)
                uses[name] = Use(name, (), word.line)
                if not equals:
                    continue
            else:
                value = word.text
            if name:
                text, unknown = self._expanded(value)
                before = uses[name]
                uses[name] = Use(name, (*before.values, text), before.line, before.unknown or unknown)
        return uses

    def _with_split_variables(self, words: Iterable[Word]) -> Iterable[Word]:
        """The words, with a variable that holds several flags taken apart, as the shell does."""
        for word in words:
            found = _VARIABLE.fullmatch(word.text)
            value = self._values.get(found[1] or found[2], "") if found else ""
            if value.lstrip().startswith("--"):
                yield from (Word(part, word.line) for part in value.split())
            else:
                yield word


def _quoted(text: str) -> str:
    """An argument inside double quotation marks."""
    return f"'{text}'" if re.search(r"[^\w.,:/=+-]", text) else text


def _program_index(words: Sequence[Word]) -> int | None:
    """Where the Python script of a command stands, or the module after ``-m``."""
    for index, word in enumerate(words):
        if word.text.endswith(".py"):
            return index
    modules = [index + 1 for index, word in enumerate(words[:-1]) if word.text == "-m"]
    return modules[-1] if modules else None
