"""Makes the models that come with the package: a tokenizer, a small Llama and a small T5, from nothing, on a CPU.

    python scripts/pretrain_builtin.py tiny-llama
    python scripts/pretrain_builtin.py tiny-t5

Everything follows from the seed, the number of threads and the versions, which the log beside the weights records.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # spinning OpenMP threads cost 20-80x on a busy machine

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from evertune.streams.synthetic import TASKS, generate_rows
from evertune.streams.synthetic_pretraining import generate_pretraining_text

PAD, EOS, BOS = "<|pad|>", "<|end|>", "<|begin|>"
PAD_ID, EOS_ID, BOS_ID = 0, 1, 2
IGNORED = -100
MAX_LENGTH = 512
# Some users put a space before the answer: a causal model has to know both.
SPACED_EVERY = 7
# The prompt is learnt as language, with a small weight beside the answer.
PROMPT_WEIGHT = 0.1
POOL_BATCHES = 16
MAX_BYTES = 3_000_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is made."""

    build: Callable[[int], PreTrainedModel]
    steps: int
    matrix_learning_rate: float
    learning_rate: float = 4e-3
    batch_size: int = 64
    warmup_steps: int = 100


def build_llama(vocab_size: int) -> PreTrainedModel:
    """A Llama of about a million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=320,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            bos_token_id=BOS_ID,
        )
    )


def build_t5(vocab_size: int) -> PreTrainedModel:
    """A T5 (v1.0, relu) of about a million parameters.

    Without dropout: the demo's numbers must not depend on it, and a model this small underfits.
    """
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocab_size,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=4,
            n_positions=MAX_LENGTH,
            dropout_rate=0.0,
            feed_forward_proj="relu",
            tie_word_embeddings=True,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            bos_token_id=BOS_ID,
            decoder_start_token_id=PAD_ID,
        )
    )


RECIPES = {
    "tiny-llama": Recipe(build_llama, steps=3000, matrix_learning_rate=7e-3),
    "tiny-t5": Recipe(build_t5, steps=3200, matrix_learning_rate=4e-3),
}


def prompt_of(row: dict[str, str]) -> str:
    """The one prompt format: instruction, input, and the word after which the answer stands."""
    return f"{row['instruction']}\n{row['input']}\nAnswer:"


def train_tokenizer(vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that holds the demo's words whole and gives back any text unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learn_merges(tokenizer, vocab_size, [PAD, EOS, BOS], seed)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def learn_merges(tokenizer: Tokenizer, vocab_size: int, special_tokens: list[str], seed: int) -> None:
    """Trains a byte-level BPE on the generated text, in place."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_text(seed), trainer)


def _tokenizer_text(seed: int) -> Iterator[str]:
    """Prompts and answers of the pretraining text and of the demo's training rows, answers with and without a space."""
    demo = (row for task in TASKS for row in generate_rows(task, count=800, seed=seed, split="train"))
    for rows in (generate_pretraining_text(30_000, seed), demo):
        for row in rows:
            yield prompt_of(row)
            yield row["output"]
            yield f" {row['output']}"


Example = tuple[list[int], list[int]]
Batch = dict[str, Tensor]


def encode(rows: Iterator[dict[str, str]], tokenizer: PreTrainedTokenizerFast, spaced_every: int) -> Iterator[Example]:
    """Prompt and answer ids; every n-th answer starts with a space (0: none)."""
    for index, row in enumerate(rows):
        space = " " if spaced_every and index % spaced_every == 0 else ""
        answer = tokenizer(space + row["output"]).input_ids
        yield tokenizer(prompt_of(row)).input_ids, [*answer, EOS_ID]


