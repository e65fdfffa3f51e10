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
        "instruction_format": "evertune.metrics.instruction_format:INSTRUCTION_FORMAT",
        "gsm8k_strict": "evertune.metrics.mathematics:GSM8K_STRICT",
        "gsm8k_flexible": "evertune.metrics.mathematics:GSM8K_FLEXIBLE",
        "code_parses": "evertune.metrics.code:CODE_PARSES",
        "code_passes": "evertune.metrics.code:CODE_PASSES",
        "tool_call_exact": "evertune.metrics.tool_calls:TOOL_CALL_EXACT",
        "tool_call_json": "evertune.metrics.tool_calls:TOOL_CALL_JSON",
        "tool_call_name": "evertune.metrics.tool_calls:TOOL_CALL_NAME",
        "tool_call_required": "evertune.metrics.tool_calls:TOOL_CALL_REQUIRED",
        "tool_call_types": "evertune.metrics.tool_calls:TOOL_CALL_TYPES",
        "preference_accuracy": "evertune.metrics.preference:PREFERENCE_ACCURACY",
        "preference_accuracy_sum": "evertune.metrics.preference:PREFERENCE_ACCURACY_SUM",
        "rouge2": "evertune.metrics.text:ROUGE2",
        "bleu4": "evertune.metrics.text:BLEU4",
        "entity_f1": "evertune.metrics.entities:ENTITY_F1",
        "entity_precision": "evertune.metrics.entities:ENTITY_PRECISION",
        "entity_recall": "evertune.metrics.entities:ENTITY_RECALL",
        "squad_f1": "evertune.metrics.spans:SQUAD_F1",
        "squad_exact": "evertune.metrics.spans:SQUAD_EXACT",
        "argument_f1": "evertune.metrics.arguments:ARGUMENT_F1",
        "argument_precision": "evertune.metrics.arguments:ARGUMENT_PRECISION",
        "argument_recall": "evertune.metrics.arguments:ARGUMENT_RECALL",
        "argument_identification_f1": "evertune.metrics.arguments:ARGUMENT_IDENTIFICATION_F1",
        "argument_head_f1": "evertune.metrics.arguments:ARGUMENT_HEAD_F1",
        "noise_explained": "evertune.metrics.images:NOISE_EXPLAINED",
    },
)
