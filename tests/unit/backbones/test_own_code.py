"""Models that bring their own Python code: never run unasked, and a clear word where it cannot run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import dynamic_module_utils
from transformers.utils import hub

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.backbones.language_model import LanguageModel
from evertune.cli.app import main
from evertune.errors import BackboneError, CapabilityError

from .chatglm_folder import MODELING, RAN, TOKENIZATION, write_chatglm
from .conftest import ROWS, row

LENGTHS = {"max_source_length": 96, "max_target_length": 40}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of models is copied and imported from a folder of this test."""
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    for module in (dynamic_module_utils, hub):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path / "modules"), raising=False)
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)


def load(folder: Path, *, trusted: bool = True) -> LanguageModel:
    config = BackboneConfig(path=str(folder), task_type="causal_lm", trust_remote_code=trusted)
    return BACKBONES.get("causal_lm").load(config)


def test_code_is_not_run_unasked(tmp_path: Path) -> None:
    folder = write_chatglm(tmp_path / "glm")
    with pytest.raises(
        BackboneError, match=r"model type `chatglm` needs Python code .* `backbone\.trust_remote_code: true`"
    ):
        load(folder, trusted=False)
    assert not (folder / RAN).exists()


def test_code_of_a_tokenizer_alone_is_not_run_unasked(tmp_path: Path, model_folder) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    for file in model_folder("llama").iterdir():
        if not file.name.startswith("tokenizer"):
            (folder / file.name).write_bytes(file.read_bytes())
    made = write_chatglm(tmp_path / "glm")
    for name in ("tokenizer_config.json", "tokenization_chatglm.py"):
        (folder / name).write_bytes((made / name).read_bytes())
    with pytest.raises(BackboneError, match=r"write `backbone\.trust_remote_code: true`"):
        load(folder, trusted=False)
    assert not (made / RAN).exists()


def test_it_reads_and_answers(tmp_path: Path) -> None:
    backbone = load(write_chatglm(tmp_path / "glm"))
    rows = backbone.encode(ROWS, **LENGTHS)
    assert {encoded.prompt[:2] for encoded in rows} == {(3, 4)}, "the tokenizer's frame, [gMASK] sop"
    assert bytes(index - 5 for index in rows[0].target[:-1]).decode() == "good"
    assert rows[0].target[-1] == backbone.tokenizer.eos_token_id
    answers = backbone.generate(backbone.model, rows, max_new_tokens=3)
    alone = [backbone.generate(backbone.model, [one], max_new_tokens=3)[0] for one in rows]
    assert answers == alone, "padding on the left is not seen"
    together = backbone.loss(backbone.model, backbone.collate(rows))
    apart = sum(backbone.loss(backbone.model, backbone.collate([one])).sum.item() for one in rows)
    assert together.sum.item() == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("target", ["attention_query_value", ("query_key_value",), "attention", "mlp"])
def test_adapters_by_role_and_by_name(tmp_path: Path, target: str | tuple[str, ...]) -> None:
    backbone = load(write_chatglm(tmp_path / "glm"))
    bank = AdapterBank(backbone.model, AdapterSpec(r=2, target=target), task_type="causal_lm", base_path="glm")
    bank.add("a", seed=1)
    bank.apply(AdapterPlan(("a",), ("a",)))
    expected = {"mlp": ["dense_h_to_4h", "dense_4h_to_h"], "attention": ["query_key_value", "dense"]}
    names = expected.get(str(target), ["query_key_value"])
    found = {name.split(".lora_")[0].rpartition(".")[2] for name in bank.trainable_parameters()}
    assert found == set(names)


CONFIG = """
seed: 1
output_dir: run
stream: [{{name: ads, train: train.jsonl, test: test.jsonl, template: none, metrics: [exact_match]}}]
backbone: {{path: glm, task_type: causal_lm, trust_remote_code: {trusted}}}
adapter: {{r: 2, target: [query_key_value]}}
method: seq-lora
train: {{max_steps: 2, per_device_train_batch_size: 2, learning_rate: 1.0e-2, max_source_length: 96,
        max_target_length: 24}}
"""


