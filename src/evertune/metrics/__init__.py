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
    },
)
