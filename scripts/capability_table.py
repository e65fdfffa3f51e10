"""Measures what every kind of adapter can do on every kind of task, and writes the table that comes with the package.

    python scripts/capability_table.py                 # all of it: some minutes on one core
    python scripts/capability_table.py --kinds lora,oft --tasks causal_lm --print

Tiny models from configurations alone, the same weights every time, one seed; everything goes through `AdapterBank`.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import peft
import torch
import transformers as hf
from torch import Tensor, nn

from evertune.adapters import capabilities
from evertune.adapters.bank import AdapterBank
from evertune.adapters.kinds import FULL, KINDS, NONE, not_several
from evertune.adapters.reading import with_adapter
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.backbones.base import Batch
from evertune.errors import EvertuneError

STEPS, RATE, CLOSE = 12, 1e-2, 1e-5
_DECODER = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
_IMAGES = {key: size for key, size in _DECODER.items() if key != "vocab_size"}
_HEADS = {"num_attention_heads": 4}
_ENCODER = {**_HEADS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS: Mapping[str, Callable[[], Any]] = {
    "causal_lm": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_DECODER, **_HEADS, pad_token_id=0)),
    "seq2seq_lm": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=64, d_model=64, d_ff=96, d_kv=16, num_layers=2, num_heads=4, dropout_rate=0.0)
    ),
    "sequence_classification": lambda: hf.BertForSequenceClassification(
        hf.BertConfig(**_DECODER, **_ENCODER, num_labels=3)
    ),
    "token_classification": lambda: hf.BertForTokenClassification(hf.BertConfig(**_DECODER, **_ENCODER, num_labels=5)),
    "question_answering": lambda: hf.BertForQuestionAnswering(hf.BertConfig(**_DECODER, **_ENCODER)),
    "image_classification": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(**_IMAGES, **_HEADS, image_size=16, patch_size=8, num_labels=3)
    ),
}
"""A tiny model of every task type."""

_HEAD_NAMES = {"question_answering": ("qa_outputs",), "causal_lm": (), "seq2seq_lm": ()}
_PROMPTS = ("prompt_tuning", "p_tuning", "prefix_tuning", "multitask_prompt_tuning", "cartridge")
# Sizes that fit the tiny models; everything else is as peft has it.
SIZES: Mapping[str, Mapping[str, Any]] = {
    **{kind: {"num_virtual_tokens": 4} for kind in _PROMPTS},
    **{kind: {"r": 8} for kind in ("randlora", "vera", "pvera", "psoft", "gralora", "hira", "lily", "peanut")},
    **{kind: {"n_frequency": 50} for kind in ("fourierft", "waveft")},
    "adalora": {"target_r": 4},
    "adamss": {"r": 16, "num_subspaces": 2},
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
    "c3a": {"block_size": 32},
    "cpt": {"cpt_token_ids": [3, 4, 5, 6], "cpt_mask": [1] * 4, "cpt_tokens_type_mask": [1] * 4},
    "frod": {"progressbar": False},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 8},
    "road": {"group_size": 16},
    "shira": {"r": 4},
    "trainable_tokens": {"token_indices": [5, 6, 7, 8, 9, 10]},
    "vblora": {"vector_length": 16, "num_vectors": 16},
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: The kind, with the name of the variant behind it.
        kind: The kind.
        options: Options of the kind.
        fields: Fields of `AdapterSpec`.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def spec(self) -> AdapterSpec:
        """The adapters of the line."""
        return AdapterSpec(kind=self.kind, options=dict(self.options), **self.fields)


def _variants() -> list[Row]:
    lora: dict[str, Mapping[str, Any]] = {
        f"init_lora_weights: {name}": {"init_lora_weights": name}
        for name in ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "eva", "gaussian", "orthogonal", "mica")
    }
    lora["init_lora_weights: loftq"] = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}
    lora |= {
        "use_dora": {"use_dora": True},
        "lora_bias": {"lora_bias": True},
        "bias: all": {"bias": "all"},
        "layer_replication": {"layer_replication": [[0, 2], [0, 2]]},
        "trainable_token_indices": {"trainable_token_indices": [5, 6, 7]},
        "rank_pattern": {"rank_pattern": {"q_proj": 2, "q": 2, "query": 2}, "alpha_pattern": {"v_proj": 4, "v": 4}},
        "alora_invocation_tokens": {"alora_invocation_tokens": [9]},
        "velora_config": {"velora_config": {}},
        "monteclora_config": {"monteclora_config": {}},
        "kasa_config": {"kasa_config": {}},
    }
    rows = [Row(f"lora {name}", "lora", options) for name, options in lora.items()]
    rows += [
        Row("lora use_rslora", "lora", fields={"use_rslora": True}),
        Row("lora loraplus_lr_ratio", "lora", fields={"loraplus_lr_ratio": 4.0}),
        Row("lora lora_fa", "lora", fields={"lora_fa": True}),
        Row("lora target: all-linear", "lora", fields={"target": "all-linear"}),
        Row("miss init_weights: bat", "miss", {"r": 4, "init_weights": "bat"}),
        Row("miss init_weights: mini", "miss", {"r": 4, "init_weights": "mini", "mini_r": 4}),
        Row("oft use_cayley_neumann: false", "oft", {"oft_block_size": 8, "use_cayley_neumann": False}),
        Row("prefix_tuning prefix_projection", "prefix_tuning", {"num_virtual_tokens": 4, "prefix_projection": True}),
        Row("p_tuning LSTM", "p_tuning", {"num_virtual_tokens": 4, "encoder_reparameterization_type": "LSTM"}),
    ]
    return rows


def rows() -> list[Row]:
    """Every line of the table, sorted."""
    kinds = [Row(kind, kind, SIZES.get(kind, {})) for kind in KINDS]
    return sorted([*kinds, *_variants()], key=lambda row: row.name)


def build(task: str) -> Any:
    """The tiny model of a task type, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return MODELS[task]().eval()


