"""A small folder with all the peculiarities of the published CL benchmark, and a console that remembers."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evertune.console import Console

DATASETS = {
    "TC/dbpedia": ["Company", "Artist", "Plant"],
    "SC/amazon": ["very negative", "neutral", "very positive"],
    "TC/yahoo": ["Health", "Sports"],
    "TC/agnews": ["World", "Business"],
    "NLI/MNLI": ["neutral", "entailment", "contradiction"],
    "QQP/QQP": ["False", "True"],
    "COPA/COPA": ["A", "B"],
}
GROUPS = ["SC", "TC", "NLI", "QQP", "WiC", "MultiRC", "COPA", "BoolQA"]
INSTRUCTIONS = {
    "TC": [
        {"instruction_type": "zero-shot", "instruction": "Name the topic.\n"},
        {"instruction_type": "zero-shot", "instruction": "What is it about? \n"},
    ],
    "SC": [{"instruction_type": "zero-shot", "instruction": "Name the feeling.\n"}],
    "NLI": [{"instruction_type": "zero-shot", "instruction": "Compare the two.\n"}],
    "QQP": [{"instruction_type": "zero-shot", "instruction": "Same or not?\n"}],
}


@pytest.fixture
def console() -> Console:
    """A console whose text is `console.out.getvalue()`."""
    return Console(io.StringIO(), speaks=True)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Writes text, bytes, JSON (``.json``) or JSON lines (``.jsonl``) below the test's folder."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
        else:
            path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return path

    return write


def _rows(name: str, labels: list[str], split: str, count: int) -> list[dict[str, str]]:
    return [
        {"sentence": f"Text: {split} row {index} of {name}\n", "label": labels[index % len(labels)]}
        for index in range(count)
    ]


@pytest.fixture
def published(write: Callable[[str, Any], Path], tmp_path: Path) -> Path:
    """``CL_Benchmark`` beside ``configs``: dev is test, one labels.json is missing, MNLI has the test label ``-``."""
    for place, labels in DATASETS.items():
        name = place.partition("/")[2]
        write(f"CL_Benchmark/{place}/train.json", _rows(name, labels, "train", 40))
        test = _rows(name, labels, "test", 12)
        if name == "MNLI":
            test[3]["label"] = test[7]["label"] = "-"
        write(f"CL_Benchmark/{place}/test.json", test)
        shutil.copy(tmp_path / f"CL_Benchmark/{place}/test.json", tmp_path / f"CL_Benchmark/{place}/dev.json")
        if name != "yahoo":
            write(f"CL_Benchmark/{place}/labels.json", labels)
    write("configs/instruction_config.json", INSTRUCTIONS)
    order = ["SC/amazon", "TC/dbpedia", "QQP/QQP"]
    for index, place in enumerate(order):
        folder = f"configs/order9_configs/{place.partition('/')[2]}"
        write(f"{folder}/train_tasks.json", task_list([place]))
        write(f"{folder}/dev_tasks.json", task_list([]))
        write(f"{folder}/test_tasks.json", task_list(order[: index + 1]))
    return tmp_path / "CL_Benchmark"


def task_list(places: list[str]) -> dict[str, list[dict[str, str]]]:
    """A published task list."""
    return {
        group: [
            {"sampling strategy": "full", "dataset name": place.partition("/")[2]}
            for place in places
            if place.partition("/")[0] == group
        ]
        for group in GROUPS
    }
