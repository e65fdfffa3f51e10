"""Tasks written out: templates on rows, carving, dev files that meet test, options that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from evertune.config.json_schema import section_schema
from evertune.errors import ConfigError, DataError
from evertune.metrics import METRICS
from evertune.streams.instructions import Instructions, TaskSource
from evertune.streams.sources import HubData


def numbered(count, start=0):
    return [{"instruction": "Do", "input": f"row {n}", "output": f"done {n}"} for n in range(start, start + count)]


def load(console, *tasks, seed=1, **stream):
    return Instructions(tasks=tasks, **stream).load(seed=seed, console=console)


def test_one_file_gives_three_splits(console, write):
    path = write("data/may.jsonl", numbered(100))
    stream = load(console, TaskSource(name="refunds", train=path))
    task = stream.tasks[0]
    assert (len(task.train), len(task.dev), len(task.test)) == (81, 9, 10)
    prompts = [row.prompt_text for split in ("train", "dev", "test") for row in task.rows(split)]
    assert sorted(prompts) == sorted(f"Do\nrow {n}" for n in range(100))
    assert task.splits["train"].rule == "file, without the 10 % carved for test, without the 10 % carved for dev"
    assert task.splits["test"].rule == "carved from train: 10 % by sha256(seed, prompt)"
    assert {record.available for record in task.splits.values()} == {100}
    assert all(stream.row(row.id) is row for row in task.test)
    assert (stream.name, stream.task_identity_in_prompt) == ("instructions", False)
    assert load(console, TaskSource(name="refunds", train=path)) == stream
    other = load(console, TaskSource(name="refunds", train=path), seed=2).tasks[0]
    assert other.test != task.test


def test_test_rows_do_not_depend_on_the_dev_fraction(console, write):
    path = write("may.jsonl", numbered(50))
    first, second = (
        load(console, TaskSource(name="t", train=path), dev_fraction=fraction).tasks[0].test for fraction in (0, 0.3)
    )
    assert first == second


def test_duplicates_never_straddle_splits(console, write):
    path = write("may.jsonl", [*numbered(30), *numbered(30)])
    task = load(console, TaskSource(name="t", train=path), dev_fraction=0.3, test_fraction=0.3).tasks[0]
    duplicates = task.audit["duplicates"]
    assert [duplicates[key] for key in ("dev in train", "test in train", "test in dev")] == [0, 0, 0]
    assert duplicates["train"] + duplicates["dev"] + duplicates["test"] == 30


def test_sources_are_relative_to_the_folder_of_all_files(console, write):
    first = TaskSource(
        name="a", train=write("x/a/train.jsonl", numbered(5)), test=write("x/a/test.jsonl", numbered(2, 9))
    )
    second = TaskSource(name="b", train=write("x/b.jsonl", numbered(9)))
    tasks = load(console, first, second).tasks
    assert tasks[0].splits["test"].sources == ("a/test.jsonl",)
    assert tasks[1].splits["test"].sources == ("b.jsonl",)


def test_caps_of_the_stream_and_of_a_task(console, write):
    path = write("may.jsonl", numbered(100))
    tasks = load(
        console,
        TaskSource(name="a", train=path),
        TaskSource(name="b", train=path, max_train_samples=7),
        max_train_samples=20,
        max_test_samples=3,
        max_dev_samples=2,
    ).tasks
    assert [(len(task.train), len(task.dev), len(task.test)) for task in tasks] == [(20, 2, 3), (7, 2, 3)]
    assert tasks[0].splits["test"].rule == "carved from train: 10 % by sha256(seed, prompt); a sample of 3 by seed"


def test_own_dev_file(console, write):
    train, dev, test = (write(f"{n}.jsonl", numbered(10, 10 * n)) for n in range(3))
    task = load(console, TaskSource(name="t", train=train, dev=dev, test=test)).tasks[0]
    assert [row.target for row in task.dev] == [f"done {n}" for n in range(10, 20)]
    assert len(task.train) == 10
    assert task.audit["stamps"] == []


def test_own_dev_file_that_meets_test(console, write):
    train, test = write("train.jsonl", numbered(10)), write("test.jsonl", numbered(10, 10))
    some = write("dev.jsonl", [*numbered(3, 30), {"instruction": "DO", "input": " row  12", "output": "done 12"}])
    for dev, shared in ((test, "10 of 10"), (some, "1 of 4")):
        source = TaskSource(name="t", train=train, dev=dev, test=test)
        with pytest.raises(DataError) as error:
            load(console, source)
        assert str(error.value) == (
            f"{dev.name}: {shared} dev rows are test rows of t, so dev would select by test. "
            "Remove `dev` (it is carved from train), or write `allow_dev_is_test: true` beside `tasks`: "
            "`stream: {name: instructions, tasks: [...], allow_dev_is_test: true}`."
        )
        task = load(console, source, allow_dev_is_test=True).tasks[0]
        assert task.audit["stamps"] == [f"{shared} dev rows are test rows (allow_dev_is_test)."]
        assert f"warning: t: {shared} dev rows are test rows" in console.out.getvalue()


def test_the_firewall_looks_at_rows_before_they_are_capped(console, write):
    train, test = write("train.jsonl", numbered(10)), write("test.jsonl", numbered(50, 10))
    with pytest.raises(DataError, match="50 of 50 dev rows are test rows"):
        load(console, TaskSource(name="t", train=train, dev=test, test=test), max_dev_samples=1, max_test_samples=1)


def test_a_carved_dev_never_meets_test(console, write):
    train, test = write("train.jsonl", numbered(20)), write("test.jsonl", numbered(19))
    task = load(console, TaskSource(name="t", train=train, test=test), dev_fraction=0.5).tasks[0]
    assert task.audit["duplicates"]["test in dev"] == 0
    assert "19 of 19 test rows also occur in train" in console.out.getvalue()


def test_equal_prompts_give_no_test_rows(console, write):
    path = write("may.jsonl", [{"instruction": "Write a poem", "output": f"poem {n}"} for n in range(9)])
    with pytest.raises(DataError, match=r"t: No test rows could be carved: all prompts are equal. Name a `test` file."):
        load(console, TaskSource(name="t", train=path))


def test_labels_and_metrics(console, write):
    labelled = write("l.csv", "text,label\n" + "".join(f"row {n},{n % 3 + 8}\n" for n in range(30)))
    free = write("f.jsonl", numbered(30))
    yes = write("y.jsonl", [{"prompt": f"p {n}", "answer": "yes" if n % 2 else "no"} for n in range(30)])
    tasks = load(
        console,
        TaskSource(name="a", train=labelled),
        TaskSource(name="b", train=labelled, metrics=("f1", "accuracy")),
        TaskSource(name="c", train=free),
        TaskSource(name="d", train=yes, labels=("yes", "no")),
        TaskSource(name="e", train=yes),
    ).tasks
    assert [task.metric for task in tasks] == ["exact_match", "f1", "rougeL", "exact_match", "rougeL"]
    assert [task.labels for task in tasks] == [("8", "9", "10"), ("8", "9", "10"), None, ("yes", "no"), None]


def test_notes_on_labels(console, write):
    path = write("l.jsonl", [{"text": f"row {n}", "label": label} for n, label in enumerate(["Yes", "yes ", "no"])])
    notes = load(console, TaskSource(name="t", train=path)).tasks[0].audit["notes"]
    assert notes[0] == "Rows are {text, label}."
    assert "There are 3 different labels for 3 rows; free text belongs in `output`." in notes
    assert "The labels ['Yes', 'yes '] differ only in case or spaces." in notes


def test_contradictions_are_said(console, write):
    path = write("l.jsonl", [{"text": f"row {n % 10}", "label": str(n // 10)} for n in range(20)])
    load(console, TaskSource(name="t", train=path))
    assert "warning: t: 20 rows share their prompt with a row of another label." in console.out.getvalue()


def test_instruction_of_the_task_and_templates(console, write):
    path = write("t.jsonl", [{"text": f"tweet {n}", "label": "yes"} for n in range(4)])

    def first(**options):
        row = load(console, TaskSource(name="t", train=path, test=path, **options), dev_fraction=0).tasks[0].test[0]
        return row.prompt_text or list(row.messages)

    assert first() == "tweet 0"
    assert first(instruction="Complaint?") == "Complaint?\ntweet 0"
    assert first(instruction="Complaint?", template="llama-inst") == "[INST] Complaint?\ntweet 0 [/INST] "
    assert first(template="Tweet: {input}\nLabel:") == "Tweet: tweet 0\nLabel:"
    assert first(instruction="Complaint?", template="chat", system="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Complaint?\ntweet 0"},
    ]
    assert first(template="chat") == [{"role": "user", "content": "tweet 0"}]


def chat_rows(system=False):
    start = [{"role": "system", "content": "Hi."}] if system else []
    return [
        {"messages": [*start, {"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(4)
    ]


def test_system_turn_for_messages(console, write):
    path = write("chat.jsonl", chat_rows())
    row = load(console, TaskSource(name="t", train=path, test=path, system="Be brief.")).tasks[0].test[0]
    assert [turn["role"] for turn in row.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            chat_rows(),
            {"template": "alpaca"},
            "template: Rows of {messages: [...]} cannot be put into the template alpaca",
        ),
        (
            chat_rows(),
            {"instruction": "x"},
            "instruction: Rows have instructions of their own. Write `system` for messages.",
        ),
        (chat_rows(system=True), {"system": "x"}, "system: Rows have a system turn of their own. Remove `system`."),
        (numbered(3), {"system": "x"}, "system: The template none has no place for `system`. Write `template: chat`"),
        (numbered(3), {"instruction": "x"}, "instruction: Rows have instructions of their own. Remove `instruction`."),
        (numbered(3), {"template": "{input}:"}, "template: The template has no {instruction}, but rows have one"),
        (numbered(3), {"template": "{instruction}:"}, "template: The template has no {input}, but rows have one"),
        (
            [{"text": "a", "label": "b"}],
            {"template": "{input}", "instruction": "x"},
            "The template has no {instruction}",
        ),
        (
            numbered(3),
            {"metrics": ("f1",)},
            "metrics: The metric f1 needs a closed set of labels, and t has free text.",
        ),
    ],
)
def test_options_that_do_not_fit_the_rows(console, write, rows, options, message):
    path = write("t.jsonl", rows)
    with pytest.raises(ConfigError) as error:
        load(console, TaskSource(name="t", train=path, **options))
    assert str(error.value).startswith("stream.tasks.0.")
    assert message in str(error.value)


def test_wrong_options_are_said_at_once(console):
    with pytest.raises(ConfigError) as error:
        load(
            console,
            TaskSource(name="a", train=Path("x"), template="{outpt}", columns={"lable": "x"}),
            TaskSource(name="b", train=(), metrics=("rogue1",)),  # type: ignore[arg-type]
        )
    assert [problem.where for problem in error.value.problems] == [
        "stream.tasks.0.template",
        "stream.tasks.0.columns.lable",
        "stream.tasks.1.metrics",
        "stream.tasks.1.train",
    ]
    assert "There is no metric `rogue1`. Did you mean `rouge1`?" in str(error.value)
    assert "`lable` is no key of a row format. Did you mean `label`?" in str(error.value)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "é", "a\n"])
def test_names_that_cannot_be_file_names(console, name):
    with pytest.raises(ConfigError, match="cannot be a file name"):
        load(console, TaskSource(name=name, train=Path("x")))


def test_names_are_unique(console):
    with pytest.raises(ConfigError, match="Two tasks are named `a`"):
        load(console, TaskSource(name="a", train=Path("x")), TaskSource(name="a", train=Path("y")))


def test_bad_rows_of_all_tasks_are_said_at_once(console, write):
    paths = [write(f"{name}.jsonl", "x\n" * 15) for name in "ab"]
    with pytest.raises(DataError) as error:
        load(console, *(TaskSource(name=path.stem, train=path) for path in paths))
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[15].startswith(f"{paths[1]}:1: This line is not JSON")
    assert lines[20] == "... and 10 more."


def test_options_are_a_configuration_section():
    adapter = TypeAdapter(Instructions)
    written = {
        "tasks": [
            {"name": "a", "train": "may.jsonl", "test": ["x.csv", "hub:o/n"], "metrics": ["f1"], "labels": ["a", "b"]},
            {
                "name": "b",
                "train": {"path": "hub:o/n", "split": "train", "revision": "main"},
                "columns": {"input": "X"},
            },
        ]
    }
    first, second = adapter.validate_python(written).tasks
    assert first.train == Path("may.jsonl")
    assert first.test == (Path("x.csv"), "hub:o/n")
    assert second.train == HubData(path="hub:o/n", split="train", revision="main")
    schema = json.dumps(adapter.json_schema())
    assert '"llama-inst"' not in schema  # a template is free text
    assert section_schema(Instructions)["properties"]["tasks"]["items"]["properties"]["metrics"]["items"] == {
        "enum": METRICS.names()
    }
    for wrong in ({"labels": ["one"]}, {"train": {"path": "o/n"}}, {"max_train_samples": 0}):
        with pytest.raises(ValidationError):
            adapter.validate_python({"tasks": [{"name": "a", "train": "x", **wrong}]})
    with pytest.raises(ValidationError):
        adapter.validate_python({"tasks": []})
    with pytest.raises(ValidationError):
        adapter.validate_python({**written, "test_fraction": 0})


@pytest.mark.shared_data
def test_real_files_in_their_own_formats(shared_data, console):
    stream = load(
        console,
        TaskSource(
            name="fomc",
            train=shared_data / "trace/FOMC/train.json",
            dev=shared_data / "trace/FOMC/eval.json",
            test=shared_data / "trace/FOMC/test.json",
            labels=("dovish", "hawkish", "neutral"),
        ),
        TaskSource(
            name="tweets",
            train=shared_data / "twitter_complaints/train.jsonl",
            columns={"text": "Tweet text", "label": "Label"},
        ),
        TaskSource(
            name="adgen",
            train=shared_data / "adgen/train.json",
            test=shared_data / "adgen/test.json",
            columns={"prompt": "content", "completion": "summary"},
        ),
        TaskSource(name="alpaca", train=shared_data / "streams/alpaca/alpaca_data.json", template="alpaca"),
        TaskSource(name="dolly", train=shared_data / "streams/dolly/dolly_train.jsonl", template="llama-inst"),
        TaskSource(
            name="gsm8k",
            train=shared_data / "streams/gsm8k/train.jsonl",
            test=shared_data / "streams/gsm8k/test.jsonl",
            columns={"prompt": "question"},
            instruction="Solve step by step.",
        ),
    )
    counts = {task.name: [task.splits[split].count for split in ("train", "dev", "test")] for task in stream.tasks}
    assert counts["fomc"] == [1465, 200, 400]
    assert sum(counts["tweets"]) == 36
    assert counts["adgen"] == [696, 77, 200]
    assert counts["gsm8k"] == [1800, 200, 300]
    assert stream.tasks[1].labels == ("complaint", "no complaint")
    assert [task.metric for task in stream.tasks][:3] == ["exact_match", "exact_match", "rougeL"]
