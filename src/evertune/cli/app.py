"""The command ``evertune``: its verbs, and how errors end it."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

import evertune
from evertune.cli.describe import describe
from evertune.cli.doctor import doctor
from evertune.cli.evaluate import evaluate
from evertune.cli.export import export
from evertune.cli.generate import generate
from evertune.cli.init import init
from evertune.cli.inspect import inspect
from evertune.cli.listing import list_kind
from evertune.cli.output import silence
from evertune.cli.prepare import prepare
from evertune.cli.report import report
from evertune.cli.run import run
from evertune.cli.sweep import sweep
from evertune.cli.train import train
from evertune.cli.validate import validate
from evertune.errors import EvertuneError, InputError, did_you_mean

# Verb to its function and to its line in the overview.
_VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "run": (run, "Learn a stream of tasks, and score all of them."),
    "train": (train, "Learn one task from flags: writes the configuration."),
    "sweep": (sweep, "Run a configuration over values of its keys: one table."),
    "validate": (validate, "Check a configuration, its rows and its model."),
    "prepare": (prepare, "Turn raw public files into the rows of a stream."),
    "inspect": (inspect, "Show rows as the model sees them."),
    "evaluate": (evaluate, "Score a stage of a run again, or other rows."),
    "report": (report, "Write the report of a run again."),
    "export": (export, "Write a stage of a run as a standard adapter or a whole model."),
    "generate": (generate, "Answer prompts with a stage of a run."),
    "list": (list_kind, "List methods, streams, recipes, models, ..."),
    "describe": (describe, "Explain the configuration, or one thing in it."),
    "init": (init, "Write a configuration to start from."),
    "doctor": (doctor, "Show the environment, and what is wrong with it."),
}
INTERRUPTED = 130

app = typer.Typer(
    name="evertune",
    help="Continual, parameter-efficient fine-tuning of Hugging Face models over a stream of tasks.",
    epilog="Begin with: evertune run demo",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"evertune {evertune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works after the verb too.")] = False,
) -> None:
    pass


for _name, (_verb, _line) in _VERBS.items():
    app.command(_name, short_help=_line)(_verb)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Its words without the program's name; those of the process by default.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug, words = _without_debug(words)
    _quiet_libraries()
    try:
        _check_verb(words)
        return _called(words)
    except EvertuneError as error:
        return _ended(str(error), error.exit_code, debug=debug)
    except typer.TyperException as error:
        verb = f"evertune {words[0]}" if words and words[0] in _VERBS else "evertune"
        said = error.format_message().rstrip(".")
        message = f"{verb}: {said}. See `{verb} --help`."
        return _ended(message, InputError.exit_code, debug=debug)
    except (KeyboardInterrupt, typer.Abort):
        return _ended("Interrupted.", INTERRUPTED, debug=False)
    except BrokenPipeError:
        # The reader has seen enough; the interpreter must not fail on its last flush.
        silence(sys.stdout)
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is said in one line
        said = f"This is a bug in Evertune: {type(error).__name__}: {error}"
        return _ended(f"{said}\nRun the same command with --debug for the traceback, and report both.", 1, debug=debug)


def _quiet_libraries() -> None:
    """Keeps off the terminal what libraries say to each other: missing kernels, names that will change."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate)\b")


def _called(words: list[str]) -> int:
    code = app(words, prog_name="evertune", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _ended(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)  # noqa: T201 - rich would wrap and colour paths
    return code


def _without_debug(words: list[str]) -> tuple[bool, list[str]]:
    """Takes ``--debug`` out, wherever it stands before a ``--``."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return len(kept) < end, [*kept, *words[end:]]


def _check_verb(words: Sequence[str]) -> None:
    """Says which verb was probably meant.

    Raises:
        InputError: If the first word is no verb.
    """
    verb = words[0] if words and not words[0].startswith("-") else None
    if verb is not None and verb not in _VERBS:
        raise InputError(f"There is no verb `{verb}`.", where="evertune", instead=did_you_mean(verb, list(_VERBS)))
