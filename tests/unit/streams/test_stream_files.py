"""Files to checked rows: every file kind, every row format, and the message of every kind of bad row."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from evertune.errors import ConfigError, DataError
from evertune.streams.bad_rows import BadRows
from evertune.streams.instructions import Instructions, TaskSource
from evertune.streams.sources import HubData

ROWS = [{"instruction": "Answer.", "input": f"question {n} – ü", "output": f"answer {n}"} for n in range(6)]


def load(console, seed=1, stream=None, **options):
    task = TaskSource(name=options.pop("name", "t"), **options)
    return Instructions(tasks=(task,), **(stream or {})).load(seed=seed, console=console).tasks[0]


def everything(task):
    """All rows of a task as (prompt or turns, target), in the order of the file."""
    rows = sorted((*task.train, *task.dev, *task.test), key=lambda row: int(row.id.rpartition("/")[2]))
    return [(row.prompt_text or list(row.messages), row.target) for row in rows]


EXPECTED = [(f"Answer.\nquestion {n} – ü", f"answer {n}") for n in range(6)]


def problems(console, **options):
    with pytest.raises(DataError) as error:
        load(console, **options)
    return str(error.value).splitlines()


def test_json_list_and_json_lines_whatever_the_ending(console, write):
    lines = "".join(json.dumps(row) + "\n\n" for row in ROWS)
    for name, content in (
        ("list.json", ROWS),
        ("lines.jsonl", ROWS),
        ("lines.json", lines),
        ("windows.jsonl", lines.replace("\n", "\r\n")),
        ("list.jsonl", json.dumps(ROWS)),
        ("pretty.jsonl", json.dumps(ROWS, indent=2)),
        ("bom.jsonl", b"\xef\xbb\xbf" + lines.encode()),
        ("no_newline.ndjson", lines.strip()),
    ):
        assert everything(load(console, train=write(name, content))) == EXPECTED, name


def test_csv_and_tsv(console, write):
    cells = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    assert everything(load(console, train=write("a.csv", "\n".join(map(",".join, cells))))) == EXPECTED
    assert everything(load(console, train=write("a.tsv", "\ufeff" + "\r\n".join(map("\t".join, cells))))) == EXPECTED
    quoted = 'text,label\n"two, with ""quotes""\nand a line",yes\n\nplain,no\n'
    task = load(console, train=write("q.csv", quoted))
    assert everything(task) == [('two, with "quotes"\nand a line', "yes"), ("plain", "no")]
    assert task.labels == ("no", "yes")


def test_csv_cells_may_be_long(console, write):
    text = "x" * 200_000
    assert everything(load(console, train=write("a.csv", f"text,label\n{text},a\nshort,b\n")))[0] == (text, "a")


def test_parquet(console, tmp_path):
    # A folder named like a partition must not become a column.
    path = tmp_path / "output=wrong" / "rows.parquet"
    path.parent.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert everything(load(console, train=path)) == EXPECTED


def labelled_dataset():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "glad"])}
    )
    return datasets.Dataset.from_list([{"text": f"row {n}", "label": n % 2} for n in range(6)], features=features)


def test_class_labels_get_their_names(console, tmp_path):
    dataset = labelled_dataset()
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "rows.parquet")
    for path in (tmp_path / "saved", tmp_path / "rows.parquet"):
        task = load(console, train=path)
        assert task.labels == ("glad", "sad")
        assert everything(task)[:2] == [("row 0", "sad"), ("row 1", "glad")]


def test_a_label_number_without_a_name_stays(console, tmp_path):
    rows = [{"text": "a", "label": -1}, {"text": "b", "label": 1}]
    datasets.Dataset.from_list(rows, features=labelled_dataset().features).save_to_disk(tmp_path / "saved")
    assert everything(load(console, train=tmp_path / "saved")) == [("a", "-1"), ("b", "glad")]


def test_only_a_newline_ends_a_line(console, write):
    path = write("t.jsonl", [{"text": "one\u2028line\x85", "label": "a"}, {"text": "b", "label": "b"}])
    assert everything(load(console, train=path))[0] == ("one\u2028line\x85", "a")


def test_saved_dataset_dict_gives_the_split_that_is_asked_for(console, tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    folder = tmp_path / "saved"
    datasets.DatasetDict({"train": rows, "validation": rows.select([0]), "test": rows.select([1, 2])}).save_to_disk(
        folder
    )
    task = load(console, train=folder, dev=folder, test=folder)
    assert (len(task.train), len(task.dev), len(task.test)) == (6, 1, 2)
    assert task.test[0].target == "answer 1"
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "only")
    only = tmp_path / "only"
    assert problems(console, train=only, test=only) == [
        f"{only}: This saved folder has the splits train and none for test. "
        f"Write the path of one of them: {only}/train."
    ]
    assert load(console, train=only / "train").train


def test_several_files_make_one_split(console, write):
    task = load(console, train=(write("a.jsonl", ROWS[:2]), write("b/c.json", ROWS[2:])), stream={"dev_fraction": 0})
    assert everything(task) == EXPECTED
    assert task.splits["train"].sources == ("a.jsonl", "b/c.json")
    assert {row.id.rpartition("/")[2] for row in (*task.train, *task.test)} == set("012345")


@pytest.mark.parametrize(
    ("row", "prompt", "target", "metric"),
    [
        ({"instruction": "Do", "input": "this", "output": "done"}, "Do\nthis", "done", "rougeL"),
        ({"instruction": "Do", "output": "done"}, "Do", "done", "rougeL"),
        ({"instruction": "Do", "input": None, "output": "done"}, "Do", "done", "rougeL"),
        ({"input": "this", "output": 42}, "this", "42", "rougeL"),
        ({"prompt": "P", "completion": " C "}, "P", " C ", "rougeL"),
        ({"prompt": "P", "answer": "A", "id": 7}, "P", "A", "rougeL"),
        ({"sentence": "S", "label": "L"}, "S", "L", "exact_match"),
        ({"text": "T", "label": True}, "T", "True", "exact_match"),
        ({"instruction": "Do", "prompt": "whole", "input": "", "output": "done"}, "Do", "done", "rougeL"),
    ],
)
def test_row_formats(console, write, row, prompt, target, metric):
    other = {
        **row,
        **{
            key: f"{value} 2"
            for key, value in row.items()
            if key in ("instruction", "input", "prompt", "text", "sentence")
        },
    }
    task = load(console, train=write("t.jsonl", [row, other]), test=write("test.jsonl", [row]))
    assert (task.test[0].prompt_text, task.test[0].target, task.metric) == (prompt, target, metric)


def test_messages(console, write):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "1 + "}, {"type": "text", "text": "2"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "3", "tool_call_id": "1"},
                {"role": "assistant", "content": "Three."},
                {"role": "user", "content": "Thanks"},
            ],
            "tools": tools,
        },
        {
            "messages": [
                {"role": "user", "content": "add"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ],
            "tools": json.dumps(tools),
        },
        {
            "messages": [
                {"role": "user", "content": "both"},
                {"role": "assistant", "content": "Ok", "tool_calls": [call, call]},
            ]
        },
    ]
    path = write("chat.jsonl", rows)
    task = load(console, train=path, test=path, stream={"dev_fraction": 0})
    first, second, third = task.test
    add = {"name": "add", "arguments": {"a": 1}}
    assert first.prompt == ()
    assert list(first.messages) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1 + 2"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": add}]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    assert (first.target, list(first.tools)) == ("Three.", tools)
    assert (json.loads(second.target), list(second.tools)) == (add, tools)
    assert second.target == '{"name": "add", "arguments": {"a": 1}}'
    assert third.target == "Ok\n" + json.dumps([add, add])
    assert "2 conversations go on after their last assistant turn; those turns are not used." in task.audit["notes"]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("text", "`messages` is not a list of turns."),
        ([], "`messages` is not a list of turns."),
        (["a"], "Turn 1 is not an object with `role` and `content`."),
        ([{"role": "human", "content": "x"}], 'The role "human" of turn 1 is not one of [system, developer, user, '),
        ([{"role": "user", "content": "x"}], "No turn is of the assistant, so there is no answer."),
        ([{"role": "assistant", "content": "x"}], "No turn comes before the assistant's answer."),
        ([{"role": "user", "content": 3}], "The content of turn 1 is not text."),
        ([{"role": "user", "content": "x", "tool_calls": [{}]}], "Turn 1 has tool calls but is not of the assistant."),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}],
            "A tool call of turn 2 is not an object with `name` and `arguments`.",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
            "The arguments of a tool call of turn 2 is not JSON",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}],
            "The last assistant turn is blank.",
        ),
    ],
)
def test_bad_messages(console, write, messages, message):
    path = write("chat.jsonl", [{"messages": messages}])
    assert problems(console, train=path)[0].startswith(f"{path}:1: {message}")


def test_bad_tools(console, write):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    path = write("chat.jsonl", [{"messages": turns, "tools": "{"}, {"messages": turns, "tools": [1]}])
    first, second = problems(console, train=path)
    assert first.startswith(f"{path}:1: `tools` is not JSON: ")
    assert second == f"{path}:2: `tools` is not a list of tool schemas."


def test_bad_rows_of_json_lines(console, write):
    good = json.dumps({"text": "good", "label": "yes"}).encode()
    path = write(
        "bad.jsonl",
        b"\n".join(
            [
                good,
                b'{"text": "cut',
                b"",
                b'{"text": "blank", "label": " "}',
                b'{"text": "null", "label": null}',
                b'{"text": 5, "label": "yes"}',
                b'{"text": "float", "label": 0.5}',
                b'{"text": "no label"}',
                b"[1, 2]",
                b'{"text": "caf\xe9", "label": "yes"}',
                b'{"text": "half \\ud83d", "label": "yes"}',
                b'{"text": "", "label": "yes"}',
                b"[" * 100_000,
            ]
        ),
    )
    deep = problems(console, train=path).pop(2)
    assert deep.startswith(f"{path}:13: This line is not JSON: ")
    assert problems(console, train=path)[:2] + problems(console, train=path)[3:] == [
        f"{path}:2: This line is not JSON: Unterminated string starting at (column 10).",
        f"{path}:9: This row is [1, 2], not an object with keys.",
        f"{path}:4: The answer `label` is blank. Fill it in or remove the row.",
        f"{path}:5: The answer `label` is blank. Fill it in or remove the row.",
        f"{path}:6: `text` is a number (5), not text.",
        f"{path}:7: `label` is a number (0.5), not text.",
        f"{path}:8: The key `label` is missing; rows of this file are {{text, label}}, the keys are [text].",
        f"{path}:10: `text` is not UTF-8: it holds the byte 0xe9. Save the file as UTF-8.",
        f"{path}:11: `text` is not UTF-8: it holds half a character (U+D83D). Save the file as UTF-8.",
        f"{path}:12: The prompt is blank: there is no text in `text`.",
    ]


def test_labels_that_are_not_known(console, write):
    train = write("train.jsonl", [{"text": "a", "label": "positive"}, {"text": "b", "label": "negative"}] * 3)
    test = write("test.jsonl", [{"text": "a", "label": "positive"}, {"text": "c", "label": "Positve"}])
    assert problems(console, train=train, test=test) == [
        f'{test}:2: label "Positve" is not one of [negative, positive]. Did you mean "positive"?'
    ]
    assert problems(console, train=train, test=test, labels=("good", "bad"))[0] == (
        f'{train}:1: label "positive" is not one of [good, bad]. Correct it, or list it under `labels`.'
    )


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (
            '[{"text": "a", "label": "b"}, {"text": }]',
            ":2",
            "This element is not JSON: Expecting value (line 1, column 40).",
        ),
        (
            '[{"text": "a", "label": "b"}\n {"text": 1}]',
            ":1",
            "This element is not JSON: a `,` or the `]` is missing after it (line 2).",
        ),
        ('[{"text": "a", "label": "b"}, ]', ":2", "This element is not JSON: Expecting value (line 1, column 31)."),
        ('[{"text": "a", "label": "b"}] more', ":1", "This element is not JSON: there is text after the `]` (line 1)."),
        ('[{"text": "a", "label": "b"}, 5]', ":2", "This row is 5, not an object with keys."),
        ("[]", "", "This file holds no rows."),
        ("", "", "This file holds no rows."),
        ("\n\n", "", "This file holds no rows."),
        (
            '{\n "a": 1\n}',
            "",
            "This file holds one JSON object, not a list of rows. Write a list, or one object per line.",
        ),
        (b"\xff\xfe[\x00]\x00", "", "This file is UTF-16. Save it as UTF-8."),
        (
            b'[{"text": "a", "label": "b"}, {"text": "\xff", "label": "b"}]',
            ":2",
            "`text` is not UTF-8: it holds the byte 0xff. Save the file as UTF-8.",
        ),
    ],
)
def test_bad_json_lists(console, write, content, where, message):
    path = write("bad.json", content)
    assert problems(console, train=path)[0] == f"{path}{where}: {message}"


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        ("text,label\na,b\nc\n", ":3", "This row has 1 cells, the header has 2."),
        ('text,label\n"two\nlines",x\na,b,c\n', ":4", "This row has 3 cells, the header has 2."),
        ('text,label\na,b\n"two\nlines",x,y\n', ":3", "This row has 3 cells, the header has 2."),
        ("text,text,label\na,b,c\n", ":1", "The header names text more than once."),
        ('text,label\n"open,x\n', ":2", "This row is not CSV: unexpected end of data."),
        ("text,label\n", "", "This file holds no rows."),
        (b"text,label\na,b\ncaf\xe9,x\n", ":3", "`text` is not UTF-8: it holds the byte 0xe9. Save the file as UTF-8."),
    ],
)
def test_bad_csv(console, write, content, where, message):
    path = write("bad.csv", content)
    assert problems(console, train=path)[0] == f"{path}{where}: {message}"


def test_files_that_cannot_be_read(console, write, tmp_path):
    good = write("train.jsonl", ROWS)
    missing = tmp_path / "trian.jsonl"
    assert problems(console, train=missing) == [f"{missing}: There is no such file. Did you mean `train.jsonl`?"]
    missing = tmp_path / "nowhere" / "train.jsonl"
    assert problems(console, train=missing) == [
        f"{missing}: There is no such file. The folder {missing.parent} does not exist either."
    ]
    other = write("rows.xlsx", "x")
    assert problems(console, train=other) == [
        f"{other}: Files ending in `.xlsx` are not read. Use one of: .json, .jsonl, .ndjson, .jsonlines, "
        ".csv, .tsv, .parquet."
    ]
    torn = write("torn.parquet", b"PAR1")
    assert problems(console, train=torn)[0].startswith(f"{torn}: This file is not Parquet: ")
    (tmp_path / "folder").mkdir()
    write("folder/a.txt", "x")
    assert problems(console, train=tmp_path / "folder") == [
        f"{tmp_path}/folder: This folder was not saved by `datasets`; in it: a.txt. Write the path of a file."
    ]
    write("folder/state.json", "{}")
    assert problems(console, train=tmp_path / "folder")[0].startswith(
        f"{tmp_path}/folder: This saved folder cannot be read"
    )
    assert problems(console, train=good, test=missing, dev=torn)[1].startswith(f"{missing}: There is no such file.")


def test_paths_below_the_working_folder_are_shown_short(console, write, monkeypatch, tmp_path):
    write("data/bad.jsonl", "x\n")
    monkeypatch.chdir(tmp_path)
    assert problems(console, train=Path("data/bad.jsonl"))[0].startswith("data/bad.jsonl:1: This line is not JSON")
    assert problems(console, train=tmp_path / "data/bad.jsonl")[0].startswith("data/bad.jsonl:1: ")


def test_columns_map_our_keys_to_theirs(console, write):
    path = write("t.jsonl", [{"Tweet text": f"tweet {n}", "Label": "yes", "ID": n} for n in range(4)])
    task = load(console, train=path, columns={"input": "Tweet text", "output": "Label"})
    assert (everything(task)[0], task.labels) == (("tweet 0", "yes"), None)
    task = load(console, train=path, columns={"text": "Tweet text", "label": "Label"})
    assert task.labels == ("yes",)
    # The keys that are mapped decide the format, whatever else is in the file.
    path = write("t.jsonl", [{"prompt": f"p{n}", "completion": "c", "q": f"q{n}", "a": "A"} for n in range(4)])
    assert everything(load(console, train=path, columns={"input": "q", "output": "a"}))[1] == ("q1", "A")
    columns = {"prompt": "q", "completion": "a"}
    path = write("t.jsonl", [{"instruction": "i", "output": "o", "q": f"q{n}", "a": "A"} for n in range(4)])
    assert everything(load(console, train=path, columns=columns))[1] == ("q1", "A")
    path = write("t.jsonl", [{"question": f"q{n}", "answer": "A"} for n in range(4)])
    assert everything(load(console, train=path, columns={"prompt": "question"}))[1] == ("q1", "A")


def test_columns_that_do_not_exist(console, write):
    path = write("t.jsonl", [{"Tweet text": "x", "Label": "yes"}])
    assert problems(console, train=path, columns={"input": "Tweet txt", "output": "Label"}) == [
        f"{path}:1: There is no column `Tweet txt` for `input`; the keys are [Tweet text, Label]. "
        "Did you mean `Tweet text`?"
    ]
    assert problems(console, train=path)[0].startswith(
        f"{path}:1: The keys [Tweet text, Label] are no known row format. "
        "Use one of {messages: [...]}, {instruction, input, output}, "
    )
    with pytest.raises(ConfigError) as error:
        load(console, train=path, columns={"inputs": "a", "output": "b"})
    assert (
        str(error.value) == "stream.tasks.0.columns.inputs: `inputs` is no key of a row format. Did you mean `input`?"
    )
    with pytest.raises(ConfigError, match=r"The keys \[prompt, output\] are not of one row format"):
        load(console, train=path, columns={"prompt": "a", "output": "b"})


def test_only_twenty_problems_are_shown():
    bad = BadRows()
    bad.raise_if_any()
    for number in range(23):
        bad.add(f"f:{number}", "Wrong.")
    with pytest.raises(DataError) as error:
        bad.raise_if_any()
    assert str(error.value).splitlines()[19:] == ["f:19: Wrong.", "... and 3 more."]


COMMIT = "a1" * 20


@pytest.fixture
def cached_hub(tmp_path, monkeypatch):
    """A data set in the cache of `datasets`, as a download leaves it behind."""
    from datasets.arrow_writer import ArrowWriter

    dataset = labelled_dataset()
    folder = tmp_path / "cache" / "owner___name" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    writer = ArrowWriter(path=str(folder / "name-train.arrow"), features=dataset.features)
    for row in dataset:
        writer.write(row)
    count, size = writer.finalize()
    split = {"name": "train", "num_bytes": size, "num_examples": count, "dataset_name": "name"}
    datasets.DatasetInfo(
        features=dataset.features,
        splits=datasets.SplitDict.from_split_dict([split]),
        builder_name="json",
        dataset_name="name",
        config_name="default",
        version="0.0.0",
        download_checksums={f"hf://datasets/owner/name@{COMMIT}/train.jsonl": {"num_bytes": 1, "checksum": None}},
    ).write_to_directory(str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_hub_data_sets(console, cached_hub, monkeypatch, tmp_path, write):
    # A local folder of the same name must not be taken for the data set.
    write("owner/name/rows.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    task = load(console, train="hub:owner/name", stream={"dev_fraction": 0})
    assert task.labels == ("glad", "sad")
    assert everything(task)[0] == ("row 0", "sad")
    assert task.splits["train"].sources == (f"hub:owner/name commit={COMMIT}",)
    assert "t: the train rows are read from the hub (hub:owner/name)." in console.out.getvalue()
    half = load(console, train=HubData(path="hub:owner/name", split="train[:50%]", revision=COMMIT))
    assert len(everything(half)) == 3
    assert half.splits["test"].sources == (f"hub:owner/name split=train[:50%] revision={COMMIT} commit={COMMIT}",)


def test_hub_data_sets_that_cannot_be_had(console, cached_hub):
    other = "b2" * 20
    assert problems(console, train=HubData(path="hub:owner/name", revision=other)) == [
        f"hub:owner/name: The copy of this data set in the cache is of commit {COMMIT}, not {other}. "
        "Connect to the network once, or write that `revision`."
    ]
    (line,) = problems(console, train="hub:nobody/none")
    assert line.startswith("hub:nobody/none: This data set cannot be had from the hub: Couldn't reach")
    assert line.endswith("Check the name, the subset, the split and the network, or write the path of a file.")
    (line,) = problems(console, train=HubData(path="hub:owner/name", split="validation"))
    assert "cannot be had from the hub" in line
