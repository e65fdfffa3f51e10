from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evertune.config.load import dump_config, load_config, recipes
from evertune.errors import ConfigError
from evertune.evaluation.config import EverySteps
from evertune.methods.replay import Replay
from evertune.methods.seq_lora import SeqLoRA
from evertune.settings import RunSettings
from evertune.streams.demo import Synthetic
from evertune.streams.instructions import Instructions, TaskSource
from evertune.training.config import TrainConfig

Load = Callable[..., RunSettings]
Refusal = Callable[..., list[str]]


def parts(settings: RunSettings) -> dict[str, object]:
    """Everything but where the configuration came from and goes to."""
    skipped = ("output_dir", "run_name", "locations")
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name not in skipped}


def test_the_smallest_configuration_has_all_defaults(load: Load, tmp_path: Path) -> None:
    settings = load()
    assert settings.seed == 42
    assert settings.output_dir == tmp_path / "runs" / "stream"
    assert settings.run_name == "stream"
    assert settings.stream == Synthetic()
    assert settings.backbone.path == "builtin:tiny-llama"
    assert settings.backbone.task_type == "causal_lm"
    assert settings.first.methods == (("seq-lora", SeqLoRA()),)
    assert settings.first.train == settings.later.train == TrainConfig()


def test_values_of_every_kind(load: Load) -> None:
    settings = load(
        "seed: 7\nrun_name: first try\noutput_dir: out/here\n"
        "adapter: {r: 4, lora_alpha: 8, target: [q_proj, v_proj], layers: [0, 1]}\n"
        "method: [{name: replay, ratio: 1, buffer: reservoir}]\n"
        "train: {learning_rate: 5e-4, num_train_epochs: 3, group_by_length: false, warmup_ratio: 0,}\n"
        "evaluation: {during_training: {steps: 20}, keep: best}\n"
    )
    assert settings.seed == 7
    assert settings.run_name == "first try"
    assert settings.output_dir == Path.cwd() / "out" / "here"
    assert settings.adapter.target == ("q_proj", "v_proj")
    assert settings.adapter.layers == (0, 1)
    assert settings.first.methods == (("replay", Replay(ratio=1.0, buffer="reservoir")),)
    assert settings.first.train == TrainConfig(learning_rate=5e-4, num_train_epochs=3.0, group_by_length=False)
    assert settings.first.evaluation.during_training == EverySteps(steps=20)


def test_places_of_keys_that_were_written_and_of_others(load: Load) -> None:
    settings = load("train: {max_steps: 5}\n", "seed=3")
    assert settings.where("train.max_steps") == "stream.yaml:5:9"
    assert settings.where("train.learning_rate") == "stream.yaml:5:1"
    assert settings.where("seed") == "--set seed"
    assert settings.where("evaluation.keep") == "evaluation.keep"


def test_a_list_of_tasks_is_a_stream_of_its_own_rows(load: Load, tmp_path: Path) -> None:
    settings = load(
        "stream:\n  - {name: a, train: data/a.jsonl, columns: {input: Tweet text}}\n"
        "  - {name: b, train: 'hub:owner/name', test: [x.csv, /abs/y.csv]}\n"
        "backbone: {path: builtin:tiny-t5}\n",
        whole=True,
    )
    assert settings.stream == Instructions(
        tasks=(
            TaskSource(name="a", train=tmp_path / "data" / "a.jsonl", columns={"input": "Tweet text"}),
            TaskSource(name="b", train="hub:owner/name", test=(tmp_path / "x.csv", Path("/abs/y.csv"))),
        )
    )
    assert settings.where("stream.tasks.1.train") == "stream.yaml:3:15"


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs"
    (folder / "model").mkdir(parents=True)
    (folder / "c.yaml").write_text(
        "stream: {name: cl-benchmark, root: CL, order: 1}\nadapter: {start_from: ../old}\n"
        "backbone: {path: model, task_type: causal_lm}\noutput_dir: out\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = load_config("configs/c.yaml")
    assert settings.stream.root == folder / "CL"  # type: ignore[attr-defined]
    assert settings.backbone.path == str(folder / "model")
    assert settings.adapter.start_from == tmp_path / "old"
    assert settings.output_dir == folder / "out"
    given = load_config("configs/c.yaml", ["stream.root=CL", "output_dir=out"])
    assert given.stream.root == tmp_path / "CL"  # type: ignore[attr-defined]
    assert given.output_dir == tmp_path / "out"
    assert load_config("configs/c.yaml", output_dir=Path("there")).output_dir == tmp_path / "there"


def test_a_hub_id_stays_what_it_is(load: Load) -> None:
    text = "stream: synthetic\nbackbone: {path: owner/name, task_type: causal_lm, revision: v1}\n"
    assert load(text, whole=True).backbone.path == "owner/name"


def test_a_model_beside_the_user_but_not_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "c.yaml").write_text("stream: synthetic\nbackbone: {path: model, task_type: causal_lm}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="Paths are relative to the file that they stand in") as caught:
        load_config("configs/c.yaml")
    assert str(tmp_path / "model") in str(caught.value)


@pytest.mark.parametrize("name", sorted(recipes()))
def test_recipes_load_and_use_the_current_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name).output_dir == tmp_path / "runs" / name