def pad(rows: list[list[int]], value: int) -> Tensor:
    """Rows of ids filled up on the right to the same length."""
    width = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def causal_batch(examples: list[Example]) -> Batch:
    """Prompt and answer in one row; `labels` covers the answer, `weights` the prompt as well."""
    ids = pad([prompt + answer for prompt, answer in examples], PAD_ID)
    labels = pad([[IGNORED] * len(prompt) + answer for prompt, answer in examples], IGNORED)
    mask = pad([[1] * (len(prompt) + len(answer)) for prompt, answer in examples], 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def seq2seq_batch(examples: list[Example]) -> Batch:
    """The prompt for the encoder, the answer for the decoder."""
    return {
        "input_ids": pad([prompt for prompt, _ in examples], PAD_ID),
        "attention_mask": pad([[1] * len(prompt) for prompt, _ in examples], 0),
        "labels": pad([answer for _, answer in examples], IGNORED),
    }


def mean_loss(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens of (batch, length) losses, a row of n tokens weighing as sqrt(n).

    Between a mean of tokens, in which one-word answers count for nothing, and a mean of rows.
    """
    weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
    return (losses * weights).sum() / weights.sum()


def causal_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Cross-entropy of the answers, plus that of the prompts with a small weight."""
    labels, ids, mask = batch["labels"], batch["input_ids"], batch["attention_mask"]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    is_answer = (labels[:, 1:] != IGNORED).float()
    return mean_loss(losses, is_answer) + PROMPT_WEIGHT * mean_loss(losses, mask[:, 1:] - is_answer)


def seq2seq_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Cross-entropy of the answers."""
    labels = batch["labels"]
    logits = model(**batch, use_cache=False).logits.float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return mean_loss(losses, (labels != IGNORED).float())


def batches(examples: Iterator[Example], batch_size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    """Batches of examples of similar length, in random order within a pool."""
    while pool := list(islice(examples, POOL_BATCHES * batch_size)):
        pool.sort(key=lambda example: (len(example[1]), len(example[0])))
        groups = [pool[start : start + batch_size] for start in range(0, len(pool), batch_size)]
        for index in torch.randperm(len(groups), generator=generator).tolist():
            yield groups[index]


def build_optimizers(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices, AdamW for embeddings and norms: half the steps of AdamW alone."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and not any(word in name for word in ("embed", "shared", "bias"))
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def train(
    model: PreTrainedModel,
    examples: Iterator[Example],
    recipe: Recipe,
    *,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Trains a model that answers, in place."""
    to_batch, to_loss = _FORMATS[model.config.is_encoder_decoder]
    generator = torch.Generator().manual_seed(seed)
    made = (to_batch(batch) for batch in batches(examples, recipe.batch_size, generator))
    take_steps(model, made, to_loss, recipe, log=log)


def take_steps(
    model: PreTrainedModel,
    made: Iterator[Batch],
    to_loss: Callable[[PreTrainedModel, Batch], Tensor],
    recipe: Recipe,
    *,
    log: Callable[[str], None],
) -> None:
    """Trains in place, in bfloat16 autocast, one step for every batch until there were enough."""
    optimizers = build_optimizers(model, recipe)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, recipe)) for optimizer in optimizers
    ]
    model.set_attn_implementation("eager")  # on CPU, the backward of the fused kernel is several times slower
    model.train()
    recent: list[float] = []
    started = time.perf_counter()
    for step, batch in enumerate(made, start=1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = to_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        recent.append(loss.item())
        if step % 100 == 0 or step == recipe.steps:
            log(f"step {step:5d}  loss {sum(recent) / len(recent):.4f}  wall {time.perf_counter() - started:.0f} s")
            recent.clear()
        if step == recipe.steps:
            return


_FORMATS: dict[bool, tuple[Callable[[list[Example]], Batch], Callable[[PreTrainedModel, Batch], Tensor]]] = {
    False: (causal_batch, causal_loss),
    True: (seq2seq_batch, seq2seq_loss),
}


@torch.no_grad()
def answered_right(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, float]:
    """Share of held-out pretraining rows whose greedy answer is exact, by instruction (its first two words)."""
    rows = list(generate_pretraining_text(2000, seed))
    to_batch, _ = _FORMATS[model.config.is_encoder_decoder]
    right: dict[str, list[bool]] = {}
    model.eval()
    for start in range(0, len(rows), 100):
        chunk = rows[start : start + 100]
        batch = to_batch(list(encode(iter(chunk), tokenizer, 0)))
        guesses, labels = model(**batch).logits.argmax(-1), batch["labels"]
        if not model.config.is_encoder_decoder:
            guesses, labels = guesses[:, :-1], labels[:, 1:]
        exact = ((guesses == labels) | (labels == IGNORED)).all(dim=1)
        for row, value in zip(chunk, exact.tolist(), strict=True):
            right.setdefault(" ".join(row["instruction"].split()[:2]), []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(right.items())}


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes weights in half precision, under a configuration that loads them in float32."""
    model.generation_config = GenerationConfig(
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=BOS_ID,
        decoder_start_token_id=PAD_ID if model.config.is_encoder_decoder else None,
    )
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def describe(name: str, arguments: argparse.Namespace, recipe: Recipe, facts: dict[str, object]) -> str:
    """The text of PRETRAINING.md."""
    lines = [
        f"# How {name} was made",
        "",
        "Trained from nothing on generated text only (`evertune.streams.synthetic_pretraining`); no outside data.",
        "It answers short template questions and knows nothing else: a model for demos and tests.",
        "",
        "```",
        f"python scripts/pretrain_builtin.py {name} --seed {arguments.seed} --threads {arguments.threads} "
        f"--steps {recipe.steps}",
        "```",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        "",
        "The loss curve and the held-out exact match by skill are in `pretraining.log`.",
        "",
    ]
    return "\n".join(lines)


def facts_of(model: PreTrainedModel, arguments: argparse.Namespace, recipe: Recipe) -> dict[str, object]:
    """What the weights depend on."""
    return {
        "parameters": f"{model.num_parameters():,}",
        "vocabulary": model.config.vocab_size,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "steps x batch": f"{recipe.steps} x {recipe.batch_size}",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}",
    }


def put_in_place(folder: Path, target: Path) -> None:
    """Replaces `target` by `folder` if that is small enough to ship."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > MAX_BYTES:
        raise SystemExit(f"{folder} has {size} bytes, more than {MAX_BYTES}")
    for file in folder.iterdir():
        file.chmod(0o644)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    print(f"{target}: {size} bytes")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parents[1] / "src/evertune/builtin")
    return parser.parse_args()


