"""Model families: load, encode, collate, loss, predict."""

from evertune.registry import Registry

BACKBONES = Registry(
    "task type",
    {
        "causal_lm": "evertune.backbones.causal_lm:CausalLM",
        "seq2seq_lm": "evertune.backbones.seq2seq_lm:Seq2SeqLM",
    },
)
