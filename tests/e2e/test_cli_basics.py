"""What all verbs have in common: help, exit codes, streams, tracebacks."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from evertune.cli import app
from evertune.errors import EvertuneError
from tests.e2e.conftest import Cli

VERBS = (
    "run",
    "train",
    "sweep",
    "validate",
    "prepare",
    "inspect",
    "evaluate",
    "report",
    "export",
    "generate",
    "list",
    "describe",
    "init",
    "doctor",
)
LATER = ("plan", "rehearse", "launch", "compare", "gate")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_the_verbs_that_exist_and_no_other(cli: Cli) -> None:
    said = cli("--help")
    assert said.code == 0
    listed = [line.split()[0] for line in said.out.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert tuple(listed[: len(VERBS)]) == VERBS
    assert not set(LATER) & set(said.out.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(cli: Cli, verb: str) -> None:
    said = cli(verb, "--help")
    assert said.code == 0
    assert f"Usage: evertune {verb}" in said.out
    assert all(line.strip() for line in said.out.split("Options:")[1].splitlines()[1:2])


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("init", "doctor", "list", "describe")])
def test_every_result_verb_takes_json(cli: Cli, verb: str) -> None:
    assert "--json" in cli(verb, "--help").out


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, evertune.cli.app as app; code = app.main(['--help']);"
        "heavy = {'torch', 'transformers', 'peft', 'pydantic', 'yaml', 'numpy', 'rich'} & set(sys.modules);"
        "sys.exit(f'imports {heavy}' if heavy else code)"
    )
    assert python(code).returncode == 0
    fastest = min(_seconds("--help") for _ in range(3))
    assert fastest < 0.4


def _seconds(*words: str) -> float:
    """Processor time of a command, which other programs on the machine do not lengthen."""
    code = (
        "import sys, time, runpy; sys.argv[1:] = ['--help']\ntry: runpy.run_module('evertune', run_name='__main__')\n"
    )
    code += "except SystemExit: sys.stderr.write(str(time.process_time()))"
    return float(python(code, *words).stderr)


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "evertune", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "evertune 0.1.0\n")


def test_no_verb_shows_the_help(cli: Cli) -> None:
    said = cli()
    assert "Usage: evertune" in said.out + said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "evertune: There is no verb `rnu`. Did you mean `run`?"),
        (["compare", "x"], "evertune: There is no verb `compare`."),
        (["run"], "evertune run: Missing argument 'CONFIG'. See `evertune run --help`."),
        (["run", "demo", "--stes", "x"], "evertune run: No such option: --stes"),
        (["run", "demo", "more"], "evertune run: Got unexpected extra argument"),
        (["evaluate", "x", "--stage", "0"], "evertune evaluate: Invalid value for '--stage'"),
        (["inspect", "demo", "--rows", "many"], "evertune inspect: Invalid value for '--rows'"),
        (["--nothing"], "evertune: No such option: --nothing"),
    ],
)
def test_wrong_words(cli: Cli, words: list[str], message: str) -> None:
    said = cli(*words)
    assert said.code == 2
    assert message in said.err
    assert said.out == ""


class Failing:
    """Takes the place of a verb."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object, **__: object) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (EvertuneError("It failed.", where="x.yaml:1:2", instead="Do it."), 1, "x.yaml:1:2: It failed. Do it.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (ValueError("odd"), 1, "This is a bug in Evertune: ValueError: odd\n"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_how_errors_end_a_command(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    monkeypatch.setattr(app, "app", Failing(error))
    monkeypatch.setattr(app, "silence", lambda stream: None)
    said = cli("doctor")
    assert said.code == code
    assert said.err.startswith(message)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("words", [["--debug", "validate", "nothing"], ["validate", "nothing", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(cli: Cli, words: list[str]) -> None:
    said = cli(*words)
    assert said.code == 2
    assert "Traceback (most recent call last)" in said.err
    assert "There is no such file, and no recipe of this name." in said.err
    assert "Traceback" not in cli(*[word for word in words if word != "--debug"]).err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m evertune describe config | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["top level", "0"]
    assert done.stderr == ""


def test_ctrl_c_ends_with_130() -> None:
    code = (
        "import sys, threading, os, signal, time, evertune.cli.app as app\n"
        "threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "app.app = lambda *a, **k: time.sleep(30)\n"
        "sys.exit(app.main(['doctor']))"
    )
    start = time.monotonic()
    done = python(code)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
    assert time.monotonic() - start < 25
