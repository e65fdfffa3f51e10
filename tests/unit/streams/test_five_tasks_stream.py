"""The stream of the five prepared tasks: prompts, facts for scorers, and folders that are not as prepared."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import LlamaConfig

from evertune.backbones.encoding import RowEncoder
from evertune.cli.app import main
from evertune.config.load import load_config, recipes
from evertune.console import Console
from evertune.errors import ConfigError, DataError, EvertuneError
from evertune.metrics import METRICS
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.five_tasks import TASK_METRICS, FiveTasks
from evertune.streams.prepare.five_tasks import TASK_SOURCES, FiveTasksPreparation
from evertune.streams.prompts import parse_template, prompt_target
from evertune.streams.splits import hash_rows
from evertune.streams.task import Task
from tests.unit.backbones.conftest import train_tokenizer
from tests.unit.streams.raw_sources import TOOL, lines, preference, preferences, write_sources


def quiet() -> Console:
    return Console(io.StringIO(), speaks=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder; not to be changed."""
    folder = tmp_path_factory.mktemp("five")
    raw = write_sources(folder / "raw")
    long = preference("Hello there\n\nAssistant: Hello.\n\nHuman: And the last question?", "No.", "Yes!")
    harmless = raw / "hh_rlhf" / "harmless-base"
    (harmless / "train.jsonl.gz").unlink()
    (harmless / "train.jsonl").write_text(lines([*preferences(39), long]), encoding="utf-8")
    FiveTasksPreparation().prepare(folder / "out", source=raw, seed=1, max_rows=100, console=quiet())
    return folder / "out"


def task(root: Path, name: str, **options: Any) -> Task:
    return FiveTasks(root=root, tasks=(name,), **options).load(seed=1, console=quiet()).tasks[0]


def stored(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / name).read_text(encoding="utf-8").splitlines()]


def test_the_tasks_in_order(root: Path) -> None:
    stream = FiveTasks(root=root).load(seed=1, console=quiet())
    assert (stream.name, stream.names) == ("five-tasks", list(TASK_SOURCES))
    assert list(TASK_METRICS) == list(TASK_SOURCES)
    for one in stream.tasks:
        assert (one.metric, *one.metrics) == TASK_METRICS[one.name]
        assert {row.id.rpartition("/")[0] for row in one.dev} == {f"{one.name}/dev"}
        assert one.splits["train"].sources == (f"{one.name}/train.jsonl",)
        assert [row.target for row in one.test] == [row["output"] for row in stored(root, f"{one.name}/test.jsonl")]
    reordered = FiveTasks(root=root, tasks=("T3_code", "T1_general")).load(seed=1, console=quiet())
    assert reordered.names == ["T3_code", "T1_general"]


def test_every_metric_is_registered() -> None:
    assert all(name in METRICS for names in TASK_METRICS.values() for name in names)


def test_sizes_share_no_row(root: Path) -> None:
    full, tiny = (task(root, "T1_general", size=size) for size in ("full", "tiny"))
    prompts = [
        {row.prompt_text for split in ("train", "dev", "test") for row in one.rows(split)} for one in (full, tiny)
    ]
    assert not prompts[0] & prompts[1]
    assert (len(tiny.train), len(tiny.dev), len(tiny.test)) == (4, 0, 2)
    assert task(root, "T1_general", max_train_samples=3, max_test_samples=2).splits["train"].count == 3


def test_the_llama_template(root: Path) -> None:
    general = task(root, "T1_general")
    rows = stored(root, "T1_general/train.jsonl")
    expected = [
        f"[INST] {row['instruction']}\n{row['input']} [/INST] "
        if row["input"]
        else f"[INST] {row['instruction']} [/INST] "
        for row in rows
    ]
    assert [row.prompt_text for row in general.train] == expected
    assert {bool(row["input"]) for row in rows} == {True, False}


