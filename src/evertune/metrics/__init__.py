"""Scores, and what is computed from them: pure functions of predictions, references and the accuracy matrix."""

from evertune.registry import Registry

METRICS = Registry(
    "metric",
    {
        "exact_match": "evertune.metrics.text:EXACT_MATCH",
        "accuracy": "evertune.metrics.classification:ACCURACY",
        "f1": "evertune.metrics.classification:F1",
        "rouge1": "evertune.metrics.text:ROUGE1",
        "rougeL": "evertune.metrics.text:ROUGE_L",
    },
)
