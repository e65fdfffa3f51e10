"""In which order the data sets of the CL benchmark are learnt: the six published orders, and published task lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.errors import ConfigError, Problem, did_you_mean
from evertune.streams.readers import shown_path

_ORDER_KEY = "stream.order"

# The orders of O-LoRA (Wang et al., 2023, arXiv:2310.14152): 1-3 of four tasks, 4-6 of fifteen; its code ships order 6
# under the name "long".
ORDERS: Mapping[int, tuple[str, ...]] = {
    number: tuple(names.split())
    for number, names in {
        1: "dbpedia amazon yahoo agnews",
        2: "dbpedia amazon agnews yahoo",
        3: "yahoo amazon agnews dbpedia",
        4: "MNLI CB WiC COPA QQP BoolQA RTE IMDB yelp amazon SST-2 dbpedia agnews MultiRC yahoo",
        5: "MultiRC BoolQA WiC MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yelp amazon yahoo",
        6: "yelp amazon MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yahoo MultiRC BoolQA WiC",
    }.items()
}
_NAMES: Mapping[str, int] = {**{f"order_{number}": number for number in ORDERS}, "long": 6}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set of the benchmark.

    Attributes:
        group: Its group, ``TC``.
        name: Its name, ``dbpedia``.
        folder: Where its files are.
    """

    group: str
    name: str
    folder: Path


def discover(root: Path) -> dict[str, list[Dataset]]:
    """The data sets below `root` by name: ``<root>/<Group>/<Dataset>/train.json``.

    Raises:
        ConfigError: If there are none.
    """
    found: dict[str, list[Dataset]] = {}
    for train in sorted(root.glob("*/*/train.json")):
        folder = train.parent
        found.setdefault(folder.name, []).append(Dataset(folder.parent.name, folder.name, folder))
    if found:
        return found
    if not root.is_dir():
        what, instead = f"There is no folder {root}.", "Write the folder that holds <Group>/<Dataset>/train.json."
    else:
        inside = ", ".join(sorted(entry.name for entry in root.iterdir())[:12]) or "nothing"
        what = f"The folder {root} holds no <Group>/<Dataset>/train.json; in it: {inside}."
        nested = next((entry for entry in sorted(root.iterdir()) if any(entry.glob("*/*/train.json"))), None)
        instead = f"Write {nested}." if nested else ""
    raise ConfigError(what, where="stream.root", instead=instead)


def choose(order: int | str | Sequence[str], known: Mapping[str, list[Dataset]]) -> list[Dataset]:
    """The data sets of an order.

    Args:
        order: 1-6, a name (``order_1``, ``long``), or names of data sets.
        known: What exists, see `discover`.

    Returns:
        The data sets, first to last.

    Raises:
        ConfigError: If the order does not exist, or names a data set that does not exist, is named twice, or exists in
            several groups.
    """
    names = _names(order)
    problems: list[Problem] = []
    for name in names:
        if name not in known:
            exists = f"Below the root there are: {', '.join(sorted(known))}."
            near = did_you_mean(name, sorted(known))
            hint = f"{near} {exists}" if near.startswith("Did") else exists
            problems.append(Problem(_ORDER_KEY, f"There is no data set `{name}`.", hint))
        elif len(known[name]) > 1:
            groups = ", ".join(each.group for each in known[name])
            problems.append(Problem(_ORDER_KEY, f"The data set `{name}` exists in several groups: {groups}."))
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        problems.append(Problem(_ORDER_KEY, f"The order names {', '.join(twice)} more than once."))
    if not names:
        problems.append(Problem(_ORDER_KEY, "The order is empty.", "Name at least one data set."))
    if problems:
        raise ConfigError(problems)
    return [known[name][0] for name in names]


def _names(order: int | str | Sequence[str]) -> Sequence[str]:
    if isinstance(order, str):
        number = _NAMES.get(order) or (int(order) if order.isdecimal() else 0)
    elif isinstance(order, int):
        number = order
    else:
        return order
    if number not in ORDERS:
        near = did_you_mean(str(order), list(_NAMES))
        raise ConfigError(
            f"There is no order `{order}`.",
            where=_ORDER_KEY,
            instead=f"{near} " * near.startswith("Did")
            + "Write 1-6, order_1 to order_6, long, or a list of data sets.",
        )
    return ORDERS[number]