def batch(task: str) -> dict[str, Any]:
    """Its inputs: four lines."""
    generator = torch.Generator().manual_seed(0)
    if task == "image_classification":
        return {"pixel_values": torch.randn(4, 3, 16, 16, generator=generator)}
    ids = torch.randint(10, 64, (4, 10), generator=generator)
    ids[:, 2:6] = torch.tensor([9, 5, 6, 7])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if task in ("causal_lm", "seq2seq_lm"):
        inputs["use_cache"] = False
    return inputs | ({"decoder_input_ids": ids[:, :6]} if task == "seq2seq_lm" else {})


def as_batch(inputs: Mapping[str, Any]) -> Batch:
    """The inputs as a method gets them."""
    labels = inputs.get("decoder_input_ids", inputs.get("input_ids", torch.zeros(4, 1, dtype=torch.long)))
    tensors = {name: held for name, held in inputs.items() if isinstance(held, Tensor)}
    return Batch(tensors, labels, ("a", "b", "c", "d"), labels.numel())


def outputs(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """What a model says, ``(lines, ..., classes)``."""
    output = model(**inputs)
    return torch.stack([output.start_logits, output.end_logits], 1) if "start_logits" in output else output.logits


def _loss(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    logits = outputs(model, inputs)
    generator = torch.Generator().manual_seed(5)
    wanted = torch.randint(0, logits.shape[-1], (4, *logits.shape[1:-1]), generator=generator)[: len(logits)]
    return nn.functional.cross_entropy(logits.flatten(0, -2), wanted.flatten())


def learn(bank: AdapterBank, inputs: Mapping[str, Any], steps: int = STEPS) -> tuple[float, float]:
    """Some steps on one batch: the loss before and after."""
    bank.begin(steps)
    optimiser = torch.optim.AdamW(bank.param_groups(RATE), lr=RATE, weight_decay=0.0)
    with torch.no_grad():
        before = _loss(bank.model, inputs).item()
    for step in range(steps):
        loss = _loss(bank.model, inputs) + sum(bank.step_loss().values())
        loss.backward()
        optimiser.step()
        bank.after_step(step + 1)
        optimiser.zero_grad()
    with torch.no_grad():
        return before, _loss(bank.model, inputs).item()


class _Cell:
    """Measures one cell: columns are tried in order, and what fails says why."""

    def __init__(self, row: Row, task: str, folder: Path) -> None:
        self.row, self.task, self.folder = row, task, folder
        self.spec, self.inputs = row.spec(), batch(task)
        self.untouched = build(task)
        self.can = dict.fromkeys(capabilities.COLUMNS, False)
        self.why: dict[str, str] = {}

    def measure(self) -> None:
        if self._try("trains", self._trains) and self._try("reloads", self._reloads):
            self._try("several", self._several)
        self._try("merges", self._merges) if self.can["trains"] else None

    def _try(self, column: str, measured: Callable[[], str]) -> bool:
        try:
            self.why[column] = measured()
        except Exception as error:  # noqa: BLE001  whatever a method of peft raises is the answer
            self.why[column] = _words(error)
        self.can[column] = not self.why[column]
        return self.can[column]

    def _bank(self) -> AdapterBank:
        model = copy.deepcopy(self.untouched)
        return AdapterBank(model, self.spec, task_type=self.task, base_path="models/tiny")

    def _head(self, model: nn.Module) -> dict[str, nn.Parameter]:
        names = _HEAD_NAMES.get(self.task, ("classifier",))
        return {name: held for name, held in model.named_parameters() if name.split(".")[0] in names}

    def _trains(self) -> str:
        torch.manual_seed(0)
        self.bank = self._bank()
        self.bank.add("one", seed=1)
        self.bank.apply(AdapterPlan(("one",), ("one",)))
        if self.row.kind == NONE:
            self.bank.learn_heads(self._head(self.bank.base_model))
            if not self.bank.trainable_parameters():
                return "nothing learns but the heads of an encoder, and a language model has none"
        self.bank.begin_from(lambda: [as_batch(self.inputs)], lambda model, one: _loss(model, one.inputs))
        before, after = learn(self.bank, self.inputs)
        with torch.no_grad():
            self.learnt = outputs(self.bank.model, self.inputs)
        return "" if after < before else f"the loss does not fall in {STEPS} steps"

    def _reloads(self) -> str:
        heads = self._head(self.bank.base_model)
        with torch.no_grad():
            kept = {name: head.clone() for name, head in heads.items()}
        self.bank.save("one", self.folder / "one", heads=kept)
        if self.row.kind == NONE:
            return ""
        fresh = copy.deepcopy(self.untouched)
        if self.row.kind == FULL:
            read: nn.Module = type(fresh).from_pretrained(self.folder / "one").eval()
        else:
            read = with_adapter(fresh, self.folder / "one")
        again = self._bank()
        again.load("one", self.folder / "one")
        again.apply(AdapterPlan(("one",)))
        with torch.no_grad():
            theirs = (outputs(read, self.inputs) - self.learnt).abs().max().item()
            ours = (outputs(again.model, self.inputs) - self.learnt).abs().max().item()
        if max(theirs, ours) <= CLOSE:
            return ""
        return f"what is read again differs by {max(theirs, ours):.0e}"

    def _several(self) -> str:
        if why := "there is nothing to add up" if self.row.kind == NONE else not_several(self.spec):
            return why
        both = AdapterPlan(("one", "two"), ("two",))
        self.bank.add("two", seed=2)
        self.bank.apply(both)
        learn(self.bank, self.inputs, 4)
        with torch.no_grad():
            wanted = outputs(self.bank.model, self.inputs)
        self.bank.save("two", self.folder / "two")
        again = self._bank()
        for name in both.active:
            again.load(name, self.folder / name)
        again.apply(AdapterPlan(both.active))
        with torch.no_grad():
            apart = (outputs(again.model, self.inputs) - wanted).abs().max().item()
        return "" if apart <= CLOSE else f"the sum of two differs by {apart:.0e} when it is read again"

    def _merges(self) -> str:
        if self.row.kind == NONE:
            return "there is nothing to merge"
        again = self._bank()
        again.load("one", self.folder / "one")
        again.apply(AdapterPlan(("one",)))
        merged = again.merge_active()
        with torch.no_grad():
            apart = (outputs(merged, self.inputs) - self.learnt).abs().max().item()
        return "" if apart <= CLOSE else f"what is merged differs by {apart:.0e}"


class _MixtureCell(_Cell):
    """X-LoRA, which mixes finished adapters: measured with peft alone, as far as that goes."""

    def _trains(self) -> str:
        experts = Row("lora", "lora").spec()
        for name in ("0", "1"):
            bank = AdapterBank(build(self.task), experts, task_type=self.task, base_path="models/tiny")
            bank.add("one", seed=int(name))
            bank.apply(AdapterPlan(("one",), ("one",)))
            learn(bank, self.inputs)
            bank.save("one", self.folder / name)
        self.places = {name: str(self.folder / name) for name in ("0", "1")}
        model = build(self.task)
        model.config.use_cache = False
        config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=64, adapters=self.places)
        self.mixed = peft.get_peft_model(model, config)
        learning = [parameter for parameter in self.mixed.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(learning, lr=RATE)
        losses = []
        for _ in range(STEPS):
            loss = _loss(self.mixed, self.inputs)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        return "" if losses[-1] < losses[0] else f"the loss does not fall in {STEPS} steps"

    def _reloads(self) -> str:
        self.mixed.eval().save_pretrained(str(self.folder / "mixed"))
        fresh = build(self.task)
        fresh.config.use_cache = False
        read = peft.PeftModel.from_pretrained(fresh, str(self.folder / "mixed"), adapters=self.places).eval()
        with torch.no_grad():
            apart = (outputs(read, self.inputs) - outputs(self.mixed, self.inputs)).abs().max().item()
        return "" if apart <= CLOSE else f"what peft reads again differs by {apart:.0e}"

    def _merges(self) -> str:
        return "the mixture depends on the input"


# What peft says, in a sentence for people who did not write peft.
_SAID = {
    "only supports task_type = CAUSAL_LM": "it needs a causal language model",
    "Unsupported model type for adaption prompt": "peft has it for Llama, Mistral and GPT-2 alone",
    "ModuleList` of decoder layers": "it needs a decoder-only model",
    "transformer backbone inside the supplied model": "it needs a decoder-only model",
    "not compiled with CUDA": "its quantisation needs a CUDA device",
    "pixel_values": "virtual tokens need a model that reads tokens",
    "expected Tensor as element 1": "peft gives the decoder virtual tokens that generation leaves out",
    "vocab_size": "virtual tokens need a model with a vocabulary",
    "get_input_embeddings": "there is no table of tokens in this model",
    "None of the modules of this model has the role": "there is no such module in this model",
    "Could not locate the layers attribute": "peft replicates layers of Llama, BERT and Falcon alone",
    "`use_cache` must be False": "peft's mixture of adapters asks for a model without a cache of keys and values",
    "ViTPatchEmbeddings": "there is no table of tokens in this model",
    "biases of the heads": "it would train the biases of the heads of all tasks too",
    "`loftq_config` must be": "its quantisation needs a CUDA device",
    "Got unexpected keys": "peft does not find the places of the finished adapters in this model",
    **dict.fromkeys(
        (
            "floating point",
            "cannot be multiplied",
            "size of tensor",
            "is invalid for input",
            "under float32",
            "`dtype`",
            "'dtype'",
            "PSOFT init",
            "same dtype",
            "`effective_rank` should",
        ),
        "peft computes with the weights themselves, which are packed here",
    ),
    "'unsqueeze'": "peft computes with the weights themselves, which are packed here",
    "does not support VeLoRA": "peft has it for plain linear layers alone",
    "is being used in an in-place": "peft adds in place to what the quantised layer gives",
    "is being modified inplace": "peft adds in place to what the quantised layer gives",
    "Linear4bit(": "peft has no layer of this kind for quantised weights",
    "Linear8bitLt(": "peft has no layer of this kind for quantised weights",
    "input embeddings": "there is no table of tokens in this model",
}


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    for part, words in _SAID.items():
        if part in text:
            return words
    if isinstance(error, EvertuneError):
        text = error.problems[0].what
    return text.split(". ")[0].rstrip(".") or type(error).__name__


def measure(row: Row, task: str) -> dict[str, Any]:
    """One cell of the table: ``{"can": {column: bool}, "why": {column: reason}}``."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cell = (_MixtureCell if row.kind == "xlora" else _Cell)(row, task, Path(folder))
        cell.measure()
    why = {column: cell.why.get(column) or "it does not learn" for column, can in cell.can.items() if not can}
    if not cell.can["reloads"] and cell.can["trains"]:
        why.setdefault("several", "what it learnt cannot be read again")
    return {"can": cell.can, "why": why} if why else {"can": cell.can}


def measure_quantised(row: Row) -> dict[str, str]:
    """Why a line cannot be used on a quantised causal model, by the kind of weights; empty where it can."""
    if row.kind in (FULL, NONE, "xlora"):
        why = {FULL: "quantised weights cannot learn", NONE: "", "xlora": "it is not usable at all"}
        return dict.fromkeys(("nf4", "int8"), why[row.kind])
    options = {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
        "int8": {"load_in_8bit": True},
    }
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(7)
        # The kernels want widths of whole blocks of 64 numbers.
        sizes = {**_DECODER, "intermediate_size": 128}
        hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **_HEADS, pad_token_id=0)).save_pretrained(folder)
        return {name: _quantised(row, Path(folder), hf.BitsAndBytesConfig(**one)) for name, one in options.items()}


def _quantised(row: Row, folder: Path, options: Any) -> str:
    inputs = batch("causal_lm")

    def loaded() -> Any:
        model = hf.AutoModelForCausalLM.from_pretrained(folder, quantization_config=options, dtype=torch.float32)
        for module in model.modules():  # as `evertune.backbones.loading` does: the other kernel has no backward pass
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return model.eval()

    def bank() -> AdapterBank:
        return AdapterBank(loaded(), row.spec(), task_type="causal_lm", base_path="models/tiny")

    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            first = bank()
            first.add("one", seed=1)
            first.apply(AdapterPlan(("one",), ("one",)))
            first.begin_from(lambda: [as_batch(inputs)], lambda model, one: _loss(model, one.inputs))
            first.model.train()  # in which some kernels have gradients that they have not otherwise
            before, after = learn(first, inputs, 2 * STEPS)
            first.model.eval()
            with torch.no_grad():
                wanted = outputs(first.model, inputs)
            first.save("one", Path(place) / "one")
            again = bank()
            again.load("one", Path(place) / "one")
            again.apply(AdapterPlan(("one",)))
            with torch.no_grad():
                ours = (outputs(again.model, inputs) - wanted).abs().max().item()
                read = with_adapter(loaded(), Path(place) / "one")
                theirs = (outputs(read, inputs) - wanted).abs().max().item()
        except Exception as error:  # noqa: BLE001  whatever a method of peft raises is the answer
            return _words(error)
    if after >= before:
        return f"the loss does not fall in {2 * STEPS} steps"
    return "" if max(ours, theirs) <= CLOSE else f"what is read again differs by {max(ours, theirs):.0e}"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", help="names of lines, separated by commas; all by default")
    parser.add_argument("--tasks", help="task types, separated by commas; all by default")
    parser.add_argument("--quantised", action="store_true", help="measure what can be done on quantised models alone")
    parser.add_argument("--print", action="store_true", help="show the cells and write nothing")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    hf.logging.set_verbosity_error()
    kinds = wanted.kinds.split(",") if wanted.kinds else None
    tasks = wanted.tasks.split(",") if wanted.tasks else list(MODELS)
    table: dict[str, dict[str, Any]] = {}
    quantised: dict[str, dict[str, str]] = {}
    for row in rows():
        if kinds is None or row.name in kinds:
            table[row.name] = {task: measure(row, task) for task in ([] if wanted.quantised else tasks)}
            found = table[row.name].items()
            marks = [f"{task}: {''.join('01'[can] for can in cell['can'].values())}" for task, cell in found]
            print(f"{row.name:36} {'  '.join(marks)}", file=sys.stderr, flush=True)
            if wanted.tasks is None and importlib.util.find_spec("bitsandbytes") is not None:
                quantised[row.name] = measure_quantised(row)
                print(f"{'':36} {quantised[row.name]}", file=sys.stderr, flush=True)
            if wanted.print:
                print(json.dumps(table[row.name], indent=1))
    if not wanted.print:
        versions = {"peft": peft.__version__, "transformers": hf.__version__, "torch": torch.__version__.split("+")[0]}
        target = Path(capabilities.__file__).with_name(capabilities.FILE)
        kept = (
            json.loads(target.read_text(encoding="utf-8"))
            if kinds or wanted.tasks or wanted.quantised
            else {"table": {}}
        )
        for name, cells in kept["table"].items():
            table[name] = {**cells, **table.get(name, {})}
        content = {"versions": versions, "table": table, "quantised": {**kept.get("quantised", {}), **quantised}}
        target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