def test_schemas_stand_in_the_prompt_and_are_never_cut(root: Path) -> None:
    row = task(root, "T4_tool").train[0]
    schemas = json.dumps([TOOL])
    assert row.tools == (TOOL,)
    assert [segment.cut for segment in row.prompt if schemas in segment.text] == [False]
    assert [segment.text for segment in row.prompt if segment.cut] == [stored(root, "T4_tool/train.jsonl")[0]["input"]]
    chat = task(root, "T4_tool", template="chat").train[0]
    assert (chat.prompt, chat.tools) == ((), (TOOL,))
    assert schemas not in chat.messages[-1]["content"]


def test_the_rejected_reply_is_a_fact_and_no_part_of_prompt_or_answer(root: Path) -> None:
    for template in ("llama-inst", "chat"):
        safety = task(root, "T5_safety", template=template)
        for row, kept in zip(safety.train, stored(root, "T5_safety/train.jsonl"), strict=True):
            assert row.facts == {"rejected": kept["rejected"]}
            assert kept["rejected"] not in f"{row.prompt_text}{row.messages}{row.target}"


def test_facts_and_tools_count_in_the_hash() -> None:
    plain = PromptTarget("t/train/0", (Segment("x"),), "y")
    line = '{"id":"t/train/0","prompt":"x","target":"y"}\n'
    assert hash_rows([plain]) == hashlib.sha256(line.encode()).hexdigest()  # as before rows could have any
    changed = [
        replace(plain, facts={"rejected": "z"}),
        replace(plain, facts={"tests": ["z"]}),
        replace(plain, tools=(TOOL,)),
    ]
    assert len({hash_rows([row]) for row in [plain, *changed]}) == 4


def encoder() -> RowEncoder:
    return RowEncoder(train_tokenizer(frame="<s> $A"), LlamaConfig(vocab_size=400))


def test_ids_begin_and_end_as_the_template_says() -> None:
    row = prompt_target(
        "t/train/0", parse_template("llama-inst"), instruction="Do </s> it", input="", output="Done </s>"
    )
    (found,) = encoder().encode([row], max_source_length=64, max_target_length=32)
    ids = (*found.prompt, *found.target)
    assert (ids[0], ids[-1]) == (1, 2)
    # What is spelt like a control token in a text stays text.
    assert not {1, 2} & set(ids[1:-1])
    assert encoder().tokenizer.decode(list(ids[1:-1])) == "[INST] Do </s> it [/INST] Done </s>"


@pytest.mark.parametrize("limit", [120, 160, 200])
def test_the_closing_words_and_the_last_turn_are_cut_last(root: Path, limit: int) -> None:
    (row,) = [one for one in _safety_rows(root) if "last question" in one.prompt_text]
    assert [segment.text for segment in row.prompt if segment.cut] == [
        "Human: Hello there\n\nAssistant: Hello.",
        "\n\nHuman: And the last question?",
    ]
    early = Segment(row.prompt[1].text * 20, cut=True)
    long = replace(row, prompt=(row.prompt[0], early, *row.prompt[2:]))
    made = encoder()
    room = limit + made.prompts.uncuttable(row)
    (found,) = made.encode([long], max_source_length=room, max_target_length=8)
    text = str(made.tokenizer.decode(list(found.prompt[1:])))
    assert found.source_cut
    assert len(found.prompt) <= room
    assert text.startswith("[INST] Write the next reply")
    assert text.endswith("Human: And the last question? [/INST] ")


def _safety_rows(root: Path) -> list[PromptTarget]:
    parts = [task(root, "T5_safety", size=size) for size in ("full", "tiny")]
    return [row for one in parts for split in ("train", "dev", "test") for row in one.rows(split)]


def said(root: Path, error: type[EvertuneError] = ConfigError, **options: Any) -> str:
    with pytest.raises(error) as raised:
        FiveTasks(root=root, **options).load(seed=1, console=quiet())
    return str(raised.value)


