"""Walks the runs of a sweep one after the other, and keeps the table of what came of them."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evertune.config.load import load_config
from evertune.console import Console
from evertune.errors import CheckpointError, ConfigError, EvertuneError, InputError, Interrupted, Problem, RunError
from evertune.files import write_json, write_text
from evertune.reporting.load import load_run
from evertune.reporting.sweep_plot import write_sweep_plot
from evertune.reporting.sweep_rows import SweepRow, SweepRun, read_figures, table_rows
from evertune.reporting.sweep_table import markdown, sweep_result, to_json
from evertune.run_folder import RunFolder
from evertune.sweeping.grid import BASE, Grid, Point

Start = Callable[[Sequence[str]], int]
"""Runs ``evertune`` with these words and returns its exit code."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to.

    Attributes:
        runs: Its runs.
        rows: The lines of its table.
    """

    runs: tuple[SweepRun, ...]
    rows: tuple[SweepRow, ...]


@dataclass(frozen=True)
class Campaign:
    """A sweep.

    Attributes:
        config: The configuration as the user named it.
        grid: Its runs.
        folder: Where their folders are, and the table.
        console: Where it speaks.
        start: How a run is started: as a process of its own, so that each has its memory for itself and none can take
            the others down.
    """

    config: str
    grid: Grid
    folder: Path
    console: Console
    start: Start

    def words(self, point: Point) -> list[str]:
        """The words behind ``evertune`` that make a run."""
        sets = [word for override in point.overrides for word in ("--set", override)]
        return ["run", self.config, *sets, "--output-dir", str(self.folder / point.name)]

    def command(self, point: Point) -> str:
        """The command that makes a run."""
        return shlex.join(["evertune", *self.words(point)])

    def check(self) -> set[str]:
        """Reads the configuration of every run, before the first begins.

        Returns:
            Names of the runs that are complete already.

        Raises:
            InputError: With everything that is wrong, each once; also if a folder holds another run.
        """
        problems: dict[Problem, None] = {}
        done: set[str] = set()
        for point in self.grid.points:
            try:
                settings = load_config(self.config, point.overrides, self.folder / point.name)
                if RunFolder(settings.output_dir).check(settings, "auto") and _complete(settings.output_dir):
                    done.add(point.name)
            except InputError as error:
                problems |= dict.fromkeys(error.problems)
        if problems:
            raise ConfigError(list(problems))
        return done

    def walk(self) -> Outcome:
        """Makes all runs that are not complete; the table is kept after each.

        Raises:
            InputError: If the configuration of a run is wrong; none begins then.
            Interrupted: If the user stopped it; it goes on where it was.
        """
        done = self.check()
        status = {point.name: "done" if point.name in done else "pending" for point in self.grid.points}
        for number, point in enumerate(self.grid.points, 1):
            title = f"sweep {number}/{len(self.grid.points)} {point.name}"
            if point.name in done:
                self.console.say(f"{title}: complete already")
                continue
            self.console.say(f"{title}: {self.command(point)}")
            code = self.start(self.words(point))
            if code == Interrupted.exit_code:
                self.keep(status)
                raise Interrupted("The sweep was stopped. Run the same command again to continue.", where=title)
            status[point.name] = "failed" if code else "done"
            if code:
                self.console.warn(f"{title}: failed with exit code {code}; the others go on")
            self.keep(status)
        return self.keep(status)

    def keep(self, status: dict[str, str]) -> Outcome:
        """Writes ``sweep.json``, ``sweep.md`` and ``sweep.png``."""
        runs = tuple(self._figures(point, status[point.name]) for point in self.grid.points)
        rows = tuple(table_rows(runs))
        keys = {axis.key: axis.values for axis in self.grid.axes}
        seeds = {"seed": self.grid.seeds} if self.grid.seeds else {}
        write_json(self.folder / "sweep.json", to_json(self.config, {**keys, **seeds}, runs, rows))
        write_text(self.folder / "sweep.md", markdown(f"Sweep of {self.config}", runs, rows))
        write_sweep_plot(self.folder / "sweep.png", rows, list(keys), BASE)
        return Outcome(runs, rows)

    def show(self, outcome: Outcome) -> None:
        """The table, and where it is kept."""
        self.console.show(sweep_result(outcome.runs, outcome.rows))
        self.console.say(f"table {self.folder / 'sweep.md'}, {self.folder / 'sweep.json'}")

    def failure(self, outcome: Outcome) -> RunError | None:
        """What to end with if runs failed: each by the command that shows why."""
        failed = {run.name for run in outcome.runs if run.status == "failed"}
        problems = [
            Problem(str(self.folder / point.name), "This run failed.", f"See why with `{self.command(point)}`.")
            for point in self.grid.points
            if point.name in failed
        ]
        return RunError(problems) if problems else None

    def _figures(self, point: Point, status: str) -> SweepRun:
        pending = SweepRun(point.name, point.version, status, dict(point.values), point.seed)
        if status != "done":
            return pending
        try:
            return read_figures(
                self.folder / point.name,
                name=point.name,
                version=point.version,
                values=dict(point.values),
                seed=point.seed,
            )
        except CheckpointError as error:
            self.console.warn(f"{point.name}: {error}")
            return replace(pending, status="failed")


def _complete(folder: Path) -> bool:
    try:
        return load_run(folder).complete and (folder / "summary.json").is_file()
    except EvertuneError:
        return False


def start_process(words: Sequence[str], *, stdout: int | None = None) -> int:
    """Runs ``evertune`` with these words in a process of its own; it is told to stop when this one is.

    Args:
        words: Its words.
        stdout: File descriptor of its standard output; None for that of this process.

    Returns:
        Its exit code; that of an interrupted run when this process was told to stop, however the run ended.
    """
    stopped: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        if process is not None:
            process.terminate()

    # A terminal sends Ctrl-C to the run as well; SIGTERM comes to this process alone.
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        process = subprocess.Popen([sys.executable, "-m", "evertune", *words], stdout=stdout)
        if stopped:
            process.terminate()
        code = _waited(process)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return Interrupted.exit_code if stopped else code


def _waited(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The run got the same signal: it saves its state, and ends.
            continue
