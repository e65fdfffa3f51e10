"""Whether a model can do what its task type asks, judged from config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evertune.backbones.base import BackboneConfig
from evertune.errors import BackboneError, did_you_mean

_MAPPINGS = {
    "causal_lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "seq2seq_lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "sequence_classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token_classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "question_answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "argument_extraction": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "image_classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}


def check_suitable(raw: Mapping[str, Any], config: BackboneConfig, *, where: str) -> None:
    """Refuses models that transformers does not know, that need code of their own, or that do another task.

    Args:
        raw: The content of config.json.
        config: What is asked for.
        where: The folder or hub id, for the message.

    Raises:
        BackboneError: Naming the architecture and what to write instead.
    """
    from transformers import CONFIG_MAPPING

    model_type = str(raw.get("model_type", ""))
    own_code = bool(raw.get("auto_map"))
    if model_type not in CONFIG_MAPPING:
        if own_code and config.trust_remote_code:
            return
        raise _unknown_type(model_type, own_code, list(CONFIG_MAPPING.keys()), where)
    _check_task(raw, model_type, config, where)


def _unknown_type(model_type: str, own_code: bool, known: list[str], where: str) -> BackboneError:
    if own_code:
        return BackboneError(
            f"The model type `{model_type}` needs Python code that comes with it, and `trust_remote_code` is off.",
            where=where,
            instead="Read that code; if you trust it, write `backbone.trust_remote_code: true`.",
        )
    if not model_type:
        return BackboneError(
            "config.json names no `model_type`.", where=where, instead="Use the model's own config.json."
        )
    hint = did_you_mean(model_type, known)
    return BackboneError(
        f"The installed transformers does not know the model type `{model_type}`.",
        where=where,
        instead=hint if hint.startswith("Did you mean") else "A newer transformers may: pip install -U transformers",
    )


def _fitting(model_type: str) -> list[str]:
    from transformers.models.auto import modeling_auto

    fitting = [task for task, name in _MAPPINGS.items() if model_type in getattr(modeling_auto, name)]
    # Some encoder-decoders are in the causal list as well, with their decoder alone.
    return [task for task in fitting if task != "causal_lm"] if "seq2seq_lm" in fitting else fitting


def _check_task(raw: Mapping[str, Any], model_type: str, config: BackboneConfig, where: str) -> None:
    architectures = raw.get("architectures") or [model_type]
    said = f"`{architectures[0]}` (model type `{model_type}`)"
    fitting = _fitting(model_type)
    if config.task_type not in fitting:
        raise BackboneError(
            f"{said} cannot be used with `task_type: {config.task_type}`.",
            where=where,
            instead=f"Write `task_type: {fitting[0]}`." if fitting else "Use another model.",
        )
    if config.task_type == "causal_lm" and architectures[0].endswith("ForMaskedLM") and not raw.get("is_decoder"):
        raise BackboneError(
            f"{said} fills gaps, looking both ways: it does not generate text.",
            where=where,
            instead="Use a causal model.",
        )
