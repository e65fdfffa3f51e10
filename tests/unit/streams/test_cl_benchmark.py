from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from evertune.errors import ConfigError, DataError
from evertune.streams.cl_benchmark import CLBenchmark

ORDER_4 = [
    "MNLI",
    "CB",
    "WiC",
    "COPA",
    "QQP",
    "BoolQA",
    "RTE",
    "IMDB",
    "yelp",
    "amazon",
    "SST-2",
    "dbpedia",
    "agnews",
    "MultiRC",
    "yahoo",
]


def load(root, console, seed=1, **options):
    return CLBenchmark(root=root, **options).load(seed=seed, console=console)


def by_name(stream):
    return {task.name: task for task in stream.tasks}


def test_prompts_are_the_published_ones_to_the_letter(published, console):
    tasks = by_name(load(published, console, order=("dbpedia", "QQP", "COPA")))
    first = tasks["dbpedia"].test[0]
    assert first.prompt_text == (
        "Task:TC\nDataset:dbpedia\nName the topic.\nOption: Company, Artist, Plant \n"
        "Text: test row 0 of dbpedia\n\nAnswer:"
    )
    assert [(piece.text, piece.cut) for piece in first.prompt if piece.cut] == [("Text: test row 0 of dbpedia\n", True)]
    assert first.target == "Company"
    assert tasks["QQP"].test[1].prompt_text == (
        "Task:QQP\nDataset:QQP\nSame or not?\nOption: False, True \nText: test row 1 of QQP\n\nAnswer:"
    )
    assert tasks["COPA"].test[2].prompt_text == "Task:COPA\nDataset:COPA\nText: test row 2 of COPA\n\nAnswer:"


def test_task_names_can_be_left_out_of_the_prompt(published, console):
    stream = load(published, console, order=("dbpedia", "COPA"), task_names_in_prompt=False)
    tasks = by_name(stream)
    assert tasks["dbpedia"].test[0].prompt_text.startswith("Name the topic.\nOption: Company")
    assert tasks["COPA"].test[2].prompt_text == "Text: test row 2 of COPA\n\nAnswer:"
    assert stream.task_identity_in_prompt is False
    assert load(published, console, order=("dbpedia",)).task_identity_in_prompt is True


@pytest.mark.parametrize("order", [1, "1", "order_1"])
def test_order_by_number_and_by_name(published, console, order):
    assert load(published, console, order=order).names == ["dbpedia", "amazon", "yahoo", "agnews"]


def test_orders_2_and_3_and_a_list(published, console):
    assert load(published, console, order=2).names == ["dbpedia", "amazon", "agnews", "yahoo"]
    assert load(published, console, order=3).names == ["yahoo", "amazon", "agnews", "dbpedia"]
    assert load(published, console, order=("COPA", "MNLI")).names == ["COPA", "MNLI"]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (7, "There is no order `7`. Write 1-6, order_1 to order_6, long, or a list of data sets."),
        ("oder_1", "There is no order `oder_1`. Did you mean `order_1`? Write 1-6"),
        (
            ("dbpedia", "amazn"),
            "There is no data set `amazn`. Did you mean `amazon`? Below the root there are: COPA, MNLI",
        ),
        (("dbpedia", "zzz"), "There is no data set `zzz`. Below the root there are: COPA, MNLI, QQP, agnews"),
        (("dbpedia", "dbpedia"), "The order names dbpedia more than once."),
        ((), "The order is empty."),
        ("long", "There is no data set `yelp`."),
    ],
)
def test_wrong_orders(published, console, order, message):
    with pytest.raises(ConfigError) as error:
        load(published, console, order=order)
    assert message in str(error.value)
    assert all(problem.where == "stream.order" for problem in error.value.problems)


def test_every_unknown_data_set_is_named_at_once(published, console):
    with pytest.raises(ConfigError) as error:
        load(published, console, order=4)
    assert len(error.value.problems) == 8  # of the 15, the folder has MNLI, COPA, QQP, amazon, dbpedia, agnews, yahoo


def test_one_of_order_and_configs_is_needed(published, console):
    for options in ({}, {"order": 1, "configs": published}):
        with pytest.raises(ConfigError, match="Exactly one of `order` and `configs` is needed"):
            load(published, console, **options)


def test_wrong_roots(published, console, tmp_path):
    with pytest.raises(ConfigError, match="There is no folder"):
        load(tmp_path / "nowhere", console, order=1)
    with pytest.raises(ConfigError) as error:
        load(tmp_path, console, order=1)
    assert f"Write {published}." in str(error.value)


def test_order_is_read_from_growing_task_lists(published, console, tmp_path):
    stream = load(published, console, configs=tmp_path / "configs" / "order9_configs")
    assert stream.names == ["amazon", "dbpedia", "QQP"]
    assert [task.group for task in stream.tasks] == ["SC", "TC", "QQP"]


