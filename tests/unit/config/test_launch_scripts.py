"""`init --from`: launch scripts and argument files as configurations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evertune.cli.app import main
from evertune.config.load import load_config
from evertune.config.old_runs.flags import FLAGS, find_flag
from evertune.config.old_runs.launchers import count_devices
from evertune.config.old_runs.shell import simple_commands
from evertune.errors import InputError
from evertune.methods import METHODS
from evertune.settings import RunSettings

FOUR = ["dbpedia", "amazon", "yahoo", "agnews"]
LONG = ["yelp", "amazon", "MNLI", "CB", "COPA", "QQP", "RTE", "IMDB", "SST-2", "dbpedia", "agnews", "yahoo"]
LONG += ["MultiRC", "BoolQA", "WiC"]
GORP = {
    "galore_rank": "8",
    "galore_lr": "1e-05",
    "galore_scale": "1",
    "galore_update_proj_gap": "10",
    "lamda_3": "0.05",
}
LORA_REGEX, FULL_REGEX = ".*SelfAttention.(q|v).*", ".*EncDecAttention.(q|v).*"
Flags = Mapping[str, str | None]


def flags_of(task: str, model: str, output: str) -> dict[str, str | None]:
    """The flags of one task; a value of None is a bare flag."""
    return {
        "do_train": None,
        "do_predict": None,
        "predict_with_generate": None,
        "model_name_or_path": model,
        "data_dir": "CL_Benchmark",
        "task_config_dir": f"configs/order1_configs/{task}",
        "instruction_file": "configs/instruction_config.json",
        "instruction_strategy": "single",
        "output_dir": output,
        "per_device_train_batch_size": "8",
        "gradient_accumulation_steps": "1",
        "learning_rate": "1e-03",
        "num_train_epochs": "1",
        "deepspeed": "configs/ds_configs/stage2.config",
        "max_source_length": "512",
        "max_target_length": "50",
        "generation_max_length": "50",
        "add_task_name": "True",
        "add_dataset_name": "True",
        "overwrite_output_dir": None,
        "lr_scheduler_type": "constant",
        "warmup_steps": "0",
        "lamda_1": "0.5",
        "lamda_2": "0",
    }


def script(
    tasks: Sequence[str] = FOUR,
    own: Callable[[int, str], Flags] = lambda index, task: {},
    *,
    launcher: str = "CUDA_VISIBLE_DEVICES=0,1 deepspeed --master_port $port",
    model: str = "initial_model/t5-large",
    program: str = "src/run_uie_lora.py",
    head: str = "port=$(shuf -i25000-30000 -n1)",
) -> str:
    """A launch script: one command a task, each continuing from the one before."""
    lines = ["#!/bin/bash", "set -x", head, "# bash scripts/order.sh > log.txt 2>&1 &", ""]
    for index, task in enumerate(tasks):
        flags = {**flags_of(task, model, f"out/{index + 1}-{task}"), **own(index, task)}
        words = [f"--{name}" + (f" {value}" if value is not None else "") for name, value in flags.items()]
        lines += [f"{launcher} {program} \\", *(f"   {word} \\" for word in words[:-1]), f"   {words[-1]}"]
        lines += ["", "sleep 5", ""]
        model = f"out/{index + 1}-{task}/adapter"
    return "\n".join(lines)


Import = Callable[..., tuple[RunSettings, dict[str, Any]]]
Refused = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def imported(here: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Writes a script, imports it, and loads what was written: (settings, what was printed as JSON)."""

    def call(text: str, *words: str, name: str = "order.sh") -> tuple[RunSettings, dict[str, Any]]:
        (here / name).write_text(text, encoding="utf-8")
        capsys.readouterr()
        code = main(["init", "c.yaml", "--from", name, "--json", *words])
        said = capsys.readouterr()
        assert code == 0, said.err
        return load_config("c.yaml"), json.loads(said.out)

    return call


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The lines with which a script is refused; nothing is written."""

    def call(text: str, *words: str, name: str = "order.sh") -> list[str]:
        (here / name).write_text(text, encoding="utf-8")
        capsys.readouterr()
        assert main(["init", "c.yaml", "--from", name, *words]) == 2
        assert not (here / "c.yaml").exists()
        return capsys.readouterr().err.splitlines()

    return call


def row(facts: Mapping[str, Any], flag: str) -> dict[str, Any]:
    (found,) = [each for each in facts["flags"] if each["flag"] == flag]
    return found


def test_consecutive_commands_become_the_tasks_of_a_stream(imported: Import, here: Path) -> None:
    settings, facts = imported(script())
    assert settings.resolved["stream"] == settings.resolved["stream"] | {
        "name": "cl-benchmark",
        "root": str(here / "CL_Benchmark"),
        "order": 1,
        "instruction_file": str(here / "configs/instruction_config.json"),
        "instructions": "first",
        "task_names_in_prompt": True,
        "dev_fraction": 0.0,
    }
    assert settings.backbone.path == str(here / "initial_model/t5-large")
    assert settings.backbone.task_type == "seq2seq_lm"
    assert (settings.adapter.r, settings.adapter.lora_alpha, settings.adapter.lora_dropout) == (8, 32, 0.1)
    ((name, method),) = settings.first.methods
    assert (name, method.variant, method.lambda_1, method.lambda_2) == ("o-lora", "released", 0.5, 0.0)  # type: ignore[attr-defined]
    train = settings.first.train
    assert (train.learning_rate, train.num_train_epochs, train.lr_scheduler_type) == (1e-3, 1.0, "constant")
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps) == (8, 1)
    assert settings.later == settings.first
    assert not settings.per_task
    assert settings.first.evaluation.zero_shot is False
    assert facts["tasks"] == FOUR
    assert facts["batch"] == {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "devices": 2,
        "rows_per_step": 16,
    }
    assert "# 8 x 1 x 2 devices = 16 rows a step (CUDA_VISIBLE_DEVICES=0,1); 2 here" in (here / "c.yaml").read_text()


def test_values_that_change_after_the_first_task(imported: Import) -> None:
    settings, _ = imported(script(own=lambda index, _: {"learning_rate": "1e-03" if index == 0 else "1e-04"}))
    assert (settings.first.train.learning_rate, settings.later.train.learning_rate) == (1e-3, 1e-4)
    assert not settings.per_task


def test_values_of_single_tasks(imported: Import) -> None:
    lambda_1 = [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 5, 5, 5, 5, 5, 5]

    def own(index: int, task: str) -> Flags:
        return {"lamda_1": str(lambda_1[index]), "num_train_epochs": "2" if task == "MNLI" else "1"}

    settings, _ = imported(script(LONG, own))
    assert settings.resolved["stream"]["order"] == 6
    for index, task in enumerate(LONG):
        stage = settings.for_task(task, index)
        assert stage.methods[0][1].lambda_1 == lambda_1[index]  # type: ignore[attr-defined]
        assert stage.train.num_train_epochs == (2 if task == "MNLI" else 1)


def test_an_unknown_order_is_a_list_and_folders_may_be_written_small(imported: Import) -> None:
    settings, _ = imported(script(["mnli", "cb", "sst-2"]))
    assert settings.resolved["stream"]["order"] == ["MNLI", "CB", "SST-2"]


def test_what_a_flag_does_not_write_has_its_old_default(imported: Import) -> None:
    left_out = (
        "learning_rate",
        "num_train_epochs",
        "lr_scheduler_type",
        "lamda_1",
        "add_task_name",
        "add_dataset_name",
    )

    text = script(["yahoo"])
    for name in left_out:
        text = "\n".join(line for line in text.split("\n") if f"--{name}" not in line)
    settings, facts = imported(text)
    train = settings.first.train
    assert (train.learning_rate, train.num_train_epochs, train.lr_scheduler_type) == (5e-5, 3.0, "linear")
    assert train.group_by_length is False
    assert settings.first.methods[0][1].lambda_1 == 0.5  # type: ignore[attr-defined]
    assert settings.resolved["stream"]["task_names_in_prompt"] is False
    assert row(facts, "--learning_rate") == {
        "flag": "--learning_rate",
        "lines": [],
        "values": ["5e-05"],
        "key": "train.learning_rate",
        "effect": "not written: the old default",
    }


def test_gorp_is_told_by_its_flags_and_its_dead_ones_are_said(imported: Import) -> None:
    own = {**GORP, "lora_modules": "$6", "optim_target_modules": "$5", "learning_rate": "$1"}
    words = f"1e-3 - - - '{FULL_REGEX}' \"{LORA_REGEX}\""
    settings, facts = imported(script(own=lambda *_: own), "--script-args", words)
    ((name, method),) = settings.first.methods
    found: Any = method
    assert name == "gorp"
    assert (found.projection_rank, found.refresh_gap, found.projection_scale) == (8, 10, 1.0)
    assert (found.full_rank_learning_rate, found.full_rank) == (1e-5, "cross_attention_query_value")
    assert settings.adapter.target == "self_attention_query_value"
    assert settings.first.train.adam_epsilon == 1e-6
    for flag in ("--lamda_1", "--lamda_2", "--lamda_3"):
        assert (row(facts, flag)["key"], "dead" in row(facts, flag)["effect"]) == (None, True)


def test_gorp_on_llama_without_full_weights_learns_adapters_alone(imported: Import) -> None:
    own = {"galore_rank": "2", "lora_modules": '".*self_attn.(q_proj|v_proj).*"'}
    settings, facts = imported(script(own=lambda *_: own, model="initial_model/llama"))
    assert settings.backbone.task_type == "causal_lm"
    assert settings.first.methods[0][1].full_rank is None  # type: ignore[attr-defined]
    assert settings.first.methods[0][1].full_rank_learning_rate == 5e-5  # type: ignore[attr-defined]
    assert settings.adapter.target == "attention_query_value"
    assert any("only the adapters learnt" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("text", "words", "name", "assumed"),
    [
        (script(), (), "o-lora", "taken to be o-lora"),
        (script(), ("--method", "n-lora"), "n-lora", ""),
        (script(program="N-LoRA/src/run.py"), (), "n-lora", "taken to be n-lora"),
        (script(), ("--method", "inc-lora"), "inc-lora", ""),
    ],
)
def test_which_method(imported: Import, text: str, words: Sequence[str], name: str, assumed: str) -> None:
    settings, facts = imported(text, *words)
    assert settings.first.methods[0][0] == facts["method"] == name
    assert any(assumed in note for note in facts["notes"]) if assumed else facts["notes"] == []
    assert row(facts, "--lamda_2")["key"] == ("method.lambda_2" if name == "o-lora" else None)
    if name == "inc-lora":
        said = "an option of o-lora and n-lora and gorp, which inc-lora does not have"
        assert row(facts, "--lamda_1")["effect"] == said


def test_arguments_as_json(imported: Import, here: Path) -> None:
    flags = flags_of("yahoo", "google-t5/t5-large", "out") | {"do_train": True, "bf16": True, "num_beams": 2}  # type: ignore[operator]
    flags |= {"learning_rate": 3e-4, "predict_with_generate": True, "do_predict": True, "seed": 7, "lang": None}  # type: ignore[operator]
    settings, facts = imported(json.dumps({**flags, "overwrite_output_dir": True}, indent=1), name="args.json")
    assert settings.seed == 7
    assert settings.backbone.path == "google-t5/t5-large"
    assert settings.backbone.dtype == "bfloat16"
    assert settings.first.train.learning_rate == 3e-4
    assert settings.first.evaluation.num_beams == 2
    assert settings.resolved["stream"]["order"] == ["yahoo"]
    assert row(facts, "--task_config_dir")["lines"] == [7]
    assert facts["batch"]["rows_per_step"] is None


def test_what_is_written_is_valid_beside_its_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["Health", "Sports"]
    rows = [{"sentence": f"text {index}", "label": labels[index % 2]} for index in range(8)]
    for name in FOUR:
        folder = here / "CL_Benchmark" / "TC" / name
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            (folder / f"{split}.json").write_text(
                json.dumps([{**row, "sentence": split + row["sentence"]} for row in rows])
            )
    (here / "configs").mkdir()
    instructions = {"TC": [{"instruction_type": "zero-shot", "instruction": "Name the topic.\n"}]}
    (here / "configs" / "instruction_config.json").write_text(json.dumps(instructions))
    (here / "order.sh").write_text(script(own=lambda index, _: {"num_train_epochs": str(index + 1)}))
    assert main(["init", "c.yaml", "--from", "order.sh"]) == 0
    assert main(["validate", "c.yaml", "--set", "backbone.path=builtin:tiny-t5"]) == 0
    assert "valid: 4 tasks" in capsys.readouterr().err


def test_paths_are_relative_to_the_configuration(here: Path) -> None:
    (here / "order.sh").write_text(script())
    assert main(["init", "configs/new/c.yaml", "--from", "order.sh"]) == 0
    settings = load_config("configs/new/c.yaml")
    assert settings.resolved["stream"]["root"] == str(here / "CL_Benchmark")
    assert settings.backbone.path == str(here / "initial_model/t5-large")


def test_the_table_for_people(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "order.sh").write_text(script(own=lambda *_: {"[/red]": "1"}))
    assert main(["init", "--from", "order.sh", "--ignore-unknown"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^--learning_rate +18 +train\.learning_rate *$", said, re.MULTILINE)
    assert re.search(r"^--deepspeed +20 +had no effect: devices are chosen where", said, re.MULTILINE)
    assert re.search(r"^--per_device_train_batch_size +16 +train\.per_device_train_batch_size *$", said, re.MULTILINE)
    assert re.search(r"^--group_by_length +- +train\.group_by_length \(not written:", said, re.MULTILINE)
    assert "--[/red]" in said
    assert "evertune validate evertune.yaml" in said
    assert "taken to be o-lora" in said


def test_nothing_is_executed(imported: Import, here: Path) -> None:
    trap = f"touch {here}/trap; X=`touch {here}/trap`; Y=$(touch {here}/trap)"
    imported(script(head=f"port=$(touch {here}/trap)\n{trap}"))
    assert not (here / "trap").exists()


def test_variables_that_are_plainly_assigned(imported: Import) -> None:
    head = 'LR=5e-4\nexport ROOT=/data/"CL data"\nCOMMON="--num_beams 3 --seed 9"\nname=\'$LR\''
    own = {"learning_rate": "$LR", "data_dir": '"${ROOT}/CL"', "run_name": "$name", "report_to": "none $COMMON"}
    settings, _ = imported(script(own=lambda *_: own, head=f"{head}\nport=1"))
    assert settings.first.train.learning_rate == 5e-4
    assert settings.resolved["stream"]["root"] == "/data/CL data/CL"
    assert (settings.seed, settings.first.evaluation.num_beams) == (9, 3)


@pytest.mark.parametrize(
    ("head", "value", "why"),
    [
        ("x=1", "$LR", "`$LR` has no value: it is not assigned plainly above."),
        ("LR=$(cat rate)", "$LR", "`$LR` has no value: it comes from a command, which is not run (line 3)."),
        ("for LR in 1 2; do\nLR=3\ndone", "${LR}", "is assigned in a loop, a branch or piece by piece (line 4)."),
        ("x=1", "$2", "`$2` has no value: it is an argument of the script; give them with `--script-args`."),
        ("x=1", "$(cat rate)", "`$(cat rate)` is not plain text, and nothing is run to find its value."),
        ("LR=1e-3", "${LR:-2}", "`${LR:-2}` is not plain text, and nothing is run to find its value."),
    ],
)
def test_a_value_that_only_the_shell_knows(refused: Refused, head: str, value: str, why: str) -> None:
    text = script(["yahoo"], lambda *_: {"learning_rate": value}, head=head, launcher="deepspeed")
    line = next(number for number, each in enumerate(text.split("\n"), start=1) if "--learning_rate" in each)
    (said,) = refused(text)
    assert said.startswith(f"order.sh:{line}: --learning_rate: ")
    assert why in said


def test_a_flag_without_effect_may_hold_anything(imported: Import) -> None:
    settings, facts = imported(script(["yahoo"], lambda *_: {"run_name": "$(date)", "deepspeed": "$CONFIG"}))
    assert row(facts, "--run_name")["values"] == ["$(date)"]
    assert settings.first.train.learning_rate == 1e-3


def test_everything_that_is_wrong_is_said_at_once(refused: Refused) -> None:
    own = {"learning_rate": "fast", "num_beams": "2.5", "lamda3": "1", "num_examples": "2", "bf16": "maybe"}
    said = refused(script(["yahoo"], lambda *_: own))
    assert [line.split(": ", 2)[1:] for line in said] == [
        ["--learning_rate", 'must be a number, got "fast".'],
        ["--num_beams", 'must be a whole number, got "2.5".'],
        [
            "--lamda3",
            "--lamda3 is a flag of none of the scripts that can be read. "
            "Remove it, or pass over all such flags with `--ignore-unknown`.",
        ],
        [
            "--num_examples",
            "--num_examples 2 is not available: prompts hold no solved examples. "
            "Remove it, or pass over it with `--ignore-unknown`.",
        ],
        ["--bf16", 'must be true or false, got "maybe".'],
    ]


def test_unknown_flags_can_be_passed_over(imported: Import) -> None:
    _, facts = imported(script(["yahoo"], lambda *_: {"radius": "3", "num_examples": "2"}), "--ignore-unknown")
    assert row(facts, "--radius")["effect"] == "unknown, passed over"
    assert row(facts, "--num_examples")["effect"].startswith("not available, passed over")


def test_a_value_out_of_bounds_is_named_by_its_flag(refused: Refused) -> None:
    text = script(["yahoo"], lambda *_: {"max_source_length": "4"})
    line = next(number for number, each in enumerate(text.split("\n"), start=1) if "--max_source_length" in each)
    assert refused(text) == [f"order.sh:{line}: --max_source_length: must be at least 8, got 4."]


def first_line_with(text: str, what: str, *, skip: int = 0) -> int:
    return [number for number, each in enumerate(text.split("\n"), start=1) if what in each][skip]


def test_commands_that_are_no_stream(refused: Refused) -> None:
    fresh = script(FOUR[:2], lambda index, _: {"model_name_or_path": "initial_model/t5-large"})
    line = first_line_with(fresh, "--model_name_or_path", skip=1)
    assert refused(fresh) == [
        f"order.sh:{line}: --model_name_or_path: initial_model/t5-large is not below out/1-dbpedia, which the command "
        "before writes: this is no next task. Give each stream a script of its own."
    ]
    twice = script(["yahoo", "yahoo"])
    lines = [first_line_with(twice, "--task_config_dir", skip=skip) for skip in (0, 1)]
    assert f"The task yahoo is trained twice, first by line {lines[0]}" in refused(twice)[0]
    adapter = script(["yahoo"], model="out/1-dbpedia/adapter")
    assert "The first command starts from the adapter out/1-dbpedia/adapter" in refused(adapter)[0]
    seeds = script(FOUR[:2], lambda index, _: {"seed": str(index)})
    assert (
        f"order.sh:{first_line_with(seeds, '--seed')}: --seed: seed cannot change from task to task: 0 and 1."
        in (refused(seeds)[0])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo hello\n", "order.sh: No command of this script trains: none has `--do_train`."),
        (
            'bash scripts/order_4.sh 1e-03 32 ".*(q|v).*" > log 2>&1\n',
            "order.sh: No command of this script trains: none has `--do_train`. It starts others: read "
            "`--from scripts/order_4.sh --script-args \"1e-03 32 '.*(q|v).*'\"`.",
        ),
        ("python run.py --do_train \\ \n  --seed 1\n", "order.sh:2: This line begins with the flag --seed"),
        ("echo 'open\n", "order.sh:1: This quotation is not closed. Close it."),
        ("true\nport=$(shuf\n", "order.sh:2: This `$(` is not closed. Close it."),
        (
            "for t in a b; do\n  python run.py --do_train --model_name_or_path x\ndone\n",
            "order.sh:2: This command stands in a loop, a branch or a function, which are not run.",
        ),
        (
            "train() {\n  python run.py --do_train --model_name_or_path x\n}\ntrain\n",
            "order.sh:2: This command stands in a loop, a branch or a function, which are not run.",
        ),
        ("python run.py --do_train --model_name_or_path x\n", "order.sh:1: This command has no --task_config_dir"),
    ],
)
def test_scripts_that_cannot_be_read(refused: Refused, text: str, message: str) -> None:
    assert refused(text)[0].startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "args.json:1:2: This file is not JSON"),
        ("[1]", "args.json: This file is not an object of arguments."),
        ('{"do_train": false}', "args.json:1: do_train: These arguments train nothing."),
    ],
)
def test_json_that_cannot_be_read(refused: Refused, text: str, message: str) -> None:
    assert refused(text, name="args.json")[0].startswith(message)


def test_options_that_exclude_each_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "order.sh").write_text(script())
    for words, message in {
        ("--from", "nothing.sh"): "nothing.sh: There is no such file. Name the file that launched the runs.",
        ("--from", "order.sh", "--data", "order.sh"): "evertune init: `--data` and `--from` exclude each other.",
        ("--method", "gorp"): "evertune init: `--method` has no effect without `--from`.",
        ("--from", "order.sh", "--method", "gorpp"): "--method: There is no method `gorpp`. Did you mean `gorp`?",
        (
            "--from",
            "order.sh",
            "--script-args",
            "'",
        ): "--script-args: This cannot be taken apart: No closing quotation.",
    }.items():
        assert main(["init", *words]) == 2
        assert message in capsys.readouterr().err
    assert not (here / "evertune.yaml").exists()
    (here / "evertune.yaml").write_text("mine")
    assert main(["init", "--from", "order.sh"]) == 2
    assert (here / "evertune.yaml").read_text() == "mine"


def test_words_as_the_shell_sees_them() -> None:
    text = (
        "a=1 # comment\nrun --x 'it''s' \"two words\" a#b \\\n  --y \"$(date; x)\" 2> log.txt; next &\n"
        "cat <<END\nrun --not this\nEND\nlast one|two\n"
    )
    found = [[(word.text, word.line) for word in command] for command in simple_commands(text, "s")]
    assert found == [
        [("a=1", 1)],
        [("run", 2), ("--x", 2), ("its", 2), ("two words", 2), ("a#b", 2), ("--y", 3), ("$(date; x)", 3)],
        [("next", 3)],
        [("cat", 4)],
        [("last", 7), ("one", 7)],
        [("two", 7)],
    ]
    with pytest.raises(InputError, match="begins with the flag"):
        list(simple_commands("--x 1", "s"))


@pytest.mark.parametrize(
    ("launcher", "environment", "count"),
    [
        ("deepspeed --num_gpus 4 --num_nodes 2", {}, 8),
        ("deepspeed --include localhost:0,1", {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 2),
        ("deepspeed --include a:0,1@b:2", {}, 3),
        ("deepspeed --include a", {}, None),
        ("deepspeed --master_port 1", {"CUDA_VISIBLE_DEVICES": "0,1,2"}, 3),
        ("deepspeed", {}, None),
        ("torchrun --nproc-per-node=4 --nnodes=2", {}, 8),
        ("torchrun --nproc_per_node gpu", {}, None),
        ("accelerate launch --num_processes 6 --num_machines 2", {}, 6),
        ("python", {"CUDA_VISIBLE_DEVICES": "3"}, 1),
    ],
)
def test_counting_devices(launcher: str, environment: Mapping[str, str], count: int | None) -> None:
    assert count_devices([(word, "") for word in launcher.split()], environment).count == count


@pytest.mark.parametrize(
    ("launcher", "devices"),
    [
        ("python", None),
        ("nohup torchrun --nproc_per_node 2", 2),
        ("accelerate launch --num_processes=4", 4),
        ("python -m torch.distributed.launch --nproc_per_node=8", 8),
        ("deepspeed --include $1", None),
    ],
)
def test_launchers(imported: Import, launcher: str, devices: int | None) -> None:
    _, facts = imported(script(FOUR[:2], launcher=launcher))
    assert facts["batch"]["devices"] == devices


def test_the_table_of_flags_is_sound() -> None:
    assert all(flag.key or flag.why for flag in FLAGS)
    for method in ("o-lora", "n-lora", "gorp"):
        options = set(METHODS.get(method).__dataclass_fields__)
        for name in {flag.name for flag in FLAGS}:
            flag = find_flag(name, method)
            assert flag is not None
            section, _, option = flag.key.partition(".")
            assert section != "method" or option in options, flag