def read_task_lists(folder: Path, known: Mapping[str, list[Dataset]]) -> list[Dataset]:
    """The order that a published folder of task lists means: ``<folder>/<task>/{train,dev,test}_tasks.json``.

    Each task trains on one data set and tests on all seen so far, so the growing test lists give the order.

    Args:
        folder: The folder, ``configs/order1_configs``.
        known: What exists, see `discover`.

    Returns:
        The data sets, first to last.

    Raises:
        ConfigError: If a file is missing or broken, or if the lists do not grow by the trained data set each time.
    """
    files = sorted(folder.glob("*/train_tasks.json"))
    if not files:
        raise _no_task_lists(folder)
    stages = sorted(
        ((_read_list(file), _read_list(file.with_name("test_tasks.json")), file) for file in files),
        key=lambda stage: len(stage[1]),
    )
    order: list[tuple[str, str]] = []
    for trained, tested, file in stages:
        if len(trained) != 1:
            raise ConfigError(f"This list names {len(trained)} data sets, not one.", where=shown_path(file))
        if sorted(tested) != sorted([*order, *trained]):
            raise ConfigError(
                "This list is not the tasks so far and the one that is trained: "
                f"it has {_shown(tested)}, expected {_shown([*order, *trained])}.",
                where=shown_path(file.with_name("test_tasks.json")),
                instead="Let every test list hold the earlier tasks and its own.",
            )
        order.extend(trained)
    return [_find(group, name, folder, known) for group, name in order]


def _shown(entries: Sequence[tuple[str, str]]) -> str:
    return f"[{', '.join(name for _, name in entries)}]"


def _no_task_lists(folder: Path) -> ConfigError:
    what = f"There is no folder {folder}." if not folder.is_dir() else f"{folder} holds no <task>/train_tasks.json."
    nested = sorted(file.parent.parent.name for file in folder.glob("*/*/train_tasks.json"))
    instead = f"Write {folder / nested[0]}." if nested else ""
    return ConfigError(what, where="stream.configs", instead=instead)


def _read_list(file: Path) -> list[tuple[str, str]]:
    """The (group, name) pairs of one task list."""
    content = read_config_json(file)
    entries: list[tuple[str, str]] = []
    for group, listed in content.items() if isinstance(content, dict) else ():
        for entry in listed if isinstance(listed, list) else ():
            name = entry.get("dataset name") if isinstance(entry, dict) else None
            if not isinstance(name, str):
                raise ConfigError('An entry is not {"sampling strategy", "dataset name"}.', where=shown_path(file))
            if entry.get("sampling strategy", "full") != "full":
                raise ConfigError(
                    f"The sampling strategy {entry['sampling strategy']!r} of {name} is not supported.",
                    where=shown_path(file),
                    instead="Write `full`, and cap the rows with `max_train_samples`.",
                )
            entries.append((group, name))
    return entries


def read_config_json(file: Path) -> Any:
    """Reads a JSON file of the published configuration.

    Raises:
        ConfigError: If it is missing or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError("There is no such file.", where=shown_path(file)) from error
    except json.JSONDecodeError as error:
        where = f"{shown_path(file)}:{error.lineno}:{error.colno}"
        raise ConfigError(f"This file is not JSON: {error.msg}.", where=where) from error
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"This file cannot be read: {error}.", where=shown_path(file)) from error


def _find(group: str, name: str, folder: Path, known: Mapping[str, list[Dataset]]) -> Dataset:
    for dataset in known.get(name, ()):
        if dataset.group == group:
            return dataset
    exists = ", ".join(sorted(f"{each.group}/{each.name}" for listed in known.values() for each in listed))
    raise ConfigError(
        f"The task lists name {group}/{name}, which does not exist below the root.",
        where=shown_path(folder),
        instead=f"There are: {exists}.",
    )
