"""``evertune init --from``: from a launch script to a configuration that loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evertune.config.load import load_config
from evertune.config.old_runs.commands import Command, read_launches
from evertune.config.old_runs.render import batch_rows, render
from evertune.config.old_runs.translate import Translation, translate
from evertune.errors import ConfigError, InputError, Problem
from evertune.methods import METHODS


@dataclass(frozen=True)
class Imported:
    """A configuration made of a launch script.

    Attributes:
        text: The YAML.
        translation: What became of what.
        commands: The commands.
    """

    text: str
    translation: Translation
    commands: Sequence[Command]

    def facts(self) -> dict[str, Any]:
        """Everything but the text, as plain JSON values."""
        devices = self.commands[0].devices.count
        rows, steps = batch_rows(self.translation)
        return {
            "method": self.translation.method,
            "tasks": list(self.translation.tasks),
            "batch": {
                "per_device_train_batch_size": rows,
                "gradient_accumulation_steps": steps,
                "devices": devices,
                "rows_per_step": None if devices is None else rows * steps * devices,
            },
            "notes": list(self.translation.notes),
            "flags": [
                {
                    "flag": row.flag,
                    "lines": list(row.lines),
                    "values": list(row.values),
                    "key": row.key or None,
                    "effect": row.effect,
                }
                for row in self.translation.rows
            ],
        }


def import_run(
    file: Path,
    folder: Path,
    *,
    method: str | None = None,
    words: Sequence[str] = (),
    ignore_unknown: bool = False,
) -> Imported:
    """Reads a launch script of O-LoRA, N-LoRA or GORP, or a JSON file of their arguments.

    The script is taken apart into words and never executed.

    Args:
        file: The script (bash), or the arguments (``.json``).
        folder: Folder that the configuration will lie in.
        method: The method, where the flags do not tell or tell wrongly.
        words: The script's own arguments, its ``$1``, ``$2``, ...
        ignore_unknown: Pass over flags that are not known.

    Raises:
        InputError: With everything that cannot be read, by file and line.
    """
    if method is not None and method not in METHODS:
        try:
            METHODS.get(method)
        except ConfigError as error:
            raise InputError([Problem("--method", one.what, one.instead) for one in error.problems]) from error
    launches = read_launches(file, words)
    translation = translate(launches, str(file), folder, method, ignore_unknown=ignore_unknown)
    text = render(translation, launches.commands, str(file))
    _check(text, translation, str(file))
    return Imported(text, translation, launches.commands)


def _check(text: str, translation: Translation, source: str) -> None:
    """Loads the configuration once, and names the old flag of what is wrong with it.

    Raises:
        InputError: If a value is out of bounds.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "imported.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            load_config(path)
        except ConfigError as error:
            # What is wrong for the first task and for later ones is said once.
            problems = dict.fromkeys(_at_flag(problem, translation, source) for problem in error.problems)
            raise InputError(problems) from error


def _at_flag(problem: Problem, translation: Translation, source: str) -> Problem:
    key = problem.where.rpartition(" ")[2]
    key = next((known for known in translation.lines if key.endswith(known)), key)
    flag, line = translation.lines.get(key, (key, 0))
    return Problem(f"{source}:{line}: {flag}" if line else f"{source}: {flag}", problem.what, problem.instead)