def write_run(folder: Path, *, trusted: bool) -> Path:
    write_chatglm(folder / "glm")
    for name, count in (("train", 4), ("test", 2)):
        rows = [{"prompt": f"类型#裙 {index}", "completion": f"裙子 {index}"} for index in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    config = folder / "adgen.yaml"
    config.write_text(CONFIG.format(trusted=str(trusted).lower()))
    return config


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_commands_refuse_it_by_the_name_of_the_key(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(write_run(tmp_path, trusted=False))]) == 2
    assert "trust_remote_code: true" in capsys.readouterr().err
    assert not (tmp_path / "glm" / RAN).exists()


def test_a_run_trains_saves_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_run(tmp_path, trusted=True))
    assert main(["validate", config]) == 0
    assert main(["run", config]) == 0
    (adapter,) = (tmp_path / "run" / "stages").glob("*/adapter")
    assert json.loads((adapter / "adapter_config.json").read_text())["target_modules"] == ["query_key_value"]
    assert (adapter / "adapter_model.safetensors").stat().st_size < 20_000
    capsys.readouterr()
    words = ["generate", str(tmp_path / "run"), "--prompt", "类型#裙", "--base", "--max-new-tokens", "3", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"prompt", "answer", "base"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"modeling": "from transformers.utils import gone_function\n" + MODELING},
            r"modeling_chatglm\.py, line \d+: ImportError: cannot import name 'gone_function'",
        ),
        (
            {"modeling": MODELING.replace("self.post_init()", "self.get_head_mask_of_old()")},
            r"modeling_chatglm\.py, line \d+, in .*__init__: AttributeError: .* no attribute 'get_head_mask_of_old'",
        ),
        (
            {"modeling": MODELING.replace(", GenerationMixin)", ")").replace("prepare_inputs_for", "old_inputs_for")},
            r"modeling_chatglm\.py: AttributeError: 'ChatGLMForConditionalGeneration' .* 'generate'",
        ),
        (
            {"modeling": MODELING.replace('return {"input_ids"', 'self._extract_past()\n        return {"input_ids"')},
            r"modeling_chatglm\.py, line \d+, in .*prepare_inputs_for_generation: .* '_extract_past'",
        ),
        (
            {"tokenization": TOKENIZATION.replace("self.first = len", "self.gone_method()\n        self.first = len")},
            r"tokenization_chatglm\.py, line \d+, in .*__init__: AttributeError: .*gone_method",
        ),
    ],
    ids=["name", "method", "generation", "while answering", "tokenizer"],
)
def test_code_for_another_transformers(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    with pytest.raises(BackboneError, match=said) as caught:
        load(write_chatglm(tmp_path / "glm", **changed))
    text = str(caught.value)
    assert "does not run on transformers" in text
    assert "config.json names 4.30.2" in text
    assert "GLM-4" in text
    assert "transformers==4.30.2" in text


def test_a_file_that_such_code_misses_is_not_its_fault(tmp_path: Path) -> None:
    missing = TOKENIZATION.replace("self.first = len", "open('/no/such/vocabulary')\n        self.first = len")
    with pytest.raises(BackboneError, match=r"The tokenizer cannot be loaded: Unable to load vocabulary") as caught:
        load(write_chatglm(tmp_path / "glm", tokenization=missing))
    assert "does not run on transformers" not in str(caught.value)


def test_a_package_that_such_code_needs(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="no_such_package"):
        load(write_chatglm(tmp_path / "glm", modeling="import no_such_package\n" + MODELING))


def test_training_moves_the_fused_projection(tmp_path: Path) -> None:
    backbone = load(write_chatglm(tmp_path / "glm"))
    bank = AdapterBank(backbone.model, AdapterSpec(r=2), task_type="causal_lm", base_path="glm")
    bank.add("a", seed=1)
    bank.apply(AdapterPlan(("a",), ("a",)))
    rows = backbone.encode([row("positive")], **LENGTHS)
    batch = backbone.collate(rows)
    optimizer = torch.optim.SGD(bank.trainable_parameters().values(), lr=0.001)
    before = backbone.loss(bank.model, batch).sum
    before.backward()
    optimizer.step()
    assert backbone.loss(bank.model, batch).sum < before
    folder = tmp_path / "adapter"
    bank.save("a", folder)
    after = backbone.loss(bank.model, batch).sum.item()
    again = AdapterBank(load(tmp_path / "glm").model, AdapterSpec(r=2), task_type="causal_lm", base_path="glm")
    again.load("a", folder)
    again.apply(AdapterPlan(("a",)))
    assert backbone.loss(again.model, batch).sum.item() == pytest.approx(after, rel=1e-6)
