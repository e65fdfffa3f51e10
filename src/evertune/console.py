"""What the program says: on the terminal, and with times in ``log.txt``. Only the main process speaks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from evertune import distributed

if TYPE_CHECKING:
    from rich.console import RenderableType


class Progress(Protocol):
    """A running display of long work."""

    def update(self, completed: int, fields: str = "") -> None:
        """Shows how far the work is, with `fields` such as ``loss 1.234``."""
        ...


class Console:
    """Says things to the user.

    Args:
        out: Where people read; standard output unless results go there as JSON.
        speaks: Whether this process says anything; by default only the main one.
        plain_every_s: On something that is not a terminal, progress is one plain line at most this often, in seconds.
    """

    def __init__(self, out: TextIO | None = None, *, speaks: bool | None = None, plain_every_s: float = 5.0) -> None:
        self.out = out or sys.stdout
        self.speaks = distributed.is_main() if speaks is None else speaks
        self.plain_every_s = plain_every_s
        self._log: TextIO | None = None
        self._unlogged: list[str] | None = []  # said before the first log; None once there was one
        self._rich: Any = None

    @property
    def rich(self) -> Any:
        """The `rich.console.Console` that draws."""
        if self._rich is None:
            from rich.console import Console as RichConsole

            # Without emoji codes: `stream.yaml:100:3` would lose its line number to a picture.
            self._rich = RichConsole(file=self.out, highlight=False, emoji=False, soft_wrap=not self.out.isatty())
        return self._rich

    def attach_log(self, path: Path) -> None:
        """From now on everything is also appended to `path`, with times; to the first log what was said before."""
        self.detach_log()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._log = path.open("a", encoding="utf-8", buffering=1)
        self._log.writelines(self._unlogged or ())
        self._unlogged = None

    def detach_log(self) -> None:
        """Closes the log."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _record(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = [f"{stamp} {line}\n" for line in text.splitlines()]
        if self._log is not None:
            self._log.writelines(lines)
        elif self._unlogged is not None:
            self._unlogged += lines

    def say(self, text: str = "") -> None:
        """A line or a block of text, printed as it is (no markup)."""
        self._record(text)
        if self.speaks:
            self.rich.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Something the user should know but that stops nothing."""
        self._record(f"warning: {text}")
        if self.speaks:
            from rich.text import Text

            self.rich.print(Text(f"warning: {text}", style="yellow"))

    def show(self, renderable: RenderableType) -> None:
        """A rich table or panel; the log gets its plain text."""
        if self._log is not None:
            from rich.console import Console as RichConsole

            plain = RichConsole(file=None, width=140, color_system=None, emoji=False)
            with plain.capture() as captured:
                plain.print(renderable)
            self._record(captured.get())
        if self.speaks:
            self.rich.print(renderable)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """Progress of `total` units: a bar on a terminal, one plain line now and then otherwise."""
        if not self.speaks:
            yield _Silent()
        elif self.out.isatty():
            with _Bar(self.rich, title, total) as bar:
                yield bar
        else:
            yield _PlainLines(self, title, total)


class _Silent:
    def update(self, completed: int, fields: str = "") -> None:
        pass


def duration(seconds: float) -> str:
    """``7 s``, ``2:05``, ``1:02:05``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class _PlainLines:
    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._title, self._total = console, title, total
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def update(self, completed: int, fields: str = "") -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = completed
        if now - self._last < self._console.plain_every_s and completed < self._total:
            return
        self._last = now
        done = completed - self._first
        left = f"{duration((now - self._start) / done * (self._total - completed))} left" if done else ""
        parts = [f"{self._title} {completed}/{self._total}", fields, left if completed < self._total else ""]
        self._console.say("  ".join(part for part in parts if part))


class _Bar:
    def __init__(self, rich_console: Any, title: str, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", markup=False),
            TimeRemainingColumn(),
            console=rich_console,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, info="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, completed: int, fields: str = "") -> None:
        self._progress.update(self._task, completed=completed, info=fields)
