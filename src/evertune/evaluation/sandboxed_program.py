"""Runs one program and its tests with few rights. `sandbox` starts this file in an interpreter of its own.

It is handed three files: the program and its tests as JSON, a pipe that holds a token, and a pipe to hand the token
back. The token is read when the tests are over, and not before: while the program runs it is not in the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import types
from typing import Any

_NEW_USERS = 0x10000000
_NEW_NETWORK = 0x40000000
_NO_NEW_RIGHTS = 38
_DIE_WITH_PARENT = 1

_FORBIDDEN = (
    *("socket.", "ctypes.", "subprocess.", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"),
    *("os.spawn", "os.startfile", "os.kill", "signal.pthread_kill", "pty.", "urllib.", "ftplib.", "http.client."),
    *("os.setxattr", "os.removexattr", "syslog."),
)
# Of these events every argument that is text names a file that would change.
_CHANGES_FILES = (
    *("os.chmod", "os.chown", "os.chflags", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"),
    *("os.truncate", "os.utime", "shutil.", "tempfile.", "sqlite3.connect"),
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Runs what stands in the file of the first argument; ends the process."""
    job, token, answer = (int(number) for number in sys.argv[1:4])
    with os.fdopen(job, encoding="utf-8") as file:
        work = json.load(file)
    del sys.argv[1:], sys.orig_argv[1:]
    _limit(work["seconds"], work["memory_bytes"])
    _leave_network()
    sys.addaudithook(_guard(os.path.realpath(os.getcwd())))
    passed = _passes(work["code"], work["tests"])
    if passed:
        os.write(answer, os.read(token, 64))
    # Neither threads nor exit handlers of the program have a say any more.
    os._exit(0 if passed else 1)


def _passes(code: str, tests: str) -> bool:
    """Whether program and tests run to their end. Its name is not ``__main__``: what stands behind it is not tested."""
    module = types.ModuleType("program")
    sys.modules["program"] = module  # dataclasses look their module up
    run = exec  # the program may put another in its place
    try:
        parts = [compile(code, "program.py", "exec"), compile(tests, "tests.py", "exec")]
        for part in parts:
            run(part, module.__dict__)
    except BaseException:  # noqa: BLE001 - SystemExit before the end is a failure as well
        return False
    return True


def _limit(seconds: int, memory_bytes: int) -> None:
    """Limits of the operating system, as far as it has them."""
    limits = {
        "RLIMIT_CPU": seconds,
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_FSIZE": 16 << 20,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,  # means nothing to the superuser
    }
    for name, limit in limits.items():
        # macOS refuses some that it has.
        with contextlib.suppress(ValueError, OSError):
            if hasattr(resource, name):
                resource.setrlimit(getattr(resource, name), (limit, limit))


def _leave_network() -> None:
    """On Linux: no new rights, an end with the parent, and where that is allowed an empty network of its own."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    library.prctl(_NO_NEW_RIGHTS, 1, 0, 0, 0)
    library.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if library.unshare(_NEW_USERS | _NEW_NETWORK) != 0:
        library.unshare(_NEW_NETWORK)


def _guard(folder: str) -> Any:
    """An audit hook that refuses network, processes, foreign code, and changes of files outside a folder."""

    def inside(path: Any) -> bool:
        if isinstance(path, int):
            return True
        place = os.path.realpath(os.fsdecode(path))
        return place == folder or place.startswith(folder + os.sep) or place == os.devnull

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and arguments[2] & _WRITES:
            changed = arguments[:1]
        elif event.startswith(_CHANGES_FILES):
            changed = tuple(each for each in arguments if isinstance(each, (str, bytes, os.PathLike)))
        else:
            return
        if not all(inside(path) for path in changed if path is not None):
            raise PermissionError(f"{event} is not allowed outside of the folder of the program")

    return refuse


if __name__ == "__main__":
    main()
