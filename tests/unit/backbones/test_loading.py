"""Loading: the same model in every way of saving it, and one clear line for every way of breaking it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from evertune.backbones import BACKBONES, loading
from evertune.backbones.base import BackboneConfig
from evertune.backbones.causal_lm import CausalLM
from evertune.backbones.fingerprint import fingerprint
from evertune.backbones.loading import build_skeleton, describe, load_tokenizer
from evertune.backbones.seq2seq_lm import Seq2SeqLM
from evertune.errors import BackboneError, CapabilityError

from .conftest import CAUSAL, ROWS, SEQ2SEQ, build_model, task_type, train_tokenizer

Folder = Callable[[str], Path]
INPUT = torch.tensor([[5, 9, 30, 7]])


@pytest.fixture
def copy(tmp_path: Path, model_folder: Folder) -> Callable[[str], Path]:
    """A copy of a tiny model's folder that a test may break."""

    def make(kind: str) -> Path:
        return Path(shutil.copytree(model_folder(kind), tmp_path / kind))

    return make


def config(folder: Path, kind: str = "llama", **more) -> BackboneConfig:
    return BackboneConfig(path=str(folder), task_type=task_type(kind), **more)


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("kind", [*CAUSAL, *SEQ2SEQ])
def test_what_is_loaded_is_what_was_saved(kind: str, loaded, model_folder: Folder) -> None:
    backbone = loaded(kind)
    saved = build_model(kind, len(train_tokenizer(chat=kind == "qwen2")))
    ours = backbone.model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in saved.state_dict().items())
    assert not backbone.model.training
    identity = backbone.identity
    assert (identity.path, identity.source, identity.revision) == (str(model_folder(kind)), "local folder", None)
    assert len(identity.fingerprint) == 64
    assert identity.notes[0] == f"`{model_folder(kind)}` is the local folder {model_folder(kind)}."
    assert backbone.model.config.use_cache is False


def test_a_relative_path_starts_from_the_configuration(model_folder: Folder) -> None:
    folder = model_folder("llama")
    backbone = CausalLM.load(BackboneConfig(path=folder.name, task_type="causal_lm"), base_dir=folder.parent)
    assert backbone.identity.path == str(folder)


def test_pickled_weights_are_read_as_tensors_and_said_aloud(copy, loaded) -> None:
    folder = copy("llama")
    to_pickle(folder)
    backbone = CausalLM.load(config(folder))
    assert "The weights are a pickle (pytorch_model.bin), read as tensors only; no code in it was run." in (
        backbone.identity.notes
    )
    expected = loaded("llama").model(INPUT).logits
    torch.testing.assert_close(backbone.model(INPUT).logits, expected)
    assert backbone.identity.fingerprint == loaded("llama").identity.fingerprint


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVERTUNE_TEST_HARM"],)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(copy, tmp_path: Path, monkeypatch) -> None:
    folder = copy("llama")
    (folder / "model.safetensors").unlink()
    monkeypatch.setenv("EVERTUNE_TEST_HARM", str(tmp_path / "harm"))
    torch.save({"model.embed_tokens.weight": torch.zeros(2), "x": Harmful()}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"more than tensors: reading it would run code.*safetensors format"):
        CausalLM.load(config(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(BackboneError):
        CausalLM.load(config(folder))
    assert not (tmp_path / "harm").exists()


def test_sharded_weights(copy, loaded) -> None:
    folder = copy("llama")
    loaded("llama").model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    backbone = CausalLM.load(config(folder))
    torch.testing.assert_close(backbone.model(INPUT).logits, loaded("llama").model(INPUT).logits)
    next(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(BackboneError, match=r"1 of \d+ weight files that .*\.json names are missing, first `model-"):
        CausalLM.load(config(folder))


@pytest.mark.parametrize("keep", [0.5, 0.01, 0.0])
@pytest.mark.parametrize("pickled", [False, True])
def test_truncated_weights(copy, keep: float, pickled: bool) -> None:
    folder = copy("llama")
    if pickled:
        to_pickle(folder)
    file = folder / ("pytorch_model.bin" if pickled else "model.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(BackboneError, match=r"The weights cannot be read: .*damaged or truncated"):
        CausalLM.load(config(folder))


def test_no_weights(copy) -> None:
    folder = copy("llama")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"There are no weights in this folder \(none of model\.safetensors"):
        CausalLM.load(config(folder))


def test_missing_tensors_would_be_random(copy) -> None:
    folder = copy("llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lack 1 of .* tensors, first `model\.layers\.1\.mlp\.up_proj\.weight`"):
        CausalLM.load(config(folder))


def test_superfluous_tensors_are_said_aloud(copy) -> None:
    folder = copy("llama")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "vision.weight": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    backbone = CausalLM.load(config(folder))
    assert "1 tensors of the weights are not used, first `vision.weight`." in backbone.identity.notes


def test_weights_of_another_shape(copy) -> None:
    folder = copy("llama")
    edit(folder / "config.json", intermediate_size=64)
    with pytest.raises(
        BackboneError, match=r"6 tensors have other shapes .*down_proj.weight`: \[32, 48\] instead of \[32, 64\]"
    ):
        CausalLM.load(config(folder))


def test_a_broken_configuration(copy) -> None:
    folder = copy("llama")
    (folder / "config.json").write_text("{")
    with pytest.raises(BackboneError, match=r"The model cannot be loaded: .*config\.json.* valid JSON"):
        CausalLM.load(config(folder))


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_an_encoder_decoder_is_not_a_causal_model(kind: str, model_folder: Folder) -> None:
    wrong = replace(config(model_folder(kind)), task_type="causal_lm")
    with pytest.raises(BackboneError, match=r"with `task_type: causal_lm`\. Write `task_type: seq2seq_lm`"):
        CausalLM.load(wrong)


def test_a_causal_model_is_not_an_encoder_decoder(model_folder: Folder) -> None:
    wrong = replace(config(model_folder("llama")), task_type="seq2seq_lm")
    with pytest.raises(BackboneError) as caught:
        Seq2SeqLM.load(wrong)
    assert "`LlamaForCausalLM` (model type `llama`) cannot be used with `task_type: seq2seq_lm`" in str(caught.value)
    assert "Write `task_type: causal_lm`" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "lama"}, "does not know the model type `lama`. Did you mean `llama`"),
        ({"model_type": "zzzzzz"}, "does not know the model type `zzzzzz`. A newer transformers may"),
        ({}, "names no `model_type`"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "`ViTModel` (model type `vit`) cannot be used"),
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            "`BertForMaskedLM` (model type `bert`) fills gaps, looking both ways",
        ),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
            "needs Python code that comes with it, and `trust_remote_code` is off. Read that code; if you trust it",
        ),
    ],
)
def test_unsuitable_architectures(tmp_path: Path, content: dict, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    for attempt in (CausalLM.load, load_tokenizer, build_skeleton):
        with pytest.raises(BackboneError) as caught:
            attempt(config(tmp_path))
        assert message in str(caught.value)


def test_no_tokenizer(copy) -> None:
    folder = copy("llama")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BackboneError, match=r"The tokenizer cannot be loaded: .*Copy the tokenizer files"):
        CausalLM.load(config(folder))
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(BackboneError, match=r"There are no tokenizer files in this folder\. Copy the tokenizer files"):
        CausalLM.load(config(folder))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tokenizer.json", "The tokenizer cannot be loaded: Expecting property name"),
        ("generation_config.json", "generation_config.json cannot be read: .*Repair or remove it"),
    ],
)
def test_broken_side_files(copy, file: str, message: str) -> None:
    folder = copy("llama")
    (folder / file).write_text("{")
    with pytest.raises(BackboneError, match=message):
        CausalLM.load(config(folder))


