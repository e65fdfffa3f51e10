"""``events.jsonl``: what happened in a run, one JSON object a line."""

from __future__ import annotations

import json
import math
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from evertune import distributed
from evertune.console import Console


class EventLog:
    """Appends events; only the main process writes.

    Args:
        path: The file; it is created with the first event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def write(self, event: str, **fields: Any) -> None:
        """Appends one event with the current time; numbers that JSON cannot hold become null."""
        if not distributed.is_main():
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        record = {"event": event, "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), **fields}
        clean = {key: _finite(value) for key, value in record.items()}
        self._file.write(json.dumps(clean, ensure_ascii=False) + "\n")

    def warn(self, console: Console, text: str) -> None:
        """Says a warning, and keeps it for the report."""
        console.warn(text)
        self.write("warning", text=text)

    def position(self) -> int:
        """Bytes written so far: what a checkpoint keeps."""
        if self._file is not None:
            self._file.flush()
        return self._path.stat().st_size if self._path.exists() else 0

    def rewind(self, position: int) -> None:
        """Forgets what was written behind `position`, which a resumed run will write again; warnings stay."""
        self.close()
        if distributed.is_main() and self._path.exists() and self._path.stat().st_size > position:
            behind = self._path.read_bytes()[position:].splitlines(keepends=True)
            os.truncate(self._path, position)
            with self._path.open("ab") as file:
                file.writelines(line for line in behind if _is_warning(line))

    def close(self) -> None:
        """Closes the file; the next event opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _is_warning(line: bytes) -> bool:
    """Whether a line, written whole, is a warning."""
    return line.startswith(b'{"event": "warning"') and line.endswith(b"\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
