"""The preparation of the five tasks: its folder, its manifest, and what it refuses."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evertune.cli.app import main
from evertune.console import Console
from evertune.errors import DataError, InputError
from evertune.files import sha256, sha256_of_folder
from evertune.streams.prepare.five_tasks import FiveTasksPreparation, Prepared
from tests.unit.streams.raw_sources import alpaca, calls, gsm8k, lines, preferences, write_sources


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "raw")


def prepare(output: Path, source: Path | None, *, seed: int = 42, max_rows: int = 1000) -> Prepared:
    console = Console(io.StringIO(), speaks=False)
    return FiveTasksPreparation().prepare(output, source=source, seed=seed, max_rows=max_rows, console=console)


def refused(output: Path, source: Path, **changes: int) -> list[str]:
    with pytest.raises(InputError) as error:
        prepare(output, source, **changes)
    return str(error.value).splitlines()


def rows_of(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield path.relative_to(folder).as_posix(), json.loads(line)


def test_the_folder(raw: Path, tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "out", raw)
    assert prepared.written
    tasks = ["T1_general", "T2_math", "T3_code", "T4_tool", "T5_safety"]
    names = {f"{task}/{split}.jsonl" for task in tasks for split in ("train", "dev", "test")}
    names |= {f"tiny/{name}" for name in names}
    assert set(sha256_of_folder(tmp_path / "out")) == names | {"manifest.json"}
    full, tiny = (
        {
            task: [record["rows"] for record in facts[size].values()]
            for task, facts in prepared.manifest["tasks"].items()
        }
        for size in ("full", "tiny")
    )
    assert full == {
        "T1_general": [64 - 6, 8, 8],
        "T2_math": [36 - 3, 4, 8],
        "T3_code": [32 - 3, 4, 4],
        "T4_tool": [32 - 3, 4, 4],
        "T5_safety": [36 - 3, 4, 6],
    }
    assert tiny == {task: ([4, 0, 2] if task == "T1_general" else [2, 0, 1]) for task in tasks}


def test_the_manifest_says_what_was_done(raw: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "out", raw)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["stream"], manifest["inputs"]["seed"]) == (1, "five-tasks", 42)
    sources = {(one["source"], one["split"]): one for one in manifest["inputs"]["sources"]}
    assert len(sources) == 8
    assert sources["hh_rlhf", "train"] == {
        "source": "hh_rlhf",
        "split": "train",
        "file": "hh_rlhf/harmless-base/train.jsonl.gz",
        "sha256": sha256(raw / "hh_rlhf/harmless-base/train.jsonl.gz"),
        "rows": 40,
    }
    for facts in manifest["tasks"].values():
        for record in [*facts["full"].values(), *facts["tiny"].values()]:
            path = tmp_path / "out" / record["file"]
            assert sha256(path) == record["sha256"]
            assert len(path.read_text(encoding="utf-8").splitlines()) == record["rows"]
    rules = {split: record["rule"] for split, record in manifest["tasks"]["T2_math"]["full"].items()}
    assert rules == {
        "train": "8/9 of a sample of 40 of 40 rows by seed, without the 3 rows of tiny",
        "dev": "1/9 of a sample of 40 of 40 rows by seed",
        "test": "sample of 8 of 8 rows of the test file by seed",
    }
    assert manifest["tasks"]["T3_code"]["full"]["test"]["rule"] == "the rest of a sample of 40 of 40 rows by seed"
    assert "CC BY-NC" in manifest["licences"]["alpaca"]
    assert "1024" in manifest["rules"]["length"]
    assert str(tmp_path) not in json.dumps(manifest)


def test_no_two_rows_ask_the_same_and_test_files_stay_test(raw: Path, tmp_path: Path) -> None:
    train = raw / "gsm8k" / "train.jsonl"
    repeated = [{**row, "question": f"  {row['question'].upper()}"} for row in gsm8k(3, start=1000)]
    train.write_text(lines([*gsm8k(40), *repeated, *gsm8k(5)]), encoding="utf-8")
    code = raw / "code_alpaca" / "code_alpaca_20k.json"
    code.write_text(json.dumps([*alpaca(40, "Write a function"), *alpaca(4), *alpaca(2, "Write a function")]))
    prepared = prepare(tmp_path / "out", raw)
    assert prepared.manifest["tasks"]["T2_math"]["dropped"] == {"duplicate": 5, "duplicate of a test row": 3}
    assert prepared.manifest["tasks"]["T3_code"]["dropped"] == {"duplicate": 2, "duplicate of a row of another task": 4}
    asked = [f"{row['instruction']}\n{row['input']}".casefold().strip() for _, row in rows_of(tmp_path / "out")]
    assert len(asked) == len(set(asked)) > 200
    scored = {row["input"] for name, row in rows_of(tmp_path / "out") if name == "T2_math/test.jsonl"}
    assert scored == {row["question"] for row in gsm8k(8, start=1000)}


def test_rows_that_are_none_are_counted(raw: Path, tmp_path: Path) -> None:
    bad: list[Any] = [3, "text", None, {"instruction": " ", "output": "x"}, {"instruction": "x"}]
    bad += [{"instruction": 1, "output": "x"}]
    bad += [{"instruction": "long", "output": "x" * 5000}, {"instruction": "bell", "output": "\x07"}]
    (raw / "code_alpaca" / "code_alpaca_20k.json").write_text(json.dumps([*bad, *alpaca(20, "Write")]))
    assert prepare(tmp_path / "out", raw).manifest["tasks"]["T3_code"]["dropped"] == {
        "a field is not text": 1,
        "blank instruction": 1,
        "blank output": 1,
        "control characters": 1,
        "not an object": 3,
        "too long": 1,
    }


def test_the_same_seed_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    prepare(first, raw)
    prepare(again, raw)
    prepare(other, raw, seed=7)
    assert sha256_of_folder(first) == sha256_of_folder(again)
    same = sha256_of_folder(first).items() & sha256_of_folder(other).items()
    assert all((first / name).stat().st_size == 0 for name, _ in same)


def test_at_most_so_many_rows(raw: Path, tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "out", raw, max_rows=20)
    for facts in prepared.manifest["tasks"].values():
        assert sum(record["rows"] for size in ("full", "tiny") for record in facts[size].values()) == 20
    assert prepared.manifest["tasks"]["T2_math"]["full"]["test"]["rows"] == 2


def test_a_test_file_counts_only_if_every_source_of_the_task_has_one(raw: Path, tmp_path: Path) -> None:
    (raw / "alpaca" / "alpaca_data_test.json").write_text(json.dumps(alpaca(4, "Test")))
    facts = prepare(tmp_path / "half", raw).manifest["tasks"]["T1_general"]
    assert facts["unused"] == ["alpaca/alpaca_data_test.json"]
    assert facts["full"]["test"]["rule"].startswith("the rest of a sample")
    (raw / "dolly" / "dolly_test.jsonl").write_text(lines(alpaca(3, "More")))
    facts = prepare(tmp_path / "both", raw).manifest["tasks"]["T1_general"]
    assert (facts["unused"], facts["full"]["test"]["rows"], facts["fit"]) == ([], 7, {"train": 80, "test": 7})


def test_a_folder_that_is_there_already(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert prepare(out, raw).written  # an empty folder is as good as none
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert not prepare(out, raw).written
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (said,) = refused(out, raw, seed=7)
    assert said.endswith("was prepared from other inputs (seed was 42, not 7). Choose another `--output-dir`.")
    (raw / "gsm8k" / "test.jsonl").write_text(lines(gsm8k(9, start=1000)))
    assert "from other inputs (sources)." in refused(out, raw)[0]


def test_changed_and_foreign_folders_are_refused_and_kept(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out, raw)
    with (out / "T3_code" / "dev.jsonl").open("a") as file:
        file.write("\n")
    (said,) = refused(out, raw)
    assert "T3_code/dev.jsonl: This file was changed since it was prepared." in said
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "This folder holds something else." in refused(tmp_path / "mine", raw)[0]
    (tmp_path / "mine" / "manifest.json").write_text('{"format": 1, "stages": []}')
    assert "is not of a prepared stream `five-tasks`" in refused(tmp_path / "mine", raw)[0]
    assert "This is a file." in refused(tmp_path / "mine" / "thesis.txt", raw)[0]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_missing_sources_are_all_named(raw: Path, tmp_path: Path) -> None:
    (raw / "gsm8k" / "train.jsonl").unlink()
    (raw / "alpaca" / "alpaca_data.json").rename(raw / "alpaca_data.json")
    (raw / "alpaca").rmdir()
    first, second = refused(tmp_path / "out", raw)
    assert first.endswith("raw/alpaca: There is no such folder. It should hold alpaca_data.json.")
    assert "in it: test.jsonl. It should hold train.jsonl or main/train.jsonl." in second
    (none,) = refused(tmp_path / "out", tmp_path / "nowhere")
    assert "nowhere: There is no such folder. It should hold alpaca/alpaca_data.json, " in none
    assert not (tmp_path / "out").exists()


def test_broken_sources_are_named_with_their_row(raw: Path, tmp_path: Path) -> None:
    train = raw / "gsm8k" / "train.jsonl"
    train.write_text(train.read_text().replace("}\n", "}\n{broken\n", 1))
    (raw / "alpaca" / "alpaca_data.json").write_text('[{"instruction": "a", "output": "b"}, {"instruction": }]')
    (raw / "code_alpaca" / "code_alpaca_20k.json").write_text('[{"a": 1} {"b": 2}]')
    (raw / "dolly" / "databricks-dolly-15k.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    (raw / "function_calling" / "glaive_en_train.json").write_text("[ ]")
    harmless = raw / "hh_rlhf" / "harmless-base" / "train.jsonl.gz"
    harmless.write_bytes(gzip.compress(b"{}" * 9999)[:-9])
    said = refused(tmp_path / "out", raw)
    expected = [
        "alpaca/alpaca_data.json:2: This element is not JSON: Expecting value (line 1, column 55).",
        "dolly/databricks-dolly-15k.jsonl:2: This is not UTF-8: it holds the byte 0xff.",
        "gsm8k/train.jsonl:2: This line is not JSON: Expecting property name enclosed in double quotes",
        "code_alpaca/code_alpaca_20k.json:1: A `,` or the `]` is missing after this element.",
        "function_calling/glaive_en_train.json: This file holds no rows.",
        "hh_rlhf/harmless-base/train.jsonl.gz: This file cannot be read: ",
    ]
    assert len(said) == len(expected)
    assert all(text in line for text, line in zip(expected, said, strict=True))


def test_too_few_rows(raw: Path, tmp_path: Path) -> None:
    (raw / "function_calling" / "glaive_en_train.json").write_text('[{"conversations": [], "tools": []}]')
    with pytest.raises(
        DataError, match=r"T4_tool: No row is left for train; dropped: 1 a conversation without tools\."
    ):
        prepare(tmp_path / "out", raw)


def test_without_a_network_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    assert main(["prepare", "five-tasks", "--output-dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("hub:tatsu-lab/alpaca: This data set cannot be had from the hub: ")
    assert said.endswith("name a folder with the published files: `--source DIR`.\n")
    assert not (tmp_path / "out").exists()


def test_the_hub_is_asked_for_the_published_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evertune.streams import hugging_face
    from evertune.streams.prepare import five_tasks

    asked: list[tuple[Any, ...]] = []
    rows = {
        "alpaca": alpaca(20),
        "dolly": alpaca(20, "Other"),
        "gsm8k": gsm8k(20),
        "CodeAlpaca": alpaca(20, "Write"),
        "glaive": calls(20),
        "hh-rlhf": preferences(20),
    }

    def read_hub(name: str, *, subset: str | None, split_name: str, folder: str | None, **_: Any) -> Any:
        asked.append((name, subset, folder, split_name))
        found = next(values for key, values in rows.items() if key in name)
        start = 0 if split_name == "train" else 16
        return found[start : start + 16], "c" * 40

    monkeypatch.setattr(hugging_face, "read_hub", read_hub)
    prepared = five_tasks.FiveTasksPreparation().prepare(
        tmp_path / "out", source=None, seed=1, max_rows=100, console=Console(io.StringIO(), speaks=False)
    )
    assert asked == [
        ("tatsu-lab/alpaca", None, None, "train"),
        ("databricks/databricks-dolly-15k", None, None, "train"),
        ("openai/gsm8k", "main", None, "train"),
        ("openai/gsm8k", "main", None, "test"),
        ("sahil2801/CodeAlpaca-20k", None, None, "train"),
        ("madroid/glaive-function-calling-openai", "openai_function_calling", None, "train"),
        ("Anthropic/hh-rlhf", None, "harmless-base", "train"),
        ("Anthropic/hh-rlhf", None, "harmless-base", "test"),
    ]
    files = [one["file"] for one in prepared.manifest["inputs"]["sources"]]
    assert files[-1] == f"hub:Anthropic/hh-rlhf/harmless-base split=test commit={'c' * 40}"
    assert prepared.manifest["tasks"]["T5_safety"]["full"]["test"]["rows"] == 4


def test_the_command(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", "five-tasks", "--source", str(raw), "--output-dir", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "T5_safety" in said
    assert said.splitlines()[-1] == f"wrote {tmp_path / 'out'}"
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["written"], found["manifest"]["stream"]) == (False, "five-tasks")
    assert main([*words, "--seed", "3"]) == 2
    assert main(["prepare", "five-taskz", *words[2:]]) == 2
    assert "There is no preparation `five-taskz`. Did you mean `five-tasks`?" in capsys.readouterr().err


@pytest.mark.shared_data
def test_the_real_files(shared_data: Path, tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "out", shared_data / "streams", max_rows=10_000)
    for task, facts in prepared.manifest["tasks"].items():
        full = {split: record["rows"] for split, record in facts["full"].items()}
        tiny = {split: record["rows"] for split, record in facts["tiny"].items()}
        sys.stdout.write(f"{task}: full {full}, tiny {tiny}, dropped {facts['dropped']}\n")
        assert min(*full.values(), tiny["train"]) > 0
    rows = list(rows_of(tmp_path / "out"))
    # 3000 rows and more in all, none of which asks what another asks.
    asked = {" ".join(f"{row['instruction']}\n{row['input']}".split()).casefold() for _, row in rows}
    assert len(asked) == len(rows) > 3000
    for name, row in rows:
        if "T2_math" in name:
            assert row["output"].rpartition("\n#### ")[2].replace(",", "").lstrip("-").replace(".", "").isdigit()
        if "T4_tool" in name:
            made = json.loads(row["output"])
            assert {one["name"] for one in (made if isinstance(made, list) else [made])} <= {
                tool["name"] for tool in row["tools"]
            }
        if "T5_safety" in name:
            assert not re.search(r"^\s*(Human|Assistant):", f"{row['output']}\n{row['rejected']}", re.MULTILINE)
            assert row["input"].rpartition("\n\n")[2].startswith("Human:") or "\n\nHuman:" in row["input"]


def test_the_current_folder_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    silent = Console(speaks=False)
    with pytest.raises(InputError, match="the current folder"):
        FiveTasksPreparation().prepare(Path("."), source=tmp_path / "nowhere", seed=1, max_rows=10, console=silent)
    assert list(tmp_path.iterdir()) == []
