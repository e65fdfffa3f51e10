"""Model families: load, encode, collate, loss, predict."""

from evertune.registry import Registry

BACKBONES = Registry(
    "task type",
    {
        "causal_lm": "evertune.backbones.causal_lm:CausalLM",
        "seq2seq_lm": "evertune.backbones.seq2seq_lm:Seq2SeqLM",
        "sequence_classification": "evertune.backbones.sequence_classification:SequenceClassification",
        "token_classification": "evertune.backbones.token_classification:TokenClassification",
        "question_answering": "evertune.backbones.question_answering:QuestionAnswering",
        "argument_extraction": "evertune.backbones.argument_extraction:ArgumentExtraction",
        "image_classification": "evertune.backbones.image_classification:ImageClassification",
        "text_to_image": "evertune.backbones.text_to_image:TextToImage",
    },
)