def test_a_broken_index_of_shards(copy) -> None:
    folder = copy("llama")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"index\.json: The weights cannot be read"):
        CausalLM.load(config(folder))


@pytest.mark.parametrize("changes", [{"hidden_size": "wide"}, {"num_attention_heads": 5}])
def test_impossible_settings(copy, changes: dict) -> None:
    folder = copy("llama")
    edit(folder / "config.json", **changes)
    with pytest.raises(BackboneError, match=r"The model cannot be loaded: .*(hidden_size|hidden size)"):
        CausalLM.load(config(folder))


def test_an_unknown_attention_kernel(model_folder: Folder) -> None:
    with pytest.raises(BackboneError, match=r"nonsense.*Write one of these, or remove `backbone\.attn_implementation`"):
        CausalLM.load(config(model_folder("llama"), attn_implementation="nonsense"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_precision_of_the_base(model_folder: Folder, loaded, dtype: str) -> None:
    backbone = CausalLM.load(config(model_folder("llama"), dtype=dtype))
    assert {p.dtype for p in backbone.model.parameters()} == {getattr(torch, dtype)}
    assert backbone.identity.fingerprint == loaded("llama").identity.fingerprint
    batch = backbone.collate(backbone.encode(ROWS, max_source_length=64, max_target_length=16))
    output = backbone.loss(backbone.model, batch)
    assert output.sum.dtype == torch.float32
    exact = loaded("llama").loss(loaded("llama").model, batch).sum
    torch.testing.assert_close(output.sum, exact, rtol=0.05, atol=0)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_bases(tmp_path: Path, quantization: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    kind = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}[quantization]
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    # Wide enough for the blocks of 64 in which bitsandbytes quantises.
    settings = LlamaConfig(
        vocab_size=384, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(settings).save_pretrained(tmp_path)
    backbone, whole = (CausalLM.load(config(tmp_path, quantization=bits)) for bits in (quantization, None))
    assert isinstance(backbone.model.model.layers[0].self_attn.q_proj, kind)
    assert backbone.identity.fingerprint == whole.identity.fingerprint
    rows = backbone.encode(ROWS, max_source_length=64, max_target_length=16)
    exact = whole.loss(whole.model, whole.collate(rows)).sum
    torch.testing.assert_close(backbone.loss(backbone.model, backbone.collate(rows)).sum, exact, rtol=0.05, atol=0)
    assert len(backbone.generate(backbone.model, rows, max_new_tokens=3)) == len(rows)

    # Scoring must not change what is learnt afterwards: gradients still pass through every layer.
    fresh = CausalLM.load(config(tmp_path, quantization=quantization))
    torch.testing.assert_close(embedding_gradient(backbone, rows), embedding_gradient(fresh, rows))


def embedding_gradient(backbone: CausalLM, rows) -> torch.Tensor:
    embedding = backbone.model.get_input_embeddings().weight.requires_grad_()
    backbone.model.train()
    backbone.loss(backbone.model, backbone.collate(rows)).sum.backward()
    assert embedding.grad is not None
    return embedding.grad


def test_weights_that_are_quantised_already_are_said_aloud(copy) -> None:
    folder = copy("llama")
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    notes = describe(config(folder)).notes
    assert "The weights are quantised on disk (bitsandbytes)." in notes


def test_quantisation_without_its_package(model_folder: Folder, monkeypatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=r"the package bitsandbytes.*pip install 'evertune\[quantization\]'"):
        CausalLM.load(config(model_folder("llama"), quantization="nf4"))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "t5", "bart"])
def test_gradient_checkpointing_changes_no_gradient(kind: str, model_folder: Folder, loaded) -> None:
    """With everything frozen but one inner weight, as with adapters: gradients must still arrive."""
    plain = loaded(kind)
    sparing = type(plain).load(config(model_folder(kind), kind, gradient_checkpointing=True))
    batch = plain.collate(plain.encode(ROWS, max_source_length=64, max_target_length=16))
    name = next(
        name for name, p in plain.model.named_parameters() if p.dim() == 2 and "embed" not in name and "0" in name
    )
    gradients = []
    for loaded_model in (plain.model, sparing.model):
        # In double precision: the weights are large, and recomputing rounds otherwise.
        backbone = type(plain)(plain.config, plain.identity, deepcopy(loaded_model).double(), plain.tokenizer)
        for module in backbone.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for attribute in ("dropout", "attention_dropout", "hidden_dropout", "activation_dropout"):
            for module in backbone.model.modules():
                if isinstance(getattr(module, attribute, None), float):
                    setattr(module, attribute, 0.0)
        backbone.model.requires_grad_(False)
        backbone.model.get_parameter(name).requires_grad_(True)
        backbone.model.train()
        backbone.loss(backbone.model, batch).sum.backward()
        gradients.append(backbone.model.get_parameter(name).grad)
    switched = [[getattr(m, "gradient_checkpointing", False) for m in one.model.modules()] for one in (plain, sparing)]
    assert (any(switched[0]), any(switched[1])) == (False, True)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_a_skeleton_has_the_tree_but_no_weights(model_folder: Folder, loaded) -> None:
    skeleton = build_skeleton(config(model_folder("llama")))
    shapes = {name: p.shape for name, p in skeleton.named_parameters()}
    assert shapes == {name: p.shape for name, p in loaded("llama").model.named_parameters()}
    assert all(p.device.type == "meta" for p in skeleton.parameters())


def test_rows_are_encoded_without_weights(copy, loaded) -> None:
    folder = copy("t5")
    (folder / "model.safetensors").unlink()
    asked = config(folder, "t5")
    described = describe(asked)
    encoder, notes = BACKBONES.get(asked.task_type).row_encoder(asked, described, []), described.notes
    options = {"max_source_length": 64, "max_target_length": 16}
    assert encoder.encode(ROWS, **options) == loaded("t5").encode(ROWS, **options)
    assert notes[0].startswith(f"`{folder}` is the local folder")
    tokenizer, _ = load_tokenizer(config(folder, "t5"))
    assert tokenizer.pad_token_id == 0


def test_a_model_from_the_cache(tmp_path: Path, model_folder: Folder, monkeypatch, loaded) -> None:
    commit = "b" * 40
    repo = tmp_path / "cache" / "models--owner--name"
    shutil.copytree(model_folder("llama"), repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    backbone = CausalLM.load(BackboneConfig(path="owner/name", task_type="causal_lm"))
    identity = backbone.identity
    assert (identity.path, identity.source, identity.revision) == ("owner/name", "hub", commit)
    assert identity.fingerprint == loaded("llama").identity.fingerprint
    assert backbone.model.name_or_path == "owner/name"


def test_fingerprints_tell_models_apart(copy, model_folder: Folder) -> None:
    known = fingerprint(model_folder("llama"))
    assert fingerprint(model_folder("llama")) == known
    assert len({fingerprint(model_folder(kind)) for kind in (*CAUSAL, *SEQ2SEQ)}) == len((*CAUSAL, *SEQ2SEQ))
    folder = copy("llama")
    edit(folder / "config.json", transformers_version="0.0", _name_or_path="x", use_cache=True)
    assert fingerprint(folder) == known
    edit(folder / "config.json", rms_norm_eps=0.1)
    assert fingerprint(folder) != known


def test_fingerprints_tell_a_model_from_its_fine_tuned_copy(copy, model_folder: Folder) -> None:
    folder = copy("llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != fingerprint(model_folder("llama"))
