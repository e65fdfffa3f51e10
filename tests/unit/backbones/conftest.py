"""Tiny models of every tested architecture, with tokenizers trained on the spot, saved and loaded back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.backbones.language_model import LanguageModel
from evertune.streams.examples import PromptTarget, Segment

CORPUS = [
    "What is the sentiment of the following review? Option: positive, negative",
    "the quick brown fox jumps over the lazy dog while the cat sleeps in the sun",
    "Answer: good bad very happy sad world sports business science and technology",
    "Größe, naïve, 日本語 and emoji 🙂 are text as well; numbers 0123456789 too.",
]

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CAUSAL = ("llama", "qwen2", "mistral", "gemma", "gpt2", "bloom", "glm")
SEQ2SEQ = ("t5", "bart")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def train_tokenizer(*, frame: str = "$A", pad: bool = True, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; `frame` is the template of its special tokens, such as ``<s> $A``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *(["<|user|>", "<|system|>", "<|assistant|>", "<|end|>"] if chat else [])]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=380,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=frame, special_tokens=[("<s>", 1), ("</s>", 2)]),
        ]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **({"pad_token": "<pad>"} if pad else {})
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(kind: str, vocabulary: int) -> PreTrainedModel:
    """A tiny model of an architecture, with weights large enough that its answers differ."""
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    rotary = {**SIZES, "vocab_size": vocabulary, "intermediate_size": 48, "max_position_embeddings": 256, **ids}
    grouped = {**rotary, "num_key_value_heads": 2}
    builders: dict[str, Callable[[], PreTrainedModel]] = {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**grouped)),
        "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**grouped)),
        # A window shorter than the prompts of the tests.
        "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**grouped, sliding_window=8)),
        "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**grouped, head_dim=8)),
        "glm": lambda: transformers.GlmForCausalLM(transformers.GlmConfig(**grouped, head_dim=8)),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=256, **ids)
        ),
        "bloom": lambda: transformers.BloomForCausalLM(
            transformers.BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=4, **ids)
        ),
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
                eos_token_id=2, pad_token_id=0,
            )
        ),
        "bart": lambda: transformers.BartForConditionalGeneration(
            transformers.BartConfig(
                vocab_size=vocabulary, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=256,
                decoder_start_token_id=2, **ids,
            )
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    model = builders[kind]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not any(part in name for part in ("embed", "shared", "wte", "wpe")):
                parameter.mul_(12)
    return model


FRAMES = {"llama": "<s> $A", "gemma": "<s> $A", "t5": "$A </s>", "bart": "<s> $A </s>"}


def task_type(kind: str) -> str:
    return "seq2seq_lm" if kind in SEQ2SEQ else "causal_lm"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model, saved as others save them; made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            target = tmp_path_factory.mktemp(kind)
            tokenizer = train_tokenizer(frame=FRAMES.get(kind, "$A"), chat=kind == "qwen2")
            tokenizer.save_pretrained(target)
            build_model(kind, len(tokenizer)).save_pretrained(target)
            made[kind] = target
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def loaded(model_folder: Callable[[str], Path]) -> Callable[..., LanguageModel]:
    """A loaded backbone; shared, so tests must not change its weights."""
    made: dict[str, LanguageModel] = {}

    def load(kind: str) -> LanguageModel:
        if kind not in made:
            config = BackboneConfig(path=str(model_folder(kind)), task_type=task_type(kind))
            made[kind] = BACKBONES.get(config.task_type).load(config)
        return made[kind]

    return load


def row(
    target: str = "good",
    *,
    text: str = "the quick brown fox",
    instruction: str = "What is the sentiment?\n",
    ending: str = "\nAnswer:",
    id: str = "task/train/0",
) -> PromptTarget:
    """A row of the usual shape: instruction, input text that may be cut, closing words."""
    return PromptTarget(id, (Segment(instruction), Segment(text, cut=True), Segment(ending)), target)


ROWS = [
    row("good", text="the quick brown fox", id="task/train/0"),
    row("very bad and sad", text="the cat sleeps", id="task/train/1"),
    row("positive", text="the lazy dog jumps over the cat while the quick brown fox sleeps", id="task/train/2"),
    row("sports", text="x", instruction="", id="task/train/3"),
    row("science and technology 🙂", text="Größe", id="task/train/4"),
]