def test_wrong_options(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "stream.tasks: There is no task `T1_genral`. Did you mean `T1_general`?" in said(root, tasks=("T1_genral",))
    assert "Two tasks are named `T3_code`" in said(root, tasks=("T3_code", "T3_code"))
    monkeypatch.chdir(tmp_path)
    assert said(tmp_path / "none") == (
        "stream.root: There is no folder none. Run `evertune prepare five-tasks --output-dir none`."
    )
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty") == (
        "stream.root: The folder empty was not prepared: it has no manifest.json. "
        "Run `evertune prepare five-tasks --output-dir DIR`, and write that folder."
    )
    (tmp_path / "empty" / "manifest.json").write_text("[")
    assert "empty/manifest.json is damaged" in said(tmp_path / "empty")
    (tmp_path / "empty" / "manifest.json").write_text('{"format": 1, "stream": "six-tasks"}')
    assert "is not of a prepared stream `five-tasks`" in said(tmp_path / "empty")


def test_files_that_are_not_as_prepared(tmp_path: Path) -> None:
    raw = write_sources(tmp_path / "raw")
    out = tmp_path / "out"
    FiveTasksPreparation().prepare(out, source=raw, seed=1, max_rows=10, console=quiet())
    assert "T2_math has no train rows of size tiny. Write `size: full`, or prepare more rows." in said(
        out, DataError, size="tiny"
    )
    with (out / "T2_math" / "test.jsonl").open("a") as file:
        file.write("\n")
    assert "T2_math/test.jsonl: This file was changed since it was prepared. Restore it, or prepare again" in said(
        out, DataError
    )
    (out / "T2_math" / "test.jsonl").unlink()
    assert "T2_math/test.jsonl: This file is missing." in said(out, DataError)
    assert task(out, "T3_code").train


NAME = "ds-lora-slsd-llama2-7b-five-tasks"


def test_the_published_numbers() -> None:
    settings = load_config(NAME)
    adapter, train = settings.adapter, settings.first.train
    dual, distilled = cast("list[Any]", [options for _, options in settings.first.methods])
    assert (adapter.kind, adapter.r, adapter.lora_alpha, adapter.lora_dropout) == ("lora", 8, 32, 0.05)
    assert (adapter.target, adapter.num_frozen_layers) == ("attention_query_value", 16)
    assert [name for name, _ in settings.first.methods] == ["ds-lora", "slsd"]
    assert (dual.slow_learning_rate, dual.fast_learning_rate) == (1e-5, 5e-5)
    assert (distilled.probes, distilled.max_entropy, distilled.lambda_distillation) == (500, 1.5, 0.5)
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps, train.num_train_epochs) == (1, 16, 1)
    assert (train.max_source_length, train.max_grad_norm, train.weight_decay) == (1024, 1.0, 0.01)
    assert settings.backbone.dtype == "bfloat16"
    assert settings.resolved["stream"] | {"size": "full", "template": "llama-inst"} == settings.resolved["stream"]
    assert "5.0e-6 in the code" in recipes()[NAME].read_text()


@pytest.mark.parametrize("name", [NAME, "five-tasks"])
def test_a_recipe_is_valid_with_a_built_in_model(name: str, root: Path) -> None:
    from evertune.checking import check_parts

    changes = [f"stream.root={root}", "backbone.path=builtin:tiny-llama", "adapter.num_frozen_layers=1"]
    checked = check_parts(load_config(name, changes), quiet())
    assert list(checked.stream.names) == list(TASK_SOURCES)
    alone = check_parts(load_config(name, [*changes, "stream.tasks=[T1_general]"]), quiet())
    assert list(alone.stream.names) == ["T1_general"]


def test_a_recipe_without_its_folder_says_how_to_prepare_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "five-tasks"]) == 2
    assert "Run `evertune prepare five-tasks --output-dir data/five-tasks`." in capsys.readouterr().err


def test_a_task_alone_runs(root: Path, tmp_path: Path) -> None:
    changes = [f"stream.root={root}", "stream.tasks=[T2_math]", "train.max_steps=2", "train.max_target_length=4"]
    changes += ["stream.max_test_samples=2", "evaluation.zero_shot=false"]
    words = [f"--set={change}" for change in changes]
    assert main(["run", "five-tasks", *words, "--output-dir", str(tmp_path / "run")]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [(stage["name"], stage["status"]) for stage in manifest["stages"]] == [("T2_math", "complete")]
