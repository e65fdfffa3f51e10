"""Programs that go wrong, on purpose: none of them may pass, outlive its time, or leave a trace."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evertune.evaluation import sandbox
from evertune.evaluation.sandbox import passes

pytestmark = pytest.mark.skipif(not sandbox.is_available(), reason="this platform cannot limit a process")

ADD = "def add(a, b):\n    return a + b\n"


def test_a_right_program_passes_and_a_wrong_one_does_not() -> None:
    assert passes(ADD, "assert add(1, 2) == 3\nassert add(-1, 1) == 0")
    assert not passes(ADD, "assert add(1, 2) == 4")
    assert not passes("def add(a, b)\n    return a + b", "assert True")
    assert not passes(ADD, "assert add(1, 2) == 3\nsyntax error")


def test_what_programs_usually_do_is_possible() -> None:
    code = """
import collections, dataclasses, itertools, json, math, re, random, tempfile, typing

@dataclasses.dataclass
class Point:
    x: int

if __name__ == "__main__":
    print(input())

with open("notes.txt", "w") as file:
    file.write("kept")
with tempfile.TemporaryFile() as file:
    file.write(b"x")
print("x" * 1_000_000)
"""
    assert passes(code, 'assert Point(3) == Point(3)\nassert open("notes.txt").read() == "kept"')


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import atexit, os; atexit.register(os._exit, 0); raise SystemExit(0)",
        "quit()",
        "def add(a, b):\n    import os\n    os._exit(0)",
        "def add(a, b):\n    raise SystemExit(0)",
        "import sys; sys.stdout.write('passed'); sys.stdout.flush(); sys.exit()",
        # Whatever is written to any pipe it can find is not the token.
        "import contextlib, os\nfor number in range(3, 64):\n    with contextlib.suppress(OSError):\n"
        "        os.write(number, b'0' * 32)\nos._exit(0)",
    ],
)
def test_leaving_before_the_tests_is_no_pass(code: str) -> None:
    assert not passes(code, "assert add(1, 2) == 4")


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)", "open(0).read(); input()"])
def test_time_is_limited(code: str) -> None:
    start = time.monotonic()
    assert not passes(code, "pass", seconds=1)
    assert time.monotonic() - start < 10


def test_memory_is_limited() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux limits address space")
    hog = "data = bytearray(600 << 20)"
    assert passes(hog, "assert len(data) == 600 << 20")
    assert not passes(hog, "assert len(data) == 600 << 20", memory_bytes=400 << 20)


@pytest.mark.parametrize(
    "code",
    [
        "import os\nfor _ in range(5): os.fork()",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])",
        "import os; os.system('true')",
        "import os, sys; os.execv(sys.executable, [sys.executable])",
        "import os, sys; os.posix_spawn(sys.executable, [sys.executable], {})",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "import os, signal; os.kill(os.getppid(), signal.SIGTERM)",
        "import os, signal; os.killpg(0, signal.SIGTERM)",
        "import ctypes; ctypes.CDLL(None).getpid()",
    ],
)
def test_no_processes_and_no_foreign_code(code: str) -> None:
    assert not passes(code, "pass", seconds=5)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        yield server


def test_no_network(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    caught = (
        f"import socket\ntry:\n    socket.create_connection(({host!r}, {port}), 2)\nexcept OSError:\n    blocked = True"
    )
    assert passes(caught, "assert blocked")
    assert not passes(f"import urllib.request\nurllib.request.urlopen('http://{host}:{port}', timeout=2)", "pass")
    with pytest.raises(TimeoutError):
        listener.accept()


def test_only_its_own_folder_changes(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("kept")
    for code in (
        f"open({str(mine)!r}, 'w')",
        f"open({str(mine)!r}, 'a').write('x')",
        f"import os; os.remove({str(mine)!r})",
        f"import os; os.rename({str(mine)!r}, 'stolen')",
        f"import os; os.symlink({str(mine)!r}, 'link'); open('link', 'w')",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        f"import pathlib; pathlib.Path({str(tmp_path / 'new')!r}).mkdir()",
        f"import os; os.chdir({str(tmp_path)!r}); open('new', 'w')",
    ):
        assert not passes(code, "pass"), code
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mine.txt", "kept")]


def test_file_size_is_limited() -> None:
    assert not passes(
        "open('big', 'wb').write(b'0' * (32 << 20))", "import os; assert os.path.getsize('big') == 32 << 20"
    )


def test_nothing_is_left_and_the_environment_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("SECRET", "hunter2")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert passes("import os; open('x', 'w')", "assert 'SECRET' not in os.environ\nassert os.listdir() == ['x']")
    assert not passes("import os; os._exit(0)", "pass")
    assert list(tmp_path.iterdir()) == []
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_text_that_is_no_program() -> None:
    assert not passes("\0", "pass")
    assert not passes("x = '\ud800'", "pass")
    assert passes("x = '\u00e4' * 100_000", "assert len(x) == 100_000")


def test_a_platform_without_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="cannot limit"):
        passes("pass", "pass")


def test_folders_nested_without_end_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    nested = "import os\nfor _ in range(3000):\n    os.mkdir('a')\n    os.chdir('a')\n"
    passes(nested, "assert True")
    assert list(tmp_path.iterdir()) == []


def test_a_program_cannot_put_its_own_exec_in_the_place_of_ours() -> None:
    assert not passes("import builtins\nbuiltins.exec = lambda *a: None\nbuiltins.compile = None", "assert False")