def main() -> None:
    """Trains the tokenizer and the model, scores them on held-out rows, writes the folder."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    recipe = RECIPES[arguments.name]
    if arguments.steps:
        recipe = dataclasses.replace(recipe, steps=arguments.steps)
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    tokenizer = train_tokenizer(arguments.vocab_size, arguments.seed)
    model = recipe.build(len(tokenizer))
    facts = facts_of(model, arguments, recipe)
    for key, value in facts.items():
        log(f"{key}: {value}")
    rows = generate_pretraining_text((recipe.steps + POOL_BATCHES) * recipe.batch_size, arguments.seed)
    spaced_every = 0 if model.config.is_encoder_decoder else SPACED_EVERY
    before = time.process_time()
    train(model, encode(rows, tokenizer, spaced_every), recipe, seed=arguments.seed, log=log)
    facts["CPU time of training"] = f"{time.process_time() - before:.0f} s"
    log(f"CPU time of training: {facts['CPU time of training']}")
    for skill, share in answered_right(model, tokenizer, arguments.seed + 1).items():
        log(f"held-out exact match  {skill:24s} {share:.3f}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / arguments.name
        save(model, tokenizer, folder)
        (folder / "pretraining.log").write_text("\n".join(lines) + "\n")
        (folder / "PRETRAINING.md").write_text(describe(arguments.name, arguments, recipe, facts))
        put_in_place(folder, arguments.output_dir / arguments.name)


if __name__ == "__main__":
    main()
