# ruff: noqa: E501 - a table with one wrong input a line is read more easily than one that is wrapped
"""Wrong inputs, one a line: what each is told, with which exit code, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evertune.backbones.builtin import builtin_folder
from tests.e2e.conftest import SMALL, Cli

MODEL = "backbone: {path: builtin:tiny-llama}\n"
TOPIC = "stream: {name: synthetic, tasks: [topic], train_rows: 12, test_rows: 4}\n"
GOOD = TOPIC + MODEL
INSTRUCTIONS = "".join(
    json.dumps({"instruction": "Say.", "input": f"{n}", "output": f"o{n}"}) + "\n" for n in range(30)
)
LABELLED = "".join(json.dumps({"text": f"t{n}", "label": ["neg", "pos"][n % 2]}) + "\n" for n in range(30))
TEST = "".join(json.dumps({"text": f"test {n}", "label": ["neg", "pos"][n % 2]}) + "\n" for n in range(4))


def tasks(*written: str) -> str:
    return f"stream: [{', '.join(written)}]\n{MODEL}"


def model(options: str) -> str:
    return f"{TOPIC}backbone: {{{options}}}\n"


def cl(options: str) -> str:
    return f"stream: {{name: cl-benchmark, {options}}}\n{MODEL}"


@dataclass(frozen=True)
class Wrong:
    """One wrong input.

    Attributes:
        name: What is wrong.
        message: A regular expression for the whole of standard error's last lines; `{here}` is the current folder.
        config: Text of c.yaml.
        words: The command.
        files: Files beside it.
        code: The exit code.
    """

    name: str
    message: str
    config: str = GOOD
    words: tuple[str, ...] = ("run", "c.yaml")
    files: dict[str, str] = field(default_factory=dict)
    code: int = 2


CONFIGURATION = [
    Wrong("no such file", r"d\.yaml: There is no such file, and no recipe of this name\. Did you mean `c\.yaml`\?", words=("run", "d.yaml")),
    Wrong("no such recipe", r"demmo: There is no such file, and no recipe of this name\. Did you mean `demo`\?", words=("run", "demmo")),
    Wrong("empty file", r"c\.yaml:1:1: The file is empty\. Write at least `stream:` and `backbone:`; .*", ""),
    Wrong("a list", r"c\.yaml:1:1: The file must hold keys and values, not a list\. .*", "- a\n"),
    Wrong("a tab", r"c\.yaml:2:1: A tab stands where only spaces may indent\. Replace it by spaces\.", "stream:\n\tname: x\n"),
    Wrong("a key twice", r"c\.yaml:3:1: backbone: is written twice, first at line 2\. Keep one of the two\.", GOOD + MODEL),
    Wrong("an open bracket", r"c\.yaml:3:7: This list is not closed, .*", GOOD + "seed: [1\n"),
    Wrong("typo in a section", r"c\.yaml:3:1: trian: is not a key of a configuration\. Did you mean `train`\?", GOOD + "trian: {}\n"),
    Wrong("typo in stream", r"c\.yaml:1:27: stream\.test_row: is not an option of stream synthetic\. Did you mean `test_rows`\?", f"stream: {{name: synthetic, test_row: 4}}\n{MODEL}"),
    Wrong("typo in a task", r"c\.yaml:1:36: stream\.tasks\.0\.tset: is not an option of `stream\.tasks\.0`\. Did you mean `test`\?", tasks("{name: t, train: a.jsonl, tset: b}")),
    Wrong("typo in backbone", r"c\.yaml:2:40: backbone\.dtpe: is not an option of `backbone`\. Did you mean `dtype`\?", model("path: 'builtin:tiny-llama', dtpe: x")),
    Wrong("typo in adapter", r"c\.yaml:3:11: adapter\.lora_alpa: is not an option of `adapter`\. Did you mean `lora_alpha`\?", GOOD + "adapter: {lora_alpa: 8}\n"),
    Wrong("typo in method", r"c\.yaml:3:24: method\.buffer_sise: is not an option of method replay\. Did you mean `buffer_size`\?", GOOD + "method: {name: replay, buffer_sise: 8}\n"),
    Wrong("typo in train", r"c\.yaml:3:9: train\.lerning_rate: is not an option of `train`\. Did you mean `learning_rate`\?", GOOD + "train: {lerning_rate: 1}\n"),
    Wrong("typo in evaluation", r"c\.yaml:3:14: evaluation\.num_beam: is not an option of `evaluation`\. Did you mean `num_beams`\?", GOOD + "evaluation: {num_beam: 1}\n"),
    Wrong("typo in per_task", r"c\.yaml:3:20: per_task\.topic\.train\.max_step: is not an option of `train`\. Did you mean `max_steps`\?", GOOD + "per_task: {topic: {train.max_step: 1}}\n"),
    Wrong("typo in after_first", r"c\.yaml:3:15: after_first\.train\.max_step: is not an option of `train`\. Did you mean `max_steps`\?", GOOD + "after_first: {train.max_step: 1}\n"),
    Wrong("typo in --set", r"--set train\.lr: is not an option of `train`\. Did you mean `learning_rate`\?", words=("run", "c.yaml", "--set", "train.lr=1")),
    Wrong("--set without value", r"--set train\.max_steps: This is not of the form key\.path=value\. .*", words=("run", "c.yaml", "--set", "train.max_steps")),
    Wrong("text for a number", r'c\.yaml:3:20: train\.max_steps: must be a whole number, got the text "8"\. Write 8 without quotation marks\.', GOOD + 'train: {max_steps: "8"}\n'),
    Wrong("yes for true", r'c\.yaml:3:26: train\.group_by_length: must be true or false, got the text "yes"\. Write true\.', GOOD + "train: {group_by_length: yes}\n"),
    Wrong("a fraction of a step", r"c\.yaml:3:20: train\.max_steps: must be a whole number, got 1\.5\.", GOOD + "train: {max_steps: 1.5}\n"),
    Wrong("out of range", r"c\.yaml:3:24: train\.learning_rate: must be greater than 0, got -0\.001\.", GOOD + "train: {learning_rate: -1e-3}\n"),
    Wrong("not one of", r'c\.yaml:3:16: train\.optim: "adamw" is not one of: adamw_torch, sgd, adafactor\. Did you mean `adamw_torch`\?', GOOD + "train: {optim: adamw}\n"),
    Wrong("a mapping for a list", r"c\.yaml:3:19: adapter\.layers: must be a list of whole numbers, got a mapping\..*", GOOD + "adapter: {layers: {}}\n"),
    Wrong("no such method", r"c\.yaml:3:9: method\.name: there is no method `recall`\. Write one of: seq-lora, .*", GOOD + "method: recall\n"),
    Wrong("no such stream", r"c\.yaml:1:9: stream\.name: there is no stream `cl_benchmark`\. Did you mean `cl-benchmark`\?", f"stream: cl_benchmark\n{MODEL}"),
    Wrong("no such kind of adapter", r"c\.yaml:3:17: adapter\.kind: there is no adapter kind `loar`\. Did you mean `lora`\?", GOOD + "adapter: {kind: loar}\n"),
    Wrong("two methods for one thing", r"c\.yaml:3:1: method: `seq-lora` and `inc-lora` both decide on which adapters learn\. Keep one of them\.", GOOD + "method: [seq-lora, inc-lora]\n"),
    Wrong("best of nothing", r"c\.yaml:3:14: evaluation\.keep: `best` chooses among evaluations while training, and there are none\. .*", GOOD + "evaluation: {keep: best}\n"),
    Wrong("warm-up without effect", r"c\.yaml:3:9: train\.warmup_steps: has no effect: the schedule `constant` has no warm-up\. .*", GOOD + "train: {warmup_steps: 5}\n"),
    Wrong("options of an unknown task", r"c\.yaml:3:12: .*The stream has no task `topics`\. Did you mean `topic`\?", GOOD + "per_task: {topics: {train.max_steps: 1}}\n"),
    Wrong("no dev rows to score", r"c\.yaml:3:14: .*Task `topic` has no dev rows to score while training\. .*", GOOD.replace("test_rows: 4", "test_rows: 4, dev_fraction: 0") + "evaluation: {during_training: epoch}\n"),
]  # fmt: skip

DATA = [
    Wrong("no such rows", r"no\.jsonl: There is no such file\. Did you mean `now\.jsonl`\?", tasks("{name: t, train: no.jsonl}"), files={"now.jsonl": INSTRUCTIONS}),
    Wrong("no rows", r"a\.jsonl: This file holds no rows\.", tasks("{name: t, train: a.jsonl}"), files={"a.jsonl": ""}),
    Wrong("a bad JSON line", r"a\.jsonl:31: This line is not JSON: .*", tasks("{name: t, train: a.jsonl}"), files={"a.jsonl": INSTRUCTIONS + '{"input": \n'}),
    Wrong("a row without its key", r"a\.jsonl:31: The key `output` is missing; rows of this file are \{instruction, input, output\}, the keys are \[answer\]\.", tasks("{name: t, train: a.jsonl}"), files={"a.jsonl": INSTRUCTIONS + '{"answer": "x"}\n'}),
    Wrong("an unknown label", r'b\.jsonl:1: label "psitive" is not one of \[neg, pos\]\. .*', tasks("{name: t, train: a.jsonl, test: b.jsonl}"), files={"a.jsonl": LABELLED, "b.jsonl": '{"text": "x", "label": "psitive"}\n'}),
    Wrong("one's own dev equal to test", r"b\.jsonl: 4 of 4 dev rows are test rows of t, so dev would select by test\. Remove `dev` .*", tasks("{name: t, train: a.jsonl, dev: b.jsonl, test: b.jsonl}"), files={"a.jsonl": LABELLED, "b.jsonl": TEST}),
    Wrong("two tasks of one name", r"c\.yaml:1:1: stream\.tasks: Two tasks are named `t`\. Give each its own name\.", tasks("{name: t, train: a.jsonl}", "{name: t, train: a.jsonl}"), files={"a.jsonl": LABELLED}),
    Wrong("a name that is no file name", r"c\.yaml:1:1: stream\.tasks: The task name '\.\./x' cannot be a file name\. .*", tasks("{name: ../x, train: a.jsonl}"), files={"a.jsonl": LABELLED}),
    Wrong("an unknown kind of file", r"a\.xyz: Files ending in `\.xyz` are not read\. Use one of: \.json, .*", tasks("{name: t, train: a.xyz}"), files={"a.xyz": LABELLED}),
    Wrong("an unknown template", r"c\.yaml:1:\d+: stream\.tasks\.0\.template: The template 'alpacca' .* Did you mean `alpaca`\?", tasks("{name: t, train: a.jsonl, template: alpacca}"), files={"a.jsonl": LABELLED}),
    Wrong("F1 of free text", r"c\.yaml:1:\d+: stream\.tasks\.0\.metrics: The metric f1 needs a closed set of labels, .*", tasks("{name: t, train: a.jsonl, metrics: [f1]}"), files={"a.jsonl": INSTRUCTIONS}),
    Wrong("a name that is too long", r"c\.yaml:1:1: stream\.tasks: The task name 'x{20}'\.\.\. has 101 characters\. Use at most 100\.", tasks(f"{{name: {'x' * 101}, train: a.jsonl}}"), files={"a.jsonl": LABELLED}),
    Wrong("names that differ in capitals alone", r"c\.yaml:1:1: stream\.tasks: The task names `T` and `t` differ in capital letters alone\. .*", tasks("{name: T, train: a.jsonl}", "{name: t, train: a.jsonl}"), files={"a.jsonl": LABELLED}),
    Wrong("an option of the stream in a task", r"c\.yaml:1:64: stream\.tasks\.0\.dev_fraction: is not an option .* Did you mean `stream\.dev_fraction`\?", "stream: {name: instructions, tasks: [{name: t, train: a.jsonl, dev_fraction: 0.2}]}\n" + MODEL, files={"a.jsonl": LABELLED}),
    Wrong("conversations for a model without a chat template", r".*: Row t/train/\d+ is a conversation, but the tokenizer of this model has no chat template\. Use a chat model\. .*", tasks("{name: t, train: a.jsonl}"), files={"a.jsonl": "".join(json.dumps({"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "b"}]}) + "\n" for n in range(9))}),
    Wrong("a placeholder with a format", r"c\.yaml:1:36: stream\.tasks\.0\.template: The placeholder \{input\} of the template is followed by a format\. Write \{input\} alone\.", tasks("{name: t, train: a.jsonl, template: '{input!r}'}"), files={"a.jsonl": LABELLED}),
    Wrong("a seed without end", r"c\.yaml:3:7: seed: must be at most 9223372036854775807, got 99999999999999999999\.", GOOD + "seed: 99999999999999999999\n"),
    Wrong("no such synthetic task", r"c\.yaml:1:27: stream\.tasks: There is no synthetic task `topics`\. Did you mean `topic`\?", f"stream: {{name: synthetic, tasks: [topics]}}\n{MODEL}"),
    Wrong("no benchmark there", r"c\.yaml:1:30: stream\.root: There is no folder {here}/CL\. .*", cl("root: CL, order: 1")),
    Wrong("an order with an unknown task", r"c\.yaml:1:40: stream\.order: There is no data set `agnewz`\. Did you mean `agnews`\? .*", cl("root: CL, order: [agnewz]"), files={f"CL/TC/agnews/{split}.json": '[{"sentence": "a", "label": "b"}]' for split in ("train", "test")}),
    Wrong("no order", r"c\.yaml:1:1: stream: Exactly one of `order` and `configs` is needed\. .*", cl("root: CL"), files={"CL/TC/agnews/train.json": "[]"}),
    Wrong("an instruction longer than the room for it", r"10 more rows have the same fault\.", tasks("{name: t, train: a.jsonl, instruction: Say which of the two words of the language this is.}") + "train: {max_source_length: 8}\n", ("validate", "c.yaml"), files={"a.jsonl": LABELLED}),
]  # fmt: skip

MODELS = [
    Wrong("no such built-in model", r"c\.yaml:2:18: backbone\.path: there is no built-in model `tiny-lama`\. Did you mean `builtin:tiny-llama`\?", model("path: 'builtin:tiny-lama'")),
    Wrong("no task type", r"c\.yaml:2:1: backbone: needs `task_type`: what the model is asked to do\. .*", model("path: owner/name")),
    Wrong("another task type", r"c\.yaml:2:51: backbone\.task_type: seq2seq_lm does not fit the model builtin:tiny-llama\. Write `task_type: causal_lm`\.", model("path: 'builtin:tiny-llama', task_type: seq2seq_lm")),
    Wrong("no such folder", r"{here}/nothing: There is no folder `nothing` in {here}\. It holds: c\.yaml.*", model("path: ./nothing, task_type: causal_lm")),
    Wrong("a folder without a model", r"{here}/m: This folder holds no model: there is no config\.json\. .*", model("path: m, task_type: causal_lm"), files={"m/notes.txt": ""}),
    Wrong("a hub id without network", r"owner/name: `owner/name` is a hub id, not in the local cache, and the hub is switched off .*", model("path: owner/name, task_type: causal_lm")),
    Wrong("a module that does not exist", r"c\.yaml:3:11: adapter\.target: No linear module of this model is called `q_prjo`\. Did you mean `q_proj`\? .*", GOOD + "adapter: {target: [q_prjo]}\n"),
    Wrong("a layer that does not exist", r"c\.yaml:3:11: adapter\.layers: No layer with a target has the index 9\. .*", GOOD + "adapter: {layers: [9]}\n"),
    Wrong("no adapter to start from", r"{here}/nothing: There is no such folder\..*", GOOD + "adapter: {start_from: nothing}\n"),
    Wrong("a revision of a folder", r"c\.yaml:2:40: backbone\.revision: only a hub id has revisions; this model is a folder\. Remove the key\.", model("path: 'builtin:tiny-llama', revision: x")),
]  # fmt: skip

OUTPUT = [
    Wrong("an output folder below a file", r"{here}/file/run: Cannot write here: Not a directory\. Choose another `output_dir`\.", files={"file": ""}, words=("run", "c.yaml", "--output-dir", "file/run")),
    Wrong("an output folder that is a file", r"{here}/file: Cannot write here: Not a directory\. Choose another `output_dir`\.", files={"file": ""}, words=("run", "c.yaml", "--output-dir", "file")),
    Wrong("a run without its configuration", r"{here}/mine/config\.yaml: This file of the run is missing\. Restore it, give another `--output-dir`, or .*", files={"mine/manifest.json": "{}"}, words=("run", "c.yaml", "--output-dir", "mine")),
    Wrong("an output folder where nobody may write", r"/proc/run: Cannot write here: .*\. Choose another `output_dir`\.", words=("run", "c.yaml", "--output-dir", "/proc/run")),
    Wrong("an output folder of something else", r"{here}/mine: This folder holds files that do not belong to a run\. Choose another `output_dir`\.", files={"mine/thesis.tex": "x"}, words=("run", "c.yaml", "--output-dir", "mine")),
    Wrong("nothing to resume", r"{here}/runs/c: There is no run to resume\. Leave out `--resume` to start one\.", words=("run", "c.yaml", "--resume")),
]  # fmt: skip

VERBS = [
    Wrong("a verb that does not exist", r"evertune: There is no verb `evalute`\. Did you mean `evaluate`\?", words=("evalute", "x")),
    Wrong("no run there", r"nothing: There is no such folder\. Name the `output_dir` of a run\.", words=("evaluate", "nothing")),
    Wrong("a folder that is no run", r"mine: This is not the folder of a run: it has no config\.yaml\. Name the `output_dir` of a run\.", files={"mine/x": ""}, words=("generate", "mine", "--prompt", "x")),
    Wrong("no report without a run", r"mine: There is no run here: no manifest\.json\. .*", files={"mine/x": ""}, words=("report", "mine")),
    Wrong("rows of an unknown task", r"--task: There is no task `topics` in the stream\. Did you mean `topic`\?", words=("inspect", "c.yaml", "--task", "topics")),
    Wrong("an unknown split", r"--split: There is no split `tset`\. Did you mean `test`\?", words=("inspect", "c.yaml", "--split", "tset")),
    Wrong("a thing that does not exist", r"evertune describe: There is nothing called `repaly`\. Did you mean `replay`\?", words=("describe", "repaly")),
    Wrong("a kind that does not exist", r"evertune list: There is no kind `method`\. Did you mean `methods`\?", words=("list", "method")),
    Wrong("a starter over a file", r"c\.yaml: This exists already\. Name another file, or remove it\.", words=("init", "c.yaml")),
    Wrong("a starter for rows that are not there", r"a\.jsonl: There is no such file\. Name the file that holds your rows\.", words=("init", "new.yaml", "--data", "a.jsonl")),
]  # fmt: skip

TABLE = [*CONFIGURATION, *DATA, *MODELS, *OUTPUT, *VERBS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def last_line(err: str) -> str:
    return err.rstrip("\n").rpartition("\n")[2]


def test_the_table_is_long_enough_and_names_nothing_twice() -> None:
    assert len(TABLE) >= 60
    assert len({wrong.name for wrong in TABLE}) == len(TABLE)


@pytest.mark.parametrize("wrong", TABLE, ids=lambda wrong: wrong.name)
def test_wrong_inputs(cli: Cli, here: Path, wrong: Wrong) -> None:
    for name, text in {"c.yaml": wrong.config, **wrong.files}.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text, encoding="utf-8")
    before = files_in(here)
    said = cli(*wrong.words)
    assert said.code == wrong.code
    assert re.fullmatch(wrong.message.replace("{here}", re.escape(str(here))), last_line(said.err)), said.err
    assert "Traceback" not in said.err
    assert files_in(here) == before


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damaged_model(here: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(builtin_folder("tiny-llama"), here / "m")
    damage(here / "m")
    (here / "c.yaml").write_text(model("path: m, task_type: causal_lm"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: cut(m / "model.safetensors"), r"/m/model\.safetensors: The weights cannot be read: .*"),
        (lambda m: (m / "model.safetensors").unlink(), r"/m: There are no weights in this folder .*"),
        (lambda m: cut(m / "config.json"), r"/m.*: .*config\.json.*"),
        (lambda m: cut(m / "tokenizer.json"), r"/m.*: .*tokenizer.*"),
    ],
    ids=["weights cut", "no weights", "configuration cut", "tokenizer cut"],
)
def test_damaged_models(cli: Cli, here: Path, damage: Callable[[Path], None], message: str) -> None:
    damaged_model(here, damage)
    said = cli("run", "c.yaml")
    assert said.code == 2
    assert re.fullmatch(re.escape(str(here)) + message, last_line(said.err)), said.err
    assert not (here / "runs").exists()


DAMAGED_RUNS = {
    "truncated adapter": (
        "stages/02-topic/adapter/adapter_model.safetensors",
        r"small/stages/02-topic/adapter/adapter_model\.safetensors: This file is missing or is not the one that the run "
        r"wrote\. Restore it, or start again with `--fresh`\.",
    ),
    "truncated manifest": ("manifest.json", r"small/manifest\.json: This file is damaged: .*"),
    "truncated configuration": (
        "config.yaml",
        r"small/config\.yaml: This file is not the one that the run wrote\. Restore it\.",
    ),
}


@pytest.mark.parametrize(("file", "message"), DAMAGED_RUNS.values(), ids=DAMAGED_RUNS)
@pytest.mark.parametrize("verb", [("evaluate", "small"), ("generate", "small", "--prompt", "x")], ids=lambda v: v[0])
def test_damaged_runs(cli: Cli, run_dir: Path, verb: tuple[str, ...], file: str, message: str) -> None:
    cut(run_dir / file)
    before = files_in(run_dir)
    said = cli(*verb)
    assert said.code == 2
    assert re.fullmatch(message, last_line(said.err)), said.err
    assert files_in(run_dir) == before


ON_A_RUN = {
    "stage": (("evaluate", "small", "--stage", "9"), r"--stage: Stage 9 is not trained\. Write one of 1, 2\."),
    "task": (("evaluate", "small", "--tasks", "topics"), r"--tasks: This run has no task `topics`\. Did you mean `topic`\?"),
    "format": (("evaluate", "small", "--format", "tabel"), r"--format: `tabel` is not one of: .* Did you mean `table`\?"),
    "decoding": (("evaluate", "small", "--decoding", "greedy"), r"--decoding: `greedy` is not one of: generate, .*"),
    "output over the run": (("evaluate", "small", "--output", "small/matrix.json"), r"--output: This is inside the run, .*"),
    "output into the run": (("evaluate", "small", "--output", "small"), r"--output: This is inside the run, .*"),
    "rows": (("evaluate", "small", "--data", "no.jsonl"), r"no\.jsonl: There is no such file\."),
    "task of generate": (("generate", "small", "--task", "topics", "--prompt", "x"), r"--task: This run has no task .*"),
    "prompt and file": (("generate", "small", "--prompt", "x", "--file", "f"), r"--prompt: A prompt and a file at once\..*"),
    "no file": (("generate", "small", "--file", "no.txt"), r"no\.txt: Cannot read this: No such file or directory\."),
    "empty file": (("generate", "small", "--file", "empty.txt"), r"empty\.txt: This file holds no prompts\. .*"),
    "bad lines": (("generate", "small", "--file", "bad.jsonl"), r"bad\.jsonl:2: This row has no `prompt`\. .*"),
    "too long": (("generate", "small", "--file", "long.txt"), r"prompt 1: \d+ tokens and \d+ of an answer; the model has 512\."),
    "another run's folder": (
        ("run", "demo", "--output-dir", "small"),
        r"  Give another `--output-dir`, or `--fresh` to move the old run aside\.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), ON_A_RUN.values(), ids=ON_A_RUN)
def test_wrong_questions_to_a_run(cli: Cli, run_dir: Path, here: Path, words: tuple[str, ...], message: str) -> None:
    (here / "empty.txt").write_text("\n")
    (here / "bad.jsonl").write_text('{"prompt": "x"}\n{"text": "x"}\n')
    (here / "long.txt").write_text("a word and " * 400)
    before = files_in(run_dir)
    said = cli(*words)
    assert said.code == 2
    assert re.fullmatch(message, last_line(said.err)), said.err
    assert files_in(run_dir) == before


def test_the_difference_to_the_run_that_is_there_is_shown(cli: Cli, run_dir: Path) -> None:
    said = cli("run", "demo", *SMALL, "--set=seed=7", "--output-dir", str(run_dir))
    assert said.code == 2
    assert "This folder holds a run of another configuration (there -> asked for):\n  seed: 42 -> 7\n" in said.err


def test_an_instruction_that_is_too_long_is_named_row_by_row(cli: Cli, here: Path) -> None:
    (here / "a.jsonl").write_text(INSTRUCTIONS.replace("Say.", "Say which of the two words of the language this is."))
    (here / "c.yaml").write_text(tasks("{name: t, train: a.jsonl}") + "train: {max_source_length: 9}\n")
    said = cli("validate", "c.yaml").err.splitlines()
    message = (
        r"t/(train|dev|test)/\d+: Without any input text the prompt still has \d+ tokens; `max_source_length` is 9\. .*"
    )
    assert len([line for line in said if re.fullmatch(message, line)]) == 20


ADAPTERS = {
    "another base model": (
        "adapter: {start_from: small/stages/01-sentiment}\nbackbone: {path: builtin:tiny-t5}\n",
        "This adapter belongs to the base model `.*tiny-llama`, but the model here is `.*tiny-t5`",
    ),
    "other modules": (
        f"adapter: {{start_from: small/stages/01-sentiment, target: mlp}}\n{MODEL}",
        "These tensors belong to modules without an adapter here: .*q_proj",
    ),
    "another rank": (
        f"adapter: {{start_from: small/stages/01-sentiment, target: all-linear, r: 4}}\n{MODEL}",
        "`r` is 8 there and 4 here",
    ),
    "a run instead of an adapter": (
        f"adapter: {{start_from: small}}\n{MODEL}",
        r"small/adapter_config\.json: This file is missing\. Name the folder of a peft adapter, ",
    ),
}


@pytest.mark.parametrize(("text", "message"), ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.usefixtures("run_dir")
def test_adapters_that_do_not_fit(cli: Cli, here: Path, text: str, message: str) -> None:
    (here / "c.yaml").write_text(TOPIC + text)
    for verb in ("run", "validate"):
        said = cli(verb, "c.yaml")
        assert said.code == 2
        assert re.search(message, said.err), said.err
    assert not (here / "runs").exists()


def test_a_truncated_adapter_to_start_from(cli: Cli, here: Path, run_dir: Path) -> None:
    cut(run_dir / "stages/01-sentiment/adapter/adapter_model.safetensors")
    (here / "c.yaml").write_text(GOOD + "adapter: {start_from: small/stages/01-sentiment, target: all-linear}\n")
    said = cli("run", "c.yaml")
    assert said.code == 2
    assert "adapter_model.safetensors: This file cannot be read: " in said.err
    assert not (here / "runs").exists()


# Room for all files of a run but the weights of the adapter (more than 200 kB).
LIMIT = 150_000


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(here: Path) -> None:
    words = [sys.executable, "-m", "evertune", "run", "demo", *SMALL, "--set=evaluation.zero_shot=false"]
    words += ["--output-dir", "run"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

    done = subprocess.run(words, capture_output=True, text=True, timeout=300, preexec_fn=limit)
    assert done.returncode == 1
    where = re.escape(str(here / "run/stages/01-sentiment/adapter"))
    message = rf"{where}.*: Cannot write: File too large\. Free some space and run the same command again: .*"
    assert re.fullmatch(message, last_line(done.stderr)), done.stderr
    left = [path for path in (here / "run").rglob("*") if ".tmp" in path.name or path.name == "adapter"]
    assert left == []
    manifest = json.loads((here / "run" / "manifest.json").read_text())
    assert [stage["status"] for stage in manifest["stages"]] == ["pending", "pending"]
    again = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "continuing, 0 of 2 stages are complete" in again.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(cli: Cli, here: Path) -> None:
    (here / "c.yaml").write_text(GOOD)
    (here / "closed").mkdir(mode=0o500)
    said = cli("run", "c.yaml", "--output-dir", "closed/run")
    assert said.code == 2
    assert "Cannot write here: Permission denied." in said.err