def test_wrong_task_lists(published, console, tmp_path, write):
    folder = tmp_path / "configs" / "order9_configs"
    with pytest.raises(ConfigError) as error:
        load(published, console, configs=folder.parent)
    assert f"holds no <task>/train_tasks.json. Write {folder}." in str(error.value)

    file = folder / "dbpedia" / "test_tasks.json"
    good = file.read_text()
    entry = {"sampling strategy": "full", "dataset name": "QQP"}
    write("configs/order9_configs/dbpedia/test_tasks.json", {"SC": [], "TC": [], "QQP": [entry, entry]})
    with pytest.raises(ConfigError, match=r"it has \[QQP, QQP\], expected \[amazon, dbpedia\]"):
        load(published, console, configs=folder)
    file.write_text(good.replace("full", "random"))
    with pytest.raises(ConfigError, match="The sampling strategy 'random' of amazon is not supported"):
        load(published, console, configs=folder)
    file.write_text(good[:-5])
    with pytest.raises(ConfigError, match=r"test_tasks.json:1:\d+: This file is not JSON"):
        load(published, console, configs=folder)
    file.unlink()
    with pytest.raises(ConfigError, match=r"dbpedia/test_tasks.json: There is no such file"):
        load(published, console, configs=folder)


def test_dev_equal_to_test_is_said_once_and_never_read(published, console):
    stream = load(published, console, order=1)
    assert console.out.getvalue().count("dev.json equals test.json") == 1
    assert "in 4 of 4 data sets and is never read; dev is carved from train (10 %)" in console.out.getvalue()
    for task in stream.tasks:
        assert "dev.json equals test.json byte for byte and is never read." in task.audit["notes"]
        assert (len(task.train), len(task.dev), len(task.test)) == (36, 4, 12)
        assert all("train row" in row.prompt_text for row in task.dev)
        assert task.splits["dev"].rule == "carved from train: 10 % by sha256(seed, prompt)"
        assert task.splits["train"].rule == "file, without the 10 % carved for dev"
        assert task.splits["dev"].sources == (f"{task.group}/{task.name}/train.json",)


def test_a_dev_file_of_its_own_is_not_read_either(published, console, write):
    write("CL_Benchmark/TC/dbpedia/dev.json", "this is not even JSON")
    task = load(published, console, order=("dbpedia",)).tasks[0]
    assert any(note.startswith("dev.json is not read") for note in task.audit["notes"])
    assert "dev.json" not in console.out.getvalue()


def test_dev_fraction_zero(published, console):
    task = load(published, console, order=("dbpedia",), dev_fraction=0).tasks[0]
    assert (len(task.train), task.dev) == (40, ())
    assert task.splits["dev"].rule == "none: dev_fraction is 0"
    assert "there is no dev" in console.out.getvalue()


def test_the_published_protocol_is_stamped(published, console):
    task = load(published, console, order=("dbpedia",), allow_dev_is_test=True).tasks[0]
    assert [row.target for row in task.dev] == [row.target for row in task.test]
    assert len(task.train) == 40
    assert "dev.json" not in " ".join(task.audit["notes"]) + console.out.getvalue()
    assert task.audit["stamps"] == ["12 of 12 dev rows are test rows (allow_dev_is_test)."]
    assert task.audit["duplicates"]["test in dev"] == 12
    assert "warning: dbpedia: 12 of 12 dev rows are test rows" in console.out.getvalue()


def test_a_training_row_that_is_also_a_test_row_never_becomes_dev(published, console, write):
    rows = json.loads((published / "TC/dbpedia/test.json").read_text())
    write("CL_Benchmark/TC/dbpedia/train.json", [*rows, {"sentence": "other", "label": "Plant"}])
    task = load(published, console, order=("dbpedia",), dev_fraction=0.9).tasks[0]
    assert task.dev == ()
    assert task.audit["duplicates"] == {
        "train": 0,
        "dev": 0,
        "test": 0,
        "dev in train": 0,
        "test in train": 12,
        "test in dev": 0,
    }
    assert "warning: dbpedia: 12 of 12 test rows also occur in train." in console.out.getvalue()


def test_missing_labels_are_built_from_training_rows(published, console):
    task = load(published, console, order=("yahoo",)).tasks[0]
    assert task.labels == ("Health", "Sports")
    assert task.chance == 0.5
    assert "labels.json is missing; the labels are those of the training rows, sorted." in task.audit["notes"]
    assert "Option: Health, Sports \n" in task.train[0].prompt_text


def test_labels_keep_the_order_of_the_file(published, console):
    assert load(published, console, order=("amazon",)).tasks[0].labels == ("very negative", "neutral", "very positive")


