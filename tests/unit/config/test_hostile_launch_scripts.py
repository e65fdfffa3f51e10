"""Launch scripts that are odd, broken or hostile: what becomes of every flag and every text, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from evertune.config.load import load_config
from evertune.config.old_runs.flags import FLAGS, find_flag
from evertune.config.old_runs.importing import Imported, import_run
from evertune.config.schema import SECTIONS
from evertune.errors import InputError
from evertune.methods import METHODS
from evertune.settings import RunSettings, StageSettings
from evertune.streams import STREAMS
from evertune.streams.cl_orders import ORDERS

FOUR = ("dbpedia", "amazon", "yahoo", "agnews")
GORP = (
    "--galore_rank 8 --galore_lr 1e-5 --galore_scale 1 --galore_update_proj_gap 10 "
    "--lora_modules '.*SelfAttention.(q|v).*' --optim_target_modules '.*EncDecAttention.(q|v).*' "
    "--proj_lora_modules '.*SelfAttention.(q|v).loranew_A.*' --lamda_1 0.5 --lamda_2 0 --lamda_3 0.05"
)


def command(place: int, tasks: Sequence[str], more: str = "", *, start: str = "deepspeed") -> str:
    """The command of one task of a stream, in the manner of the released scripts."""
    before = f"out/{place}-{tasks[place - 1]}/adapter" if place else "models/t5-large"
    lines = [
        f"{start} src/train.py --do_train --do_predict --predict_with_generate",
        f"--model_name_or_path {before}",
        f"--data_dir CL_Benchmark --task_config_dir configs/lists/{tasks[place]}",
        f"--output_dir out/{place + 1}-{tasks[place]}",
        "--instruction_file configs/instruction_config.json --instruction_strategy single",
        "--per_device_train_batch_size 4 --gradient_accumulation_steps 2 --learning_rate 1e-03",
        "--num_train_epochs 1 --lr_scheduler_type constant --warmup_steps 0 --deepspeed ds/stage2.config",
        "--max_source_length 512 --max_target_length 50 --generation_max_length 50",
        "--add_task_name True --add_dataset_name True --save_strategy no --evaluation_strategy no",
        more,
    ]
    return " \\\n    ".join(line for line in lines if line)


def script(
    tasks: Sequence[str] = FOUR, more: str | Sequence[str] = "--lamda_1 0.5 --lamda_2 0", *, start: str = "deepspeed"
) -> str:
    """A whole script; `more` is appended to every command, or to each its own."""
    each = [more] * len(tasks) if isinstance(more, str) else more
    commands = [command(place, tasks, each[place], start=start) for place in range(len(tasks))]
    return "#!/bin/bash\nport=$(shuf -i25000-30000 -n1)  # any free one\n\n" + "\n\nsleep 5\n\n".join(commands) + "\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def read(here: Path) -> Callable[..., Imported]:
    def read_text(text: str | bytes, name: str = "launch.sh", **options: object) -> Imported:
        (here / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return import_run(Path(name), Path(), **options)  # type: ignore[arg-type]

    return read_text


@pytest.fixture
def load(read: Callable[..., Imported], here: Path) -> Callable[..., RunSettings]:
    def load_text(text: str | bytes, name: str = "launch.sh", **options: object) -> RunSettings:
        (here / "imported.yaml").write_text(read(text, name, **options).text, encoding="utf-8")
        return load_config(here / "imported.yaml")

    return load_text


@pytest.fixture
def refusal(read: Callable[..., Imported]) -> Callable[..., list[str]]:
    def refused(text: str | bytes, name: str = "launch.sh", **options: object) -> list[str]:
        with pytest.raises(InputError) as caught:
            read(text, name, **options)
        return str(caught.value).splitlines()

    return refused


def stages(settings: RunSettings, tasks: Sequence[str]) -> list[StageSettings]:
    return [settings.for_task(task, place) for place, task in enumerate(tasks)]


def options(stage: StageSettings) -> object:
    return stage.methods[0][1]


def test_the_commands_become_one_stream_with_everything_that_they_agree_on(load: Callable[..., RunSettings]) -> None:
    settings = load(script())
    assert settings.resolved["stream"]["order"] == 1
    assert settings.resolved["stream"]["task_names_in_prompt"] is True
    assert settings.resolved["stream"]["dev_fraction"] == 0
    assert settings.resolved["backbone"]["task_type"] == "seq2seq_lm"
    assert settings.backbone.path.endswith("models/t5-large")
    assert (settings.adapter.r, settings.adapter.lora_alpha, settings.adapter.lora_dropout) == (8, 32, 0.1)
    assert settings.adapter.target == "attention_query_value"
    train = settings.first.train
    assert (train.learning_rate, train.num_train_epochs, train.lr_scheduler_type) == (1e-3, 1, "constant")
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps) == (4, 2)
    assert settings.later == settings.first
    assert not settings.per_task
    name, method = settings.first.methods[0]
    assert name == "o-lora"
    assert (method.lambda_1, method.lambda_2, method.variant) == (0.5, 0, "released")  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", ORDERS)
def test_every_published_order_is_recognised(load: Callable[..., RunSettings], number: int) -> None:
    assert load(script(ORDERS[number])).resolved["stream"]["order"] == number


def test_other_orders_are_written_out(load: Callable[..., RunSettings]) -> None:
    assert load(script(("yahoo", "dbpedia"))).resolved["stream"]["order"] == ["yahoo", "dbpedia"]


def test_data_sets_are_found_whatever_the_case_of_their_folders(load: Callable[..., RunSettings]) -> None:
    tasks = ("mnli", "cb", "wic")
    assert load(script(tasks)).resolved["stream"]["order"] == ["MNLI", "CB", "WiC"]


def test_what_all_later_commands_change_holds_after_the_first(load: Callable[..., RunSettings]) -> None:
    settings = load(script(more=["--learning_rate 1e-3", *["--learning_rate 1e-04"] * 3]))
    assert [stage.train.learning_rate for stage in stages(settings, FOUR)] == [1e-3, 1e-4, 1e-4, 1e-4]
    assert not settings.per_task


def test_what_single_commands_change_holds_for_their_tasks(load: Callable[..., RunSettings]) -> None:
    lambdas = [(0, 0), (0.5, 0.1), (0.5, 0), (5, 0.3)]
    more = [f"--lamda_1 {one} --lamda_2 {two} --num_train_epochs {n + 1}" for n, (one, two) in enumerate(lambdas)]
    settings = load(script(more=more))
    each = stages(settings, FOUR)
    assert [(options(s).lambda_1, options(s).lambda_2) for s in each] == lambdas  # type: ignore[attr-defined]
    assert [stage.train.num_train_epochs for stage in each] == [1, 2, 3, 4]


def test_a_flag_that_one_command_lacks_has_its_old_default_there(load: Callable[..., RunSettings]) -> None:
    settings = load(script(more=["--weight_decay 0.1", "", "", "--weight_decay 0.1"]))
    assert [stage.train.weight_decay for stage in stages(settings, FOUR)] == [0.1, 0, 0, 0.1]


def test_flags_that_only_gorp_has_tell_it(load: Callable[..., RunSettings]) -> None:
    settings = load(script(more=GORP))
    name, method = settings.first.methods[0]
    assert name == "gorp"
    assert (method.full_rank, method.projection_rank) == ("cross_attention_query_value", 8)  # type: ignore[attr-defined]
    assert (method.refresh_gap, method.projection_scale) == (10, 1)  # type: ignore[attr-defined]
    assert method.full_rank_learning_rate == 1e-5  # type: ignore[attr-defined]
    assert settings.adapter.target == "self_attention_query_value"
    assert settings.first.train.adam_epsilon == 1e-6
    assert method.energy_threshold == 0.9  # type: ignore[attr-defined]


def test_the_gap_has_two_old_names(load: Callable[..., RunSettings]) -> None:
    settings = load(script(more="--galore_rank 2 --update_proj_gap 40"))
    assert settings.first.methods[0][1].refresh_gap == 40  # type: ignore[attr-defined]


def test_dead_flags_of_gorp_are_said_to_be_dead(read: Callable[..., Imported]) -> None:
    rows = {row.flag: row for row in read(script(more=GORP)).translation.rows}
    for flag in ("--lamda_1", "--lamda_2", "--lamda_3"):
        assert rows[flag].key == ""
        assert "dead" in rows[flag].effect


def test_a_method_can_be_named(load: Callable[..., RunSettings]) -> None:
    settings = load(script(more="--lamda_1 0.4 --lamda_2 0"), method="n-lora")
    name, method = settings.first.methods[0]
    assert name == "n-lora"
    assert (method.lambda_1, method.variant) == (0.4, "released")  # type: ignore[attr-defined]


def test_without_any_term_it_is_plain_sequential_learning(load: Callable[..., RunSettings]) -> None:
    assert load(script(more="")).first.methods[0][0] == "seq-lora"


def test_o_loras_own_program_has_its_term_even_unwritten(load: Callable[..., RunSettings]) -> None:
    settings = load(script(more="").replace("src/train.py", "src/run_uie_lora.py"))
    assert settings.first.methods[0][0] == "o-lora"
    assert settings.first.methods[0][1].lambda_1 == 0.5  # type: ignore[attr-defined]


def test_an_unknown_method_is_refused(refusal: Callable[..., list[str]]) -> None:
    (said,) = refusal(script(), method="o-lara")
    assert "--method" in said
    assert "o-lora" in said


def test_what_was_assumed_stands_in_the_file(read: Callable[..., Imported]) -> None:
    imported = read(script())
    assert "--method n-lora" in imported.text
    assert any("n-lora" in note for note in imported.translation.notes)


@pytest.mark.parametrize(
    ("start", "devices"),
    [
        ("CUDA_VISIBLE_DEVICES=0,1 deepspeed --master_port $port", 2),
        ("deepspeed --include localhost:0,1,5 --master_port $port", 3),
        ("deepspeed --num_gpus=4", 4),
        ("CUDA_VISIBLE_DEVICES=0,1,2,3 torchrun --nproc_per_node 2", 2),
        ("accelerate launch --num_processes 8", 8),
        ("torchrun --nnodes 2 --nproc_per_node 4", 8),
        ("nohup env CUDA_VISIBLE_DEVICES=3 python", 1),
        ("python -u", None),
    ],
)
def test_the_effective_batch_is_told(read: Callable[..., Imported], start: str, devices: int | None) -> None:
    imported = read(script(start=start))
    batch = imported.facts()["batch"]
    assert batch["devices"] == devices
    assert batch["rows_per_step"] == (None if devices is None else 4 * 2 * devices)
    if devices:
        assert f"{4 * 2 * devices} rows" in imported.text


def test_nothing_is_ever_executed(read: Callable[..., Imported], here: Path) -> None:
    bomb = "$(touch proof) `touch proof`"
    imported = read(f"x={bomb}\ntouch proof\n" + script(more=f'--run_name "{bomb}" --report_to $(touch proof)'))
    assert not (here / "proof").exists()
    assert imported.translation.tasks == list(FOUR)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("$(rm -rf /)", "$(rm -rf /)"),
        ("`rm -rf /`", "`rm -rf /`"),
        ("$RATE", "$RATE"),
        ("${RATE:-1e-3}", "RATE"),
        ("$1", "$1"),
    ],
)
def test_a_value_that_only_a_shell_could_find_stops_the_import(
    refusal: Callable[..., list[str]], value: str, said: str
) -> None:
    problems = refusal(script(("dbpedia",), f"--learning_rate {value}"))
    assert len(problems) == 1
    assert problems[0].startswith("launch.sh:13: --learning_rate")
    assert said in problems[0]


def test_plain_variables_are_followed(load: Callable[..., RunSettings]) -> None:
    text = 'RATE=2e-3\nROOT="my data"\n' + script(("dbpedia",), '--learning_rate ${RATE} --data_dir "$ROOT/cl"')
    settings = load(text)
    assert settings.first.train.learning_rate == 2e-3
    assert settings.resolved["stream"]["root"].endswith("my data/cl")


def test_the_last_assignment_before_a_command_counts(load: Callable[..., RunSettings]) -> None:
    parts = [command(0, FOUR, "--learning_rate $RATE"), command(1, FOUR, "--learning_rate $RATE")]
    settings = load(f"RATE=1e-3\n{parts[0]}\nRATE=1e-4\n{parts[1]}\n")
    assert [s.train.learning_rate for s in stages(settings, FOUR[:2])] == [1e-3, 1e-4]


def test_single_quotes_keep_a_dollar_sign(load: Callable[..., RunSettings]) -> None:
    settings = load("A=wrong\n" + script(("dbpedia",), "--data_dir 'cost$A'"))
    assert settings.resolved["stream"]["root"].endswith("cost$A")


def test_an_argument_of_the_script_ends_after_its_digit(load: Callable[..., RunSettings]) -> None:
    settings = load(script(("dbpedia",), "--data_dir data/$1_new"), words=["cl"])
    assert settings.resolved["stream"]["root"].endswith("data/cl_new")


def test_warm_up_is_kept_for_the_tasks_whose_schedule_has_one(load: Callable[..., RunSettings]) -> None:
    more = ["--warmup_steps 7", "--lr_scheduler_type linear --warmup_steps 7", "--warmup_steps 7", "--warmup_steps 7"]
    each = stages(load(script(more=more)), FOUR)
    assert [(stage.train.lr_scheduler_type, stage.train.warmup_steps) for stage in each] == [
        ("constant", 0),
        ("linear", 7),
        ("constant", 0),
        ("constant", 0),
    ]


def test_a_precision_switched_off_is_no_other_precision(load: Callable[..., RunSettings]) -> None:
    more = ["--bf16 False", "", "--bf16 False --fp16 False", ""]
    assert load(script(more=more)).backbone.dtype == "float32"
    assert load(script(more="--bf16 True --fp16 False")).backbone.dtype == "bfloat16"


def test_longer_answers_than_targets_are_said(read: Callable[..., Imported]) -> None:
    imported = read(script(("dbpedia",), "--generation_max_length 128"))
    assert "generation_max_length 128" in imported.text
    assert "generation_max_length" not in read(script(("dbpedia",))).text


def test_a_chain_may_spell_its_folders_differently(read: Callable[..., Imported]) -> None:
    text = script().replace("--output_dir out/", "--output_dir ./out//")
    assert read(text).translation.tasks == list(FOUR)


def test_a_command_that_does_not_go_on_from_the_one_before_is_refused(refusal: Callable[..., list[str]]) -> None:
    problems = refusal(script().replace("out/1-dbpedia/adapter", "out/1-dbpedia-other/adapter"))
    assert len(problems) == 1
    assert problems[0].startswith("launch.sh:18: --model_name_or_path")


def test_byte_order_mark_and_windows_line_ends(load: Callable[..., RunSettings]) -> None:
    assert load(b"\xef\xbb\xbf" + script().replace("\n", "\r\n").encode()).resolved == load(script()).resolved


def test_unknown_flags_stop_the_import_each_with_its_line(refusal: Callable[..., list[str]]) -> None:
    problems = refusal(script(("dbpedia",), "--freeze_all \\\n --warp 9"))
    assert [problem.partition(" is ")[0] for problem in problems] == [
        "launch.sh:13: --freeze_all: --freeze_all",
        "launch.sh:14: --warp: --warp",
    ]
    assert all("--ignore-unknown" in problem for problem in problems)


def test_ignored_flags_are_listed_in_the_file(read: Callable[..., Imported]) -> None:
    imported = read(script(("dbpedia",), "--freeze_all --warp 9"), ignore_unknown=True)
    comments = [line for line in imported.text.splitlines() if line.lstrip().startswith("#")]
    assert any("--freeze_all" in line for line in comments)
    assert any("--warp" in line for line in comments)


def test_of_two_equal_flags_the_last_counts_and_that_is_said(read: Callable[..., Imported]) -> None:
    imported = read(script(("dbpedia",), "--learning_rate 5e-4"))
    assert imported.translation.values["train.learning_rate"] == [5e-4]
    assert any("--learning_rate is written twice" in note for note in imported.translation.notes)


@pytest.mark.parametrize(
    ("more", "flag"),
    [
        ("--learning_rate", "--learning_rate"),
        ("--learning_rate fast", "--learning_rate"),
        ("--num_train_epochs -1", "--num_train_epochs"),
        ("--learning_rate nan", "--learning_rate"),
        ("--learning_rate 1e999", "--learning_rate"),
        ("--per_device_train_batch_size 2.5", "--per_device_train_batch_size"),
        ("--per_device_train_batch_size 0", "--per_device_train_batch_size"),
        ("--data_dir", "--data_dir"),
        ("--instruction_file --do_eval", "--instruction_file"),
        ("--lora_modules '.*(q'", "--lora_modules"),
        ("--lr_scheduler_type zigzag", "--lr_scheduler_type"),
        ("--add_task_name perhaps", "--add_task_name"),
        ("--data_dir one two", "--data_dir"),
        ("--task_config_dir", "--task_config_dir"),
        ("--task_config_dir /", "--task_config_dir"),
        ("--model_name_or_path", "--model_name_or_path"),
    ],
)
def test_a_bad_or_missing_value_is_named(refusal: Callable[..., list[str]], more: str, flag: str) -> None:
    problems = refusal(script(("dbpedia",), more), method="gorp" if "modules" in more else None)
    assert len(problems) == 1, problems
    assert problems[0].startswith("launch.sh:"), problems
    assert flag in problems[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "trains"),
        ("echo nothing to see\n", "trains"),
        ("deepspeed src/train.py --do_predict --model_name_or_path x\n", "trains"),
        ('deepspeed src/train.py --do_train --run_name "open\n', "launch.sh:1"),
        ("deepspeed src/train.py --do_train --run_name 'open\n", "launch.sh:1"),
        ("x=$(never closed\n", "launch.sh:1"),
        ("echo\n\x00\n", "launch.sh:2: The character U+0000"),
        ("echo\n\ue000\n", "launch.sh:2: The character U+E000"),
        ("deepspeed src/train.py --do_train \\ \n  --learning_rate 1\n", "launch.sh:2"),
    ],
)
def test_scripts_that_cannot_be_read(refusal: Callable[..., list[str]], text: str, said: str) -> None:
    problems = refusal(text)
    assert said in problems[0]
    assert problems[0].startswith("launch.sh")


@pytest.mark.parametrize("end", ["\\", "'", '"', "$(", "`", "<<", "&&", "{", "#", "\\\r"])
def test_a_script_that_breaks_off_is_never_a_bug(here: Path, end: str) -> None:
    (here / "launch.sh").write_text(script(("dbpedia",)).rstrip("\n") + f" {end}", newline="")
    try:
        tasks, said = import_run(Path("launch.sh"), Path()).translation.tasks, ""
    except InputError as error:
        tasks, said = ["dbpedia"], str(error)
    assert tasks == ["dbpedia"]
    assert not said or said.startswith("launch.sh:")


def test_two_streams_in_one_script_are_refused(refusal: Callable[..., list[str]]) -> None:
    problems = refusal(script() + script())
    assert any("dbpedia is trained twice" in problem for problem in problems)


def test_a_loop_is_refused_rather_than_half_read(refusal: Callable[..., list[str]]) -> None:
    problems = refusal(f"for lr in 1e-3 1e-4; do\n{command(0, FOUR, '--learning_rate $lr')}\ndone\n")
    assert problems[0].startswith("launch.sh:2")
    assert "loop" in problems[0]


def test_commented_commands_do_not_count(read: Callable[..., Imported]) -> None:
    commented = "".join(f"# {line}\n" for line in command(1, FOUR).splitlines())
    assert read(command(0, FOUR) + "\n" + commented).translation.tasks == ["dbpedia"]


def test_the_task_may_be_told_by_the_output_folder_alone(load: Callable[..., RunSettings]) -> None:
    text = "\n".join(command(place, FOUR) for place in range(2))
    for task in FOUR:
        text = text.replace(f" --task_config_dir configs/lists/{task}", "")
    assert load(text).resolved["stream"]["order"] == ["dbpedia", "amazon"]


ARGUMENTS = {
    "do_train": True,
    "model_name_or_path": "models/t5-large",
    "data_dir": "CL_Benchmark",
    "task_config_dir": "configs/lists/dbpedia",
    "output_dir": "out/1-dbpedia",
    "learning_rate": 0.0005,
    "num_train_epochs": 2,
    "lr_scheduler_type": "constant",
    "max_steps": None,
    "lamda_1": 0.25,
}


def test_json_of_arguments_is_one_task(load: Callable[..., RunSettings]) -> None:
    settings = load(json.dumps(ARGUMENTS, indent=2), "args.json")
    assert settings.resolved["stream"]["order"] == ["dbpedia"]
    assert (settings.first.train.learning_rate, settings.first.train.num_train_epochs) == (5e-4, 2)
    assert settings.first.methods[0][1].lambda_1 == 0.25  # type: ignore[attr-defined]


def test_json_keeps_dollar_signs(load: Callable[..., RunSettings]) -> None:
    settings = load(json.dumps(ARGUMENTS | {"data_dir": "a$(b)`c`$D"}), "args.json")
    assert settings.resolved["stream"]["root"].endswith("a$(b)`c`$D")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "args.json"),
        ('"text"', "args.json"),
        ("{", "args.json:1"),
        ("", "args.json:1"),
        ("[" * 100_000, "args.json"),
        (json.dumps(ARGUMENTS | {"learning_rate": [1, 2]}), "learning_rate"),
        (json.dumps(ARGUMENTS | {"learning_rate": {"a": 1}}), "learning_rate"),
        (json.dumps(ARGUMENTS | {"data_dir": "half \ud800"}), "data_dir"),
        (json.dumps(ARGUMENTS | {"data_dir": "NUL \0"}), "data_dir"),
        (json.dumps(ARGUMENTS | {"data_dir": []}), "data_dir"),
        (json.dumps(ARGUMENTS | {"warp": 9}, indent=1), "args.json:12"),
        (json.dumps(ARGUMENTS | {"do_train": False}, indent=1), "args.json:2"),
        (json.dumps(ARGUMENTS | {"data_dir": {"a": 1}}, indent=1), "data_dir"),
    ],
)
def test_json_that_cannot_be_read(refusal: Callable[..., list[str]], text: str, said: str) -> None:
    (problem,) = refusal(text, "args.json")
    assert said in problem


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two words",
        "a: b",
        "#no comment",
        "x #no comment",
        "'single' \"double\"",
        "- item",
        "{a: b}",
        "[x](y)",
        "&anchor *alias !!python/object:os.system",
        "null",
        "1e3",
        "true",
        "%d",
        "@at",
        "line\nbreak",
        "line\n\n\nbreaks\n",
        " led by space ",
        "tab\tbed",
        "w " * 100,
        "tschüß Ω " * 30,
        "bell\x07 " * 30,
        "next\x85line\u2028and\u2029more",
        "\\back\\slash " * 20,
        "😀 " * 80,
    ],
)
def test_any_text_comes_back_as_it_was(load: Callable[..., RunSettings], text: str) -> None:
    settings = load(json.dumps(ARGUMENTS | {"data_dir": f"/data/{text}/end"}), "args.json")
    assert settings.resolved["stream"]["root"] == f"/data/{text}/end"


@pytest.mark.parametrize(
    "text", ["a\nmethod: evil", "a\rmethod: evil", "a\x85method: evil", "a\u2028method: evil", "\x07\x1b[31m"]
)
def test_no_comment_can_break_out_of_its_line(load: Callable[..., RunSettings], text: str) -> None:
    start = f"CUDA_VISIBLE_DEVICES='0{text}' deepspeed"
    more = f"--unheard-of '{text}' --run_name '{text}' --lamda_1 0.5"
    settings = load(script(("dbpedia",), more, start=start), ignore_unknown=True)
    assert settings.first.methods[0][0] == "o-lora"


@pytest.mark.parametrize("flag", ["data_dir", "instruction_file", "task_config_dir"])
def test_a_path_that_no_file_can_have_still_loads(load: Callable[..., RunSettings], flag: str) -> None:
    assert load(json.dumps(ARGUMENTS | {flag: "x" * 5000}), "args.json").first.methods


def test_a_hostile_name_of_a_script_is_only_a_comment(load: Callable[..., RunSettings]) -> None:
    assert load(script(("dbpedia",)), "a\nseed: 7\n.sh").seed == 42


@pytest.mark.parametrize("task", ["true", "1e3", "a: b", "null", "~"])
def test_names_of_tasks_stay_names(load: Callable[..., RunSettings], task: str) -> None:
    more = ["", "--learning_rate 2e-3", ""]
    text = script(("first", "SECOND", "third"), more).replace("SECOND", task).replace(f"/{task} ", f"/'{task}' ")
    text = text.replace(f"2-{task}", f"'2-{task}'")
    settings = load(text)
    assert settings.resolved["stream"]["order"] == ["first", task, "third"]
    assert settings.per_task[task][1].train.learning_rate == 2e-3


def test_every_new_key_of_the_table_exists() -> None:
    for flag in FLAGS:
        section, _, option = flag.key.partition(".")
        if section == "method":
            for name in flag.methods:
                assert hasattr(METHODS.get(name), option), (flag.name, name)
        elif section == "stream":
            assert option in STREAMS.get("cl-benchmark").__dataclass_fields__, flag.name
        elif flag.key and section != "seed":
            assert option in SECTIONS[section].__dataclass_fields__, flag.name  # type: ignore[attr-defined]


def test_every_flag_without_a_key_says_why() -> None:
    assert [flag.name for flag in FLAGS if not flag.key and not flag.why] == []


@pytest.mark.parametrize("method", ["gorp", "o-lora", "n-lora"])
def test_flags_without_a_key_change_nothing_and_say_why(
    read: Callable[..., Imported], load: Callable[..., RunSettings], method: str
) -> None:
    dead = {flag.name: flag for flag in FLAGS if find_flag(flag.name, method) == flag and not flag.key}
    more = " ".join(f"--{name} {next(iter(flag.neutral), 'no')}" for name, flag in dead.items() if name != "do_train")
    more = more.replace("--output_dir no ", "")
    assert (
        load(script(("dbpedia",), more), method=method).resolved
        == load(script(("dbpedia",), ""), method=method).resolved
    )
    rows = {row.flag: row for row in read(script(("dbpedia",), more), method=method).translation.rows}
    assert {flag for flag, row in rows.items() if not row.key and not row.effect} == set()
    assert {f"--{name}" for name in dead} <= rows.keys()
