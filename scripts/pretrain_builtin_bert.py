"""Makes the small BERT that comes with the package: a tokenizer and an encoder, from nothing, on a CPU.

    python scripts/pretrain_builtin_bert.py

It learns to fill gaps in the generated text that the other built-in models answer, and whether an answer belongs to its
prompt, which trains the pooler. Everything follows from the seed, the number of threads and the versions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pretrain_builtin as shared  # first: it quiets OpenMP before torch is there
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForPreTraining, PreTrainedModel, PreTrainedTokenizerFast

from evertune.randomness import python_generator
from evertune.streams.synthetic_pretraining import generate_pretraining_text

NAME = "tiny-bert"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD_ID, _, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIAL))
MASKED_SHARE = 0.2
# A whole answer is hidden now and then: it has to be found out from the prompt.
HIDDEN_ANSWER_SHARE = 0.3
# One batch in so many holds rows that are as long as the model can read, or every later position would stay random.
LONG_EVERY = 8
LONG_BATCH = 8
FIT_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Text:
    """A row for the encoder.

    Attributes:
        first: Ids of the first segment, with [CLS] and [SEP].
        second: Ids of the second segment with its [SEP], or nothing.
        hidden: How many ids before the last [SEP] are an answer that may be hidden as a whole.
        fits: Whether the second segment is the answer to the first; None if nothing is to be told from it.
    """

    first: list[int]
    second: list[int]
    hidden: int = 0
    fits: bool | None = None

    def __len__(self) -> int:
        return len(self.first) + len(self.second)


def build_bert(vocab_size: int) -> PreTrainedModel:
    """A BERT of about 0.8 million parameters, without dropout: a model this small underfits."""
    return BertForPreTraining(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=shared.MAX_LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=PAD_ID,
        )
    )


def train_tokenizer(vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with BERT's frame around one segment or two; words are the same with and without a space before.

    Offsets are those of the words without the space, as spans of answers and entities need them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    shared.learn_merges(tokenizer, vocab_size, SPECIAL, seed)
    frame = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS_ID), ("[SEP]", SEP_ID)],
    )
    trim = processors.ByteLevel(add_prefix_space=True, trim_offsets=True)
    tokenizer.post_processor = processors.Sequence([trim, frame])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=shared.MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def texts(rows: Iterator[dict[str, str]], tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Text]:
    """Rows in the forms that tasks have: a text alone, a question with a text, a prompt with an answer that may fit."""
    rng = python_generator(seed, "forms-of-text")

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    earlier = "nothing"
    for row in rows:
        instruction, text, answer = row["instruction"], row["input"], row["output"]
        form = rng.randrange(6)
        if form < 3:
            fits = answer == earlier or rng.random() < 0.5
            said = ids(answer if fits else earlier)
            first = [CLS_ID, *ids(f"{instruction}\n{text}"), SEP_ID]
            yield Text(first, [*said, SEP_ID], len(said) if fits else 0, fits)
        elif form == 3:
            said = ids(answer)
            yield Text([CLS_ID, *ids(shared.prompt_of(row)), *said, SEP_ID], [], len(said))
        elif form == 4:
            yield Text([CLS_ID, *ids(instruction), SEP_ID], [*ids(f"{text} Answer: {answer}"), SEP_ID])
        else:
            yield Text([CLS_ID, *ids(text), SEP_ID], [])
        earlier = answer


def long_texts(rows: Iterator[Text]) -> Iterator[Text]:
    """Many rows in one, as long as the model can read."""
    joined: list[int] = []
    for row in rows:
        piece = [*row.first[1:-1], *row.second[:-1]]
        if len(joined) + len(piece) > shared.MAX_LENGTH - 2:
            yield Text([CLS_ID, *joined, SEP_ID], [])
            joined = []
        joined += piece


def batch_of(rows: list[Text], vocab_size: int, generator: torch.Generator) -> shared.Batch:
    """Ids with gaps, and what belongs into them: of the gaps, 80 % are masks, 10 % random, 10 % as they were."""
    ids = shared.pad([[*row.first, *row.second] for row in rows], PAD_ID)
    segments = shared.pad([[0] * len(row.first) + [1] * len(row.second) for row in rows], 0)
    gaps = (torch.rand(ids.shape, generator=generator) < MASKED_SHARE) & (ids >= len(SPECIAL))
    hide = torch.rand(len(rows), generator=generator) < HIDDEN_ANSWER_SHARE
    for index, row in enumerate(rows):
        if row.hidden and hide[index]:
            gaps[index, len(row) - 1 - row.hidden : len(row) - 1] = True
    labels = ids.masked_fill(~gaps, shared.IGNORED)
    chance = torch.rand(ids.shape, generator=generator)
    others = torch.randint(len(SPECIAL), vocab_size, ids.shape, generator=generator)
    filled = torch.where(gaps & (chance < 0.8), MASK_ID, ids)
    filled = torch.where(gaps & (chance >= 0.9), others, filled)
    fits = [shared.IGNORED if row.fits is None else int(not row.fits) for row in rows]  # 0: fits, as in BERT
    mask = shared.pad([[1] * len(row) for row in rows], 0)
    return {
        "input_ids": filled,
        "token_type_ids": segments,
        "attention_mask": mask,
        "labels": labels,
        "fits": torch.tensor(fits),
    }


def masked_loss(model: PreTrainedModel, batch: shared.Batch) -> Tensor:
    """Mean cross-entropy over the gaps, plus that of whether answers fit with a small weight."""
    out = model(**{name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
    loss = cross_entropy(out.prediction_logits.float().transpose(1, 2), batch["labels"])
    if (batch["fits"] == shared.IGNORED).all():
        return loss
    return loss + FIT_WEIGHT * cross_entropy(out.seq_relationship_logits.float(), batch["fits"])


def masked_batches(
    rows: Iterator[dict[str, str]], tokenizer: PreTrainedTokenizerFast, recipe: shared.Recipe, seed: int
) -> Iterator[shared.Batch]:
    """Batches of rows of similar length, and a batch of the longest after every few."""
    generator = torch.Generator().manual_seed(seed)
    source = texts(rows, tokenizer, seed)
    long = long_texts(source)
    while pool := list(islice(source, shared.POOL_BATCHES * recipe.batch_size)):
        pool.sort(key=len)
        groups = [pool[start : start + recipe.batch_size] for start in range(0, len(pool), recipe.batch_size)]
        for number, index in enumerate(torch.randperm(len(groups), generator=generator).tolist()):
            if number % LONG_EVERY == LONG_EVERY - 1:
                yield batch_of(list(islice(long, LONG_BATCH)), len(tokenizer), generator)
            yield batch_of(groups[index], len(tokenizer), generator)


@torch.no_grad()
def held_out(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[str]:
    """Shares of right fillings and of right judgements on rows of another seed, with what the commonest guess gets."""
    rows = list(texts(generate_pretraining_text(2000, seed), tokenizer, seed))
    generator = torch.Generator().manual_seed(seed)
    filled, wanted, judged, truth = [], [], [], []
    model.eval()
    for start in range(0, len(rows), 100):
        batch = batch_of(rows[start : start + 100], len(tokenizer), generator)
        out = model(**{name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
        gaps, told = batch["labels"] != shared.IGNORED, batch["fits"] != shared.IGNORED
        filled.append(out.prediction_logits.argmax(-1)[gaps])
        wanted.append(batch["labels"][gaps])
        judged.append(out.seq_relationship_logits.argmax(-1)[told])
        truth.append(batch["fits"][told])
    for what, found, right in (("gaps filled", filled, wanted), ("fitting answers told", judged, truth)):
        guesses, labels = torch.cat(found), torch.cat(right)
        share = (guesses == labels).float().mean().item()
        commonest = (labels == labels.mode().values).float().mean().item()
        yield f"held-out {what:21s} {share:.3f}  (commonest guess {commonest:.3f}, of {len(labels)})"


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes encoder, pooler and the head for gaps in half precision, under a configuration that loads float32."""
    model.config.architectures = ["BertForMaskedLM"]
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"dtype": "float32", "architectures": ["BertForMaskedLM"]}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    # Tied tensors are written once, under the name of the embedding, and what no architecture reads not at all.
    left_out = ("cls.seq_relationship.", "cls.predictions.decoder.", "bert.embeddings.position_ids")
    weights = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(left_out) and tensor.is_floating_point()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def describe(arguments: argparse.Namespace, recipe: shared.Recipe, facts: dict[str, object]) -> str:
    """The text of PRETRAINING.md."""
    lines = [
        f"# How {NAME} was made",
        "",
        "Trained from nothing on generated text only (`evertune.streams.synthetic_pretraining`); no outside data.",
        "It fills gaps in short template texts and knows nothing else: an encoder for demos and tests.",
        "",
        "```",
        f"python scripts/pretrain_builtin_bert.py --seed {arguments.seed} --threads {arguments.threads} "
        f"--steps {recipe.steps}",
        "```",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        "",
        "The loss curve and the held-out shares are in `pretraining.log`.",
        "",
    ]
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parents[1] / "src/evertune/builtin")
    return parser.parse_args()


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    files: dict[str, str],
    target: Path,
) -> None:
    """Writes the folder beside its place, then puts it there."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / NAME
        folder.mkdir()
        save(model, tokenizer, folder)
        for name, text in files.items():
            (folder / name).write_text(text)
        shared.put_in_place(folder, target)


def main() -> None:
    """Trains the tokenizer and the model, scores them on held-out rows, writes the folder."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    recipe = shared.Recipe(build_bert, steps=arguments.steps, matrix_learning_rate=4e-3)
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    tokenizer = train_tokenizer(arguments.vocab_size, arguments.seed)
    model = build_bert(len(tokenizer))
    facts = shared.facts_of(model, arguments, recipe)
    for key, value in facts.items():
        log(f"{key}: {value}")
    endless = generate_pretraining_text(1 << 40, arguments.seed)
    before = time.process_time()
    made = masked_batches(endless, tokenizer, recipe, arguments.seed)
    shared.take_steps(model, made, masked_loss, recipe, log=log)
    facts["CPU time of training"] = f"{time.process_time() - before:.0f} s"
    log(f"CPU time of training: {facts['CPU time of training']}")
    for line in held_out(model, tokenizer, arguments.seed + 1):
        log(line)
    files = {"pretraining.log": "\n".join(lines) + "\n", "PRETRAINING.md": describe(arguments, recipe, facts)}
    write(model, tokenizer, files, arguments.output_dir / NAME)


if __name__ == "__main__":
    main()