def test_test_rows_with_an_invalid_label_are_kept_and_listed(published, console):
    task = load(published, console, order=("MNLI",)).tasks[0]
    assert task.audit["invalid_labels"] == ["MNLI/test/3", "MNLI/test/7"]
    assert len(task.test) == 12
    assert task.test[3].target == "-"
    assert task.labels == ("neutral", "entailment", "contradiction")
    assert "MNLI: 2 of 12 test rows have a label that is none of the task's labels" in console.out.getvalue()


def test_bad_training_rows(published, console, write):
    rows = [
        {"sentence": "fine", "label": "Plant"},
        {"sentence": "typo", "label": "Plnat"},
        {"sentence": "  ", "label": "Plant"},
        {"sentence": "blank", "label": ""},
        {"sentence": ["list"], "label": "Plant"},
        {"label": "Plant"},
        {"sentence": "no label"},
        "text",
    ]
    path = write("CL_Benchmark/TC/dbpedia/train.json", rows)
    with pytest.raises(DataError) as error:
        load(published, console, order=("dbpedia",))
    assert str(error.value).splitlines() == [
        f'{path}:8: This row is "text", not an object with keys.',
        f"{path}:3: The prompt is blank: there is no text in `sentence`.",
        f"{path}:4: The answer `label` is blank. Fill it in or remove the row.",
        f"{path}:5: `sentence` is a list (['list']), not text.",
        f"{path}:6: The key `sentence` is missing; rows of this file are {{sentence, label}}.",
        f"{path}:7: The key `label` is missing; rows of this file are {{sentence, label}}, the keys are [sentence].",
        f'{path}:2: label "Plnat" is not one of [Company, Artist, Plant]. Did you mean "Plant"?',
    ]


def test_problems_of_all_tasks_are_said_at_once_and_cut_at_twenty(published, console, write):
    first = write("CL_Benchmark/TC/dbpedia/train.json", [{"sentence": "x", "label": "Nope"}] * 30)
    write("CL_Benchmark/TC/yahoo/test.json", "[]")
    with pytest.raises(DataError) as error:
        load(published, console, order=1)
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[0].startswith(f"{first}:1: label")
    assert lines[-1] == "... and 11 more."


@pytest.mark.parametrize("labels", [[], ["a", "a"], {"a": 1}, ["a", 1], ["a", " "]])
def test_wrong_label_files(published, console, write, labels):
    write("CL_Benchmark/TC/dbpedia/labels.json", labels)
    with pytest.raises(DataError, match=r"labels.json: This file is not a list of different labels"):
        load(published, console, order=("dbpedia",))


def test_missing_test_file(published, console):
    (published / "TC/dbpedia/test.json").unlink()
    with pytest.raises(DataError, match=r"test.json: There is no such file"):
        load(published, console, order=("dbpedia",))


def test_instructions_all_doubles_the_training_rows_only(published, console):
    task = load(published, console, order=("dbpedia",), instructions="all").tasks[0]
    assert (len(task.train), len(task.dev), len(task.test)) == (72, 4, 12)
    pair = [
        row for row in task.train if row.id.rpartition("/")[2].partition(".")[0] == task.train[0].id.split("/")[2][:-2]
    ]
    assert [row.id[-2:] for row in pair] == [".0", ".1"]
    assert "Name the topic.\nOption" in pair[0].prompt_text
    assert "What is it about? \nOption" in pair[1].prompt_text
    assert {row.target for row in pair} == {pair[0].target}
    assert all("Name the topic." in row.prompt_text for row in (*task.dev, *task.test))
    assert len({row.id for row in task.train}) == 72


def test_instructions_random_draws_by_seed(published, console):
    def texts(seed):
        return [
            row.prompt_text
            for row in load(published, console, order=("dbpedia",), instructions="random", seed=seed).tasks[0].test
        ]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert {text.split("\n")[2].strip() for text in texts(1)} == {"Name the topic.", "What is it about?"}


def test_instruction_file_as_in_the_published_configuration(published, console, write):
    path = write("mine.json", {"TC": [{"instruction": "Topic?"}], "COPA": [{"instruction": "Which?\n"}]})
    tasks = by_name(load(published, console, order=("dbpedia", "COPA", "QQP"), instructions=path))
    assert "Dataset:dbpedia\nTopic?\nOption: Company" in tasks["dbpedia"].test[0].prompt_text
    assert "Dataset:COPA\nWhich?\nOption: A, B \nText" in tasks["COPA"].test[0].prompt_text
    assert tasks["QQP"].test[0].prompt_text == "Task:QQP\nDataset:QQP\nText: test row 0 of QQP\n\nAnswer:"
    assert any("neither instruction nor options" in note for note in tasks["QQP"].audit["notes"])
    both = load(published, console, order=("dbpedia",), instructions="all", instruction_file=path).tasks[0]
    assert len(both.train) == 36  # one instruction: nothing to multiply


