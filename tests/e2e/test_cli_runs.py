"""`run`, `evaluate`, `report` and `generate` on a small run."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from evertune.cli.app import main
from tests.e2e.conftest import SMALL, Cli


def test_a_run_ends_in_a_table_a_report_and_the_next_command(cli: Cli, run_dir: Path) -> None:
    said = cli("run", "demo", *SMALL, "--output-dir", str(run_dir))
    assert said.code == 0
    assert "continuing, 2 of 2 stages are complete" in said.out
    assert "Average accuracy" in said.out
    assert "baselines of topic: majority label 0." in said.out
    assert f"report {run_dir / 'report.html'}" in said.out
    assert said.out.splitlines()[-3:] == [
        "Next:",
        f"  evertune generate {run_dir}",
        f"  evertune run demo --set method=seq-lora --output-dir {run_dir}-seq-lora",
    ]


def test_the_result_as_json(cli: Cli, run_dir: Path) -> None:
    said = cli("run", "demo", *SMALL, "--output-dir", str(run_dir), "--json")
    found = said.json
    assert found["run_dir"] == str(run_dir)
    assert found["matrix"] == json.loads((run_dir / "matrix.json").read_text())
    assert found["summary"] == json.loads((run_dir / "summary.json").read_text())
    assert "Average accuracy" in said.err


def test_fresh_moves_the_old_run_aside(cli: Cli, run_dir: Path) -> None:
    old = (run_dir / "manifest.json").read_bytes()
    said = cli("run", "demo", *SMALL, "--set=evaluation.zero_shot=false", "--output-dir", str(run_dir), "--fresh")
    assert said.code == 0
    (aside,) = run_dir.parent.glob("small.old-*")
    assert (aside / "manifest.json").read_bytes() == old
    assert not (run_dir / "zero_shot").exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["run", "demo", *SMALL, "--set=evaluation.zero_shot=false", "--set=train.save_steps=1"]
    words += ["--set=train.max_steps=30", "--set=stream.tasks=[topic]", "--output-dir", str(folder)]

    def press() -> None:
        while not any(folder.glob("checkpoint/*/step-*/*")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    said = cli(*words)
    assert said.code == 130
    assert "the state is saved. Run the same command again to continue." in said.err
    assert cli(*words).code == 0
    assert not (folder / "checkpoint").exists()


def test_evaluate_finds_the_scores_of_the_run_again(cli: Cli, run_dir: Path) -> None:
    for stage in (1, 2):
        found = cli("evaluate", str(run_dir), "--stage", str(stage), "--tasks", "sentiment,topic", "--json").json
        (metrics,) = run_dir.glob(f"stages/0{stage}-*/metrics.json")
        scores = json.loads(metrics.read_text())["scores"]
        for task in ("sentiment", "topic")[:stage]:  # the run scored what it had seen
            assert found["scores"][task]["score"] == scores[task]["score"]
            assert found["scores"][task]["loss"] == pytest.approx(scores[task]["loss"], abs=1e-5)
    assert "mean of tasks" in cli("evaluate", str(run_dir)).out


def test_evaluate_leaves_the_run_as_it_is(cli: Cli, run_dir: Path) -> None:
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert cli("evaluate", str(run_dir), "--decoding", "label_likelihood").code == 0
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_published_keys(cli: Cli, run_dir: Path, tmp_path: Path) -> None:
    found = cli("evaluate", str(run_dir), "--format", "predict_results").json
    assert {"predict_exact_match", "predict_exact_match_for_topic", "predict_rougeL_for_sentiment"} <= set(found)
    assert found["predict_samples"] == 8
    out = tmp_path / "out"
    assert cli("evaluate", str(run_dir), "--format", "predict_results", "--output", str(out)).code == 0
    kept = json.loads((out / "predict_results.json").read_text())
    assert kept["predict_exact_match"] == found["predict_exact_match"]


def test_results_and_predictions_in_a_folder_or_a_file(cli: Cli, run_dir: Path, tmp_path: Path) -> None:
    assert cli("evaluate", str(run_dir), "--output", str(tmp_path / "out")).code == 0
    lines = (tmp_path / "out" / "predictions" / "topic.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"topic/test/{number}" for number in range(4)]
    assert cli("evaluate", str(run_dir), "--output", str(tmp_path / "out.json")).code == 0
    assert json.loads((tmp_path / "out.json").read_text())["stage"] == 2


def test_other_rows_from_a_file_and_from_a_configuration(cli: Cli, run_dir: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "x", "completion": "y"}\n{"prompt": "z", "completion": "y"}\n')
    found = cli("evaluate", str(run_dir), "--data", str(rows), "--json").json
    assert found["scores"]["rows"]["count"] == 2
    other = tmp_path / "other.yaml"
    other.write_text(
        "stream: {name: synthetic, tasks: [topic, arithmetic], train_rows: 9, test_rows: 3}\n"
        "backbone: {path: builtin:tiny-llama}\n"
    )
    found = cli("evaluate", str(run_dir), "--data", str(other), "--json").json
    assert {name: scores["count"] for name, scores in found["scores"].items()} == {"topic": 3, "arithmetic": 3}
    found = cli("evaluate", str(run_dir), "--data", str(other), "--tasks", "topic", "--json").json
    assert set(found["scores"]) == {"topic"}


def test_report_again(cli: Cli, run_dir: Path) -> None:
    (run_dir / "report.html").unlink()
    said = cli("report", str(run_dir))
    assert said.code == 0
    assert said.out.endswith(f"report {run_dir / 'report.html'}\n")
    assert "<html" in (run_dir / "report.html").read_text()
    found = cli("report", str(run_dir), "--json").json
    assert found["matrix"] == json.loads((run_dir / "matrix.json").read_text())


def test_generate_answers_a_prompt(cli: Cli, run_dir: Path) -> None:
    text = "Choose the topic: sports, science, business or politics.\nThe coach met the striker.\nAnswer:"
    plain = cli("generate", str(run_dir), "--prompt", text)
    found = cli("generate", str(run_dir), "--prompt", text, "--base", "--json").json
    assert plain.out == f"{found['answer']}\n"
    assert set(found) == {"prompt", "answer", "base"}
    assert found["prompt"] == text
    assert "tuned: " in cli("generate", str(run_dir), "--prompt", text, "--base").out


def test_generate_for_a_task_puts_its_instruction_around_the_text(cli: Cli, run_dir: Path) -> None:
    row = json.loads((run_dir / "stages/02-topic/predictions/topic.jsonl").read_text().splitlines()[0])
    (shown,) = cli("inspect", "demo", *SMALL, "--task", "topic", "--split", "test", "--rows", "1", "--json").json
    text = shown["shown"][0]["prompt"].splitlines()[-2]
    assert cli("generate", str(run_dir), "--task", "topic", "--prompt", text, "--json").json == {
        "prompt": text,
        "answer": row["prediction"],
    }


def test_generate_answers_files(cli: Cli, run_dir: Path, tmp_path: Path) -> None:
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\n\ntwo\n")
    rows = tmp_path / "prompts.jsonl"
    rows.write_text('{"prompt": "one"}\n"two"\n')
    answers = cli("generate", str(run_dir), "--file", str(lines), "--max-new-tokens", "3", "--json").json
    assert [answer["prompt"] for answer in answers] == ["one", "two"]
    assert cli("generate", str(run_dir), "--file", str(rows), "--max-new-tokens", "3", "--json").json == answers
    shown = cli("generate", str(run_dir), "--file", str(lines), "--max-new-tokens", "3").out
    assert shown.startswith("> one\n")


def test_a_conversation_line_by_line(cli: Cli, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n/exit\nthree\n"))
    said = cli("generate", str(run_dir), "--max-new-tokens", "3", "--json")
    assert said.code == 0
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["one", "two"]
    assert "Every line is answered by itself" in said.err


@pytest.fixture(scope="module")
def chat_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that has a chat template, on conversations."""
    import shutil

    from evertune.backbones.builtin import builtin_folder

    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(builtin_folder("tiny-llama"), folder / "model")
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}"
    )
    (folder / "model" / "chat_template.jinja").write_text(template + "assistant: {% endif %}")
    turns = [[{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i}"}] for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    (folder / "c.yaml").write_text(
        "stream: [{name: say, train: rows.jsonl}]\nbackbone: {path: model, task_type: causal_lm}\n"
        "evaluation: {zero_shot: false}\noutput_dir: run\n"
    )
    assert main(["run", str(folder / "c.yaml")]) == 0
    return folder / "run"


def test_a_conversation_is_kept_where_there_is_a_chat_template(
    cli: Cli, chat_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evertune.cli.answering import Answerer

    asked: list[list[dict[str, str]]] = []
    reply = Answerer.reply

    def listening(self: Answerer, turns: list[dict[str, str]]) -> dict[str, str]:
        asked.append([dict(turn) for turn in turns])
        return reply(self, turns)

    monkeypatch.setattr(Answerer, "reply", listening)
    monkeypatch.setattr("sys.stdin", io.StringIO("say 1\nsay 2\n"))
    said = cli("generate", str(chat_run), "--max-new-tokens", "4", "--base")
    assert said.code == 0
    assert "The conversation is kept" in said.err
    assert [turn["role"] for turn in asked[1]] == ["user", "assistant", "user"]
    assert asked[1][2]["content"] == "say 2"
    answer = cli("generate", str(chat_run), "--task", "say", "--prompt", "say 3", "--json").json
    assert set(answer) == {"prompt", "answer"}
