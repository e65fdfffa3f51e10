"""On how many devices a command runs, as its launcher's options and the environment say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_PER_NODE = ("num_gpus", "nproc_per_node")
_NODES = ("num_nodes", "nnodes")
_TOTAL = "num_processes"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Devices:
    """How many devices a command runs on.

    Attributes:
        count: Their number, None if the script does not tell.
        said: What tells so, in words.
    """

    count: int | None
    said: str


def count_devices(launcher: Iterable[tuple[str, str]], environment: Mapping[str, str]) -> Devices:
    """Counts the devices of a command.

    Args:
        launcher: Its words up to the Python script, each with why it holds an unknown variable (empty if none).
        environment: The variables that it sees, as far as they are known.
    """
    options = _options(list(launcher))
    for name in (_TOTAL, *_PER_NODE, "include", *_NODES):
        unknown = options.get(name, ("", ""))[1]
        if unknown:
            return Devices(None, f"--{name}: {unknown}")
    if _TOTAL in options:
        return _number(options[_TOTAL][0], f"--{_TOTAL}")
    nodes, per_node = (next((name for name in names if name in options), "") for names in (_NODES, _PER_NODE))
    if "include" in options:
        return _included(options["include"][0])
    node_count = _number(options[nodes][0], f"--{nodes}") if nodes else Devices(1, "")
    if per_node:
        counted = _number(options[per_node][0], f"--{per_node}")
    elif environment.get(_VISIBLE):
        visible = environment[_VISIBLE]
        plain = "$" not in visible and "`" not in visible
        counted = Devices(len(visible.split(",")) if plain else None, f"{_VISIBLE}={visible}")
    else:
        return Devices(None, "the script does not say on how many")
    if counted.count is None or node_count.count is None:
        return Devices(None, counted.said if counted.count is None else node_count.said)
    return Devices(counted.count * node_count.count, " ".join(part for part in (node_count.said, counted.said) if part))


def _options(words: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for index, (text, unknown) in enumerate(words):
        if text.startswith("--"):
            name, equals, value = text[2:].partition("=")
            following = words[index + 1] if index + 1 < len(words) else ("", "")
            found[name.replace("-", "_")] = (value, unknown) if equals else following
    return found


def _number(text: str, said: str) -> Devices:
    return Devices(int(text) if text.isdecimal() else None, f"{said} {text}")


def _included(text: str) -> Devices:
    """Of DeepSpeed's ``host:0,1@other:0,1``."""
    slots = [part.partition(":")[2] for part in text.split("@")]
    count = sum(len(one.split(",")) for one in slots) if all(slots) else None
    return Devices(count, f"--include {text}")
