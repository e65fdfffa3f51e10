"""Runs programs that a model wrote: in a process of their own with few rights. It is no jail.

What it is for is a program that goes wrong: it loops, fills memory or disk, starts processes, writes over files, or
leaves before its tests are over. Each has limits of time, memory, file size and open files; no environment; an empty
folder that is deleted afterwards; no network (a network of its own on Linux where that is allowed, and sockets refused
by Python everywhere). The usual ways to start processes, and to change files outside that folder, are refused. A
program has passed when a random token has come back that the process is not given before the tests are over: neither an
exit code nor anything that is printed counts.

What it does not do: hide files from reading, bound the number of files, or hold a program that is written to break out
of Python's own checks (by private modules, by file descriptors of folders), or to act as if it were this harness; least
of all where it runs as the superuser. Where such programs are to be feared, run all of it in a container.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from io import FileIO
from pathlib import Path

SECONDS = 10
"""Time that a program and its tests have."""
MEMORY_BYTES = 1 << 30
"""Address space that a program has, the interpreter's own included."""

_HARNESS = Path(__file__).with_name("sandboxed_program.py")


def is_available() -> bool:
    """Whether the platform can limit what a process uses."""
    return os.name == "posix" and find_spec("resource") is not None


def passes(code: str, tests: str, *, seconds: int = SECONDS, memory_bytes: int = MEMORY_BYTES) -> bool:
    """Runs a program and then its tests in the same namespace.

    Args:
        code: Python source, run as the module ``program``.
        tests: Python source that fails by an exception.
        seconds: Time for both, of the clock and of the processor.
        memory_bytes: Address space.

    Returns:
        Whether the tests were reached and ran to their end in time.

    Raises:
        RuntimeError: If the platform cannot limit a process; see `is_available`.
    """
    if not is_available():
        raise RuntimeError("this platform cannot limit what a program uses")
    token = secrets.token_hex(16).encode()
    job = {"code": code, "tests": tests, "seconds": seconds, "memory_bytes": memory_bytes}
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="evertune-program-")
        stack.callback(_remove, folder)
        work = stack.enter_context(tempfile.TemporaryFile())
        work.write(json.dumps(job).encode())
        work.seek(0)
        token_out, token_in = _pipe(stack)
        answer_out, answer_in = _pipe(stack)
        token_in.write(token)
        given = (work.fileno(), token_out.fileno(), answer_in.fileno())
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(_HARNESS), *map(str, given)],
            pass_fds=given,
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            answer_in.close()  # so that the end of the process ends the pipe
            return _read(answer_out, len(token), time.monotonic() + seconds) == token
        finally:
            # Before it is waited for: until then its number cannot belong to another process.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _remove(folder: str) -> None:
    """Deletes what a program left, however deep it has nested it: Python's own way to is recursive."""
    subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)


def _pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Both ends of a pipe, unbuffered."""
    reading, writing = os.pipe()
    return stack.enter_context(FileIO(reading, "r")), stack.enter_context(FileIO(writing, "w"))


def _read(pipe: FileIO, count: int, deadline: float) -> bytes:
    """What comes out of a pipe: at most `count` bytes, until its end or a moment of the monotonic clock."""
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(found) < count and selector.select(max(0.0, deadline - time.monotonic())):
            piece = pipe.read(count - len(found))
            if not piece:
                break
            found += piece
    return found