def test_own_wording_without_an_instruction_file(published, console, tmp_path):
    (tmp_path / "configs/instruction_config.json").unlink()
    task = load(published, console, order=("dbpedia",)).tasks[0]
    assert (
        "Dataset:dbpedia\nWhich topic is this text about? Pick one of the options.\nOption: "
        in task.test[0].prompt_text
    )
    assert "Evertune's own instructions" in console.out.getvalue()


def test_wrong_instruction_files(published, console, write, tmp_path):
    for content, message in (
        ([1], "This file is not an object of groups"),
        ({"TC": [{"text": "x"}]}, "An entry of TC has no instruction"),
        ("{", "This file is not JSON"),
    ):
        path = write("mine.json", content)
        with pytest.raises(ConfigError, match=message):
            load(published, console, order=("dbpedia",), instruction_file=path)
    with pytest.raises(ConfigError, match=r"There is no instruction file .*randm. Did you mean `random`\?"):
        load(published, console, order=("dbpedia",), instructions=tmp_path / "randm")
    with pytest.raises(ConfigError, match="both name a file"):
        load(published, console, order=("dbpedia",), instructions=path, instruction_file=path)


def test_caps_are_samples_in_file_order(published, console):
    task = load(
        published, console, order=("dbpedia",), max_train_samples=10, max_dev_samples=2, max_test_samples=5
    ).tasks[0]
    assert (len(task.train), len(task.dev), len(task.test)) == (10, 2, 5)
    numbers = [int(row.id.split("/")[2]) for row in task.train]
    assert numbers == sorted(numbers)
    assert numbers != list(range(10))
    assert task.splits["test"].rule == "file; a sample of 5 by seed"
    assert (task.splits["test"].count, task.splits["test"].available) == (5, 12)
    full = load(published, console, order=("dbpedia",)).tasks[0]
    assert {row.id for row in task.dev} <= {row.id for row in full.dev}


def test_hash_is_over_canonical_json_of_the_rows(published, console):
    task = load(published, console, order=("COPA",)).tasks[0]
    lines = [
        json.dumps(
            {"id": row.id, "prompt": row.prompt_text, "target": row.target}, sort_keys=True, separators=(",", ":")
        )
        for row in task.test
    ]
    expected = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    assert task.splits["test"].sha256 == expected
    again = load(published, console, order=("COPA",)).tasks[0]
    assert again.splits == task.splits
    assert load(published, console, order=("COPA",), seed=2).tasks[0].splits["dev"].sha256 != task.splits["dev"].sha256


def test_stream_finds_rows_by_id(published, console):
    stream = load(published, console, order=("COPA", "MNLI"))
    assert stream.row("MNLI/test/3").target == "-"


def test_options_are_a_configuration_section(published):
    adapter = TypeAdapter(CLBenchmark)
    options = adapter.validate_python({"root": str(published), "order": ["a", "b"], "instructions": "all"})
    assert options.order == ("a", "b")
    assert options.instructions == "all"
    assert adapter.validate_python({"root": "x", "order": "long", "instructions": "a/b.json"}).instructions == Path(
        "a/b.json"
    )
    for wrong in ({"dev_fraction": 1}, {"max_train_samples": 0}, {"dev_fraction": -0.1}):
        with pytest.raises(ValidationError):
            adapter.validate_python({"root": "x", "order": 1, **wrong})


@pytest.mark.shared_data
def test_real_folder_in_all_orders(shared_data, console):
    root = shared_data / "cl_benchmark" / "CL_Benchmark"
    published_orders = json.loads((shared_data / "cl_benchmark" / "orders.json").read_text())
    for number in range(1, 7):
        start = time.perf_counter()
        stream = load(root, console, order=number)
        assert time.perf_counter() - start < 10  # 1.2 s on an idle machine
        assert stream.names == published_orders[f"AS-LoRA order_{number}"]
        for task in stream.tasks:
            assert task.splits["train"].count + task.splits["dev"].count == task.splits["train"].available
            assert task.audit["duplicates"]["dev in train"] == 0
            assert task.audit["duplicates"]["test in dev"] == 0
    assert load(root, console, order=4).names == ORDER_4


@pytest.mark.shared_data
@pytest.mark.parametrize(("folder", "number"), [("order1", 1), ("order2", 2), ("order3", 3), ("long", 6)])
def test_real_task_lists(shared_data, console, folder, number):
    base = shared_data / "cl_benchmark"
    from_lists = load(base / "CL_Benchmark", console, configs=base / "configs" / f"{folder}_configs")
    assert from_lists == load(base / "CL_Benchmark", console, order=number)