def test_another_built_in_model_brings_its_own_task_type() -> None:
    assert load_config("demo").backbone.task_type == "causal_lm"
    assert load_config("demo", ["backbone.path=builtin:tiny-t5"]).backbone.task_type == "seq2seq_lm"


ROUND_TRIPS = {
    "smallest": "",
    "everything": (
        "seed: 3\nrun_name: x\nmethod: [{name: replay, buffer_unit: bytes}, seq-lora]\n"
        "adapter: {target: [a, b], start_from: old, layers: [1], use_rslora: true, lora_alpha: 3.5}\n"
        "train: {learning_rate: 1e-5, lr_scheduler_type: cosine, warmup_steps: 3, adam_epsilon: 1e-8}\n"
        "evaluation: {during_training: [1, 5, 9], keep: all, tasks: all}\n"
        "after_first: {train.learning_rate: 1e-6, method.replay.ratio: 2}\n"
        "per_task:\n  MNLI: {train.num_train_epochs: 2, evaluation: {during_training: {steps: 5}}}\n"
        "  a.b-c: {method: {replay: {ratio: 0.5}}, train: {max_steps: 7}}\n  1e3: {train.max_steps: 5}\n"
    ),
}


@pytest.mark.parametrize("text", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_the_resolved_configuration_loads_to_equal_settings(load: Load, text: str, tmp_path: Path) -> None:
    settings = load(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.yaml").write_text(dump_config(settings), encoding="utf-8")
    again = load_config(elsewhere / "config.yaml")
    assert parts(again) == parts(settings)
    assert dump_config(again) == dump_config(settings)
    assert json.loads(json.dumps(settings.resolved)) == settings.resolved


def test_resolved_holds_every_option_and_neither_folder_nor_name(load: Load) -> None:
    resolved = load("run_name: x\noutput_dir: y\n").resolved
    assert not {"run_name", "output_dir"} & set(resolved)
    assert set(resolved["train"]) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert resolved["method"] == [{"name": "seq-lora"}]


def test_the_configuration_of_a_run_folder_means_that_run(load: Load, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(load()))
    (run / "manifest.json").write_text("{}")
    settings = load_config(run / "config.yaml")
    assert (settings.output_dir, settings.run_name) == (run, "demo")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\xef\xbb\xbfstream: synthetic\nbackbone: {path: 'builtin:tiny-llama'}\n")
    assert load_config(file).stream == Synthetic()


def test_sections_without_content_have_their_defaults(load: Load) -> None:
    assert load("train:\nadapter:\nper_task:\nafter_first:\n").first.train == TrainConfig()


def test_all_problems_come_at_once_in_the_order_of_the_file(refusal: Refusal) -> None:
    found = refusal(
        'seed: "8"\nstream: {name: synthetic, train_rows: 0}\nbackbone: {path: builtin:tiny-llama, dtpe: bfloat16}\n'
        "adapter: {r: 0, target: [q, 3]}\nmethod: [replay, {name: seq-lora, x: 1}]\n"
        "train:\n  learning_rate: -1e-3\n  max_steps: 8.0\n  optim: adamw\n  group_by_length: yes\n"
        "evaluation: {during_training: epochs, drift: true}\ntrian: {}\n",
        whole=True,
    )
    assert found == [
        'stream.yaml:1:7: seed: must be a whole number, got the text "8". Write 8 without quotation marks.',
        "stream.yaml:2:39: stream.train_rows: must be at least 1, got 0.",
        "stream.yaml:3:38: backbone.dtpe: is not an option of `backbone`. Did you mean `dtype`?",
        "stream.yaml:4:14: adapter.r: must be at least 1, got 0.",
        "stream.yaml:4:29: adapter.target.1: must be text, got 3. Write '3' in quotation marks.",
        "stream.yaml:5:35: method.1.x: is not an option of method seq-lora.",
        "stream.yaml:7:18: train.learning_rate: must be greater than 0, got -0.001.",
        "stream.yaml:8:14: train.max_steps: must be a whole number, got 8.0. Write 8.",
        'stream.yaml:9:10: train.optim: "adamw" is not one of: adamw_torch, sgd, adafactor.'
        " Did you mean `adamw_torch`?",
        'stream.yaml:10:20: train.group_by_length: must be true or false, got the text "yes". Write true.',
        "stream.yaml:11:31: evaluation.during_training: must be none or epoch, a mapping with `steps` or a list of "
        'whole numbers, got "epochs". Did you mean `epoch`?',
        "stream.yaml:11:46: evaluation.drift: must be false, got true.",
        "stream.yaml:12:1: trian: is not a key of a configuration. Did you mean `train`?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {max_steps: 1.5}", "train.max_steps: must be a whole number, got 1.5."),
        ("train: {max_steps: true}", "train.max_steps: must be a whole number, got true."),
        ("train: {learning_rate: true}", "train.learning_rate: must be a number, got true."),
        ("train: {learning_rate: .nan}", "train.learning_rate: must be a number, got a number that is not finite."),
        ("train: {learning_rate: .inf}", "train.learning_rate: must be a number, got a number that is not finite."),
        ("train: {learning_rate: }", "train.learning_rate: must be a number, got nothing."),
        ("train: {learning_rate: [1]}", "train.learning_rate: must be a number, got a list."),
        ("evaluation: {zero_shot: 1}", "evaluation.zero_shot: must be true or false, got 1."),
        ("train: 5", "train: must be a mapping of options, got 5. Write `num_train_epochs: ...`"),
        ("run_name: 5", "run_name: must be text, got 5. Write '5' in quotation marks."),
        ("run_name: ''", "run_name: must not be empty."),
        ("output_dir: ''", 'output_dir: must be a path, got the text "".'),
        ("seed: -1", "seed: must be at least 0, got -1."),
        ("adapter: {target: {}}", "adapter.target: must be text or a list of text, got a mapping."),
        ("adapter: {layers: [0, x]}", 'adapter.layers.1: must be a whole number, got the text "x".'),
        ("adapter: {lora_dropout: 1.0}", "adapter.lora_dropout: must be less than 1, got 1.0."),
        ("evaluation: {during_training: {}}", "evaluation.during_training: needs `steps`. Write `steps:` with a whole"),
        ("evaluation: {during_training: {steps: 0}}", "evaluation.during_training.steps: must be at least 1, got 0."),
        ("evaluation: {during_training: [0]}", "evaluation.during_training.0: must be at least 1, got 0."),
        ("lr: 1", "lr: is not a key of a configuration. Did you mean `train.learning_rate`?"),
        ("learning_rate: 1", "learning_rate: is not a key of a configuration. Did you mean `train.learning_rate`?"),
        ("train.max_steps: 1", "Write `train:` and, indented below it, `max_steps: ...`."),
        ("train: {r: 8}", "train.r: is not an option of `train`. Did you mean `adapter.r`?"),
        ("adapter: {rank: 8}", "adapter.rank: is not an option of `adapter`. Did you mean `r`?"),
        ("train: {epochs: 1}", "train.epochs: is not an option of `train`. Did you mean `num_train_epochs`?"),
        ("method: relpay", "method.name: there is no method `relpay`. Did you mean `replay`?"),
        ("method: {ratio: 1}", "method: needs `name`, the name of a method. There are: seq-lora, inc-lora"),
        ("method: []", "method: is an empty list."),
        ("method: 5", "method: must be the name of a method, or a mapping with `name`, got 5."),
        ("method: [replay, 5]", "method.1: must be the name of a method"),
        ("method: {name: 5}", "method.name: must be the name of a method, got 5."),
        ("method: {name: replay, ratio: 0}", "method.ratio: must be greater than 0, got 0."),
    ],
)
def test_wrong_values(refusal: Refusal, text: str, message: str) -> None:
    (found,) = refusal(text + "\n")
    assert message in found
    assert found.startswith("stream.yaml:5:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "stream.yaml:1:1: The file is empty."),
        ("# nothing\n", "The file is empty."),
        ("- a\n", "The file must hold keys and values, not a list."),
        ("hello\n", 'The file must hold keys and values, not the text "hello".'),
        ("seed: 1\n", "`stream` is missing. Write for example `stream: synthetic`."),
        ("stream: synthetic\n", "`backbone` is missing."),
        ("stream: synthetic\nbackbone:\n", "backbone: needs `path`. Write `path:` with text."),
        ("stream: synthetic\nbackbone: tiny\n", 'backbone: must be a mapping of options, got the text "tiny".'),
        ("stream: synthetic\nbackbone: {path: ''}\n", "backbone.path: must not be empty."),
        ("stream: synthetic\nbackbone: {path: o/n}\n", "backbone: needs `task_type`: what the model is asked to do."),
        ("stream: synthetic\nbackbone: {path: builtin:tiny-lama}\n", "Did you mean `builtin:tiny-llama`?"),
        (
            "stream: synthetic\nbackbone: {path: builtin:tiny-t5, task_type: causal_lm}\n",
            "backbone.task_type: causal_lm does not fit the model builtin:tiny-t5. Write `task_type: seq2seq_lm`.",
        ),
        (
            "stream: synthetic\nbackbone: {path: o/n, task_type: causal}\n",
            "there is no task type `causal`. Did you mean `causal_lm`?",
        ),
        ("stream: syntetic\nbackbone: {path: builtin:tiny-t5}\n", "Did you mean `synthetic`?"),
        ("stream: {}\nbackbone: {path: builtin:tiny-t5}\n", "stream: needs `name`, the name of a stream."),
        ("stream: []\nbackbone: {path: builtin:tiny-t5}\n", "stream.tasks: must not be empty."),
        ("stream: [{name: a}]\nbackbone: {path: builtin:tiny-t5}\n", "needs `train`."),
        ("stream: [{name: a, train: 5}]\nbackbone: {path: builtin:tiny-t5}\n", "must be a path, a mapping with `path`"),
        (
            "stream: {name: cl-benchmark, root: r, ordr: 1}\nbackbone: {path: builtin:tiny-t5}\n",
            "stream.ordr: is not an option of stream cl-benchmark. Did you mean `order`?",
        ),
        ("stream: {name: cl-benchmark}\nbackbone: {path: builtin:tiny-t5}\n", "stream: needs `root`."),
    ],
)
def test_wrong_files(refusal: Refusal, text: str, message: str) -> None:
    assert any(message in line for line in refusal(text, whole=True))


def test_a_misspelt_required_key_is_named_twice_over(refusal: Refusal) -> None:
    assert refusal("evaluation: {during_training: {step: 5}}\n") == [
        "stream.yaml:5:14: evaluation.during_training: needs `steps`. Write `steps:` with a whole number.",
        "stream.yaml:5:32: evaluation.during_training.step: is not an option of `evaluation.during_training`."
        " Did you mean `steps`?",
    ]


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text("x")
    for name, message in {
        "demmo": "There is no such file, and no recipe of this name. Did you mean `demo`?",
        "config.yaml": "Did you mean `config.yml`?",
        ".": "This is a folder, not a configuration.",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_config(name)
        assert message in str(caught.value)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"seed: 1\nrun_name: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:2: This is not UTF-8 text"):
        load_config(file)
