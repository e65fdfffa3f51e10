"""One process is a world of one; two gloo processes tell each other what they must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evertune import distributed
from evertune.errors import ConfigError

_TWO = """
import json, sys
import torch, torch.distributed as dist
from evertune import distributed
from evertune.errors import ConfigError

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=distributed.rank(), world_size=2)
mine = torch.tensor([1.0 + distributed.rank(), 10.0])

def refuse():
    raise ConfigError("No.", where="key", instead="Yes.")

try:
    distributed.on_main(refuse)
    refused = None
except ConfigError as error:
    refused = [str(error), [problem.where for problem in error.problems]]
distributed.barrier()
print(json.dumps({
    "rank": distributed.rank(), "world": distributed.world_size(), "main": distributed.is_main(),
    "sum": distributed.all_sum(mine).tolist(), "mine": mine.tolist(),
    "gathered": distributed.gather({"rank": distributed.rank()}),
    "broadcast": distributed.broadcast(f"from {distributed.rank()}"),
    "on_main": distributed.on_main(lambda: f"computed by {distributed.rank()}"),
    "refused": refused,
    "one yes": distributed.agreed(distributed.rank() == 1), "no yes": distributed.agreed(False),
}))
distributed.leave()
assert not dist.is_initialized()
distributed.leave()
"""


def test_a_world_of_one() -> None:
    values = torch.tensor([1.0])
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.all_sum(values) is values
    assert distributed.gather("x") == ["x"]
    assert distributed.broadcast("x") == "x"
    assert distributed.on_main(lambda: "x") == "x"
    assert (distributed.agreed(True), distributed.agreed(False)) == (True, False)
    distributed.barrier()


def test_an_error_in_the_main_process_of_one() -> None:
    def refuse() -> None:
        raise ConfigError("No.")

    with pytest.raises(ConfigError, match=r"No\."):
        distributed.on_main(refuse)


def test_the_launcher_says_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (3, 4, False)


def test_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TWO, str(tmp_path / "rendezvous")]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outcomes = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [err[-2000:] for _, err in outcomes]
    answers = [json.loads(out) for out, _ in outcomes]
    for rank, answer in enumerate(answers):
        assert answer == {
            "rank": rank,
            "world": 2,
            "main": rank == 0,
            "sum": [3.0, 20.0],
            "mine": [1.0 + rank, 10.0],
            "gathered": [{"rank": 0}, {"rank": 1}],
            "broadcast": "from 0",
            "on_main": "computed by 0",
            "refused": ["key: No. Yes.", ["key"]],
            "one yes": True,
            "no yes": False,
        }
