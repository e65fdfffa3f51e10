"""Configuration, tokenizer and weights from a path; every failure in the words of the person who wrote the path."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig, Encoded, Identity
from evertune.backbones.explain import explained, is_own_code, quiet_transformers
from evertune.backbones.fingerprint import fingerprint, weight_files
from evertune.backbones.heads import head_names
from evertune.backbones.location import Resolved, cached_snapshot, resolve_path
from evertune.backbones.special_tokens import SpecialTokens, left_out, reconcile, settle_padding
from evertune.backbones.suitability import check_suitable
from evertune.errors import BackboneError, CapabilityError
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")
_TOKENIZER_ADVICE = (
    "Copy the tokenizer files of this model (tokenizer.json, tokenizer_config.json, ...) beside its weights."
)


@dataclass(frozen=True)
class Described:
    """Everything about a model but its weights.

    Attributes:
        resolved: Where it is.
        settings: Its configuration.
        tokenizer: Its tokenizer, with a padding token and, for models that answer in text, an end token; None for a
            model of images.
        generation: From generation_config.json, if there is one.
        special: The special tokens that are used.
        notes: Sentences to say aloud.
    """

    resolved: Resolved
    settings: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    generation: GenerationConfig | None
    special: SpecialTokens
    notes: tuple[str, ...]


def describe(config: BackboneConfig, *, base_dir: Path | None = None) -> Described:
    """Reads configuration and tokenizer, no weights.

    Args:
        config: Which model.
        base_dir: Folder that relative paths start from; the working directory if None.

    Raises:
        BackboneError: If something is missing, damaged, or not meant for the task type.
    """
    resolved = resolve_path(config.path, base_dir, revision=config.revision)
    settings = _read_settings(resolved, config)
    backbone = BACKBONES.get(config.task_type)
    if not backbone.answers_in_text:
        return _described_encoder(resolved, settings, config, reads=backbone.reader.reads)
    tokenizer, generation = _read_tokenizer(resolved, config), _read_generation(resolved, config)
    special = reconcile(tokenizer, settings, generation)
    more = [note for note in (left_out(generation), _quantised_note(settings)) if note]
    return Described(resolved, settings, tokenizer, generation, special, (resolved.note, *special.notes, *more))


def _described_encoder(
    resolved: Resolved, settings: PretrainedConfig, config: BackboneConfig, *, reads: str
) -> Described:
    """An encoder generates nothing: of special tokens it needs padding, and a model of images needs none."""
    quantised = [note for note in [_quantised_note(settings)] if note]
    if reads == "image":
        none: Any = None
        return Described(
            resolved, settings, none, None, SpecialTokens(None, None, 0, (), ()), (resolved.note, *quantised)
        )
    tokenizer = _read_tokenizer(resolved, config)
    special = settle_padding(tokenizer, settings)
    return Described(resolved, settings, tokenizer, None, special, (resolved.note, *special.notes, *quantised))


def load_tokenizer(
    config: BackboneConfig, *, base_dir: Path | None = None
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """The tokenizer alone, with an end and a padding token, and the sentences to say aloud.

    Raises:
        BackboneError: As `describe`.
    """
    described = describe(config, base_dir=base_dir)
    return described.tokenizer, described.notes


class Encoder(Protocol):
    """Encodes rows: a backbone, or what it has without weights."""

    def encode(
        self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int, answers: bool = True
    ) -> Sequence[Encoded]:
        """Token ids of every row."""
        ...


def build_skeleton(config: BackboneConfig, *, base_dir: Path | None = None) -> PreTrainedModel:
    """The model without weights, on the meta device: its module tree and its shapes, at no cost in memory.

    Raises:
        BackboneError: If there is no such model, or it is not meant for the task type.
    """
    import torch

    resolved = resolve_path(config.path, base_dir, revision=config.revision)
    settings = _read_settings(resolved, config)
    with explained(resolved), torch.device("meta"):
        return _auto_class(config).from_config(
            settings, dtype=getattr(torch, config.dtype), trust_remote_code=config.trust_remote_code
        )


def load_model(config: BackboneConfig, described: Described) -> tuple[PreTrainedModel, Identity, tuple[str, ...]]:
    """The model with its weights, in evaluation mode, on the CPU (quantised ones on the current device).

    Its special token ids are those of the tokenizer, and its generation defaults are emptied, so that answers are the
    most likely ones whatever generation_config.json asks for.

    Returns:
        The model, what it is, and the paths of modules beside its head that the weights of an encoder lack: its pooler,
        which is then random and must learn.

    Raises:
        BackboneError: If the weights are missing, damaged, incomplete or of other shapes.
        CapabilityError: If quantisation or gradient checkpointing is asked for and cannot be had.
    """
    resolved = described.resolved
    options = _quantization_options(config)
    # Read first where the files are there already: it finds missing and damaged ones, and says so better.
    known = None if resolved.kind == "hub" else fingerprint(Path(resolved.location))
    with explained(resolved), quiet_transformers():
        import torch

        model, report = _auto_class(config).from_pretrained(
            resolved.location,
            config=described.settings,
            revision=resolved.revision,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=config.trust_remote_code,
            attn_implementation=config.attn_implementation,
            weights_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **options,
        )
    folder, revision = _model_folder(resolved, config)
    fresh = _fresh_parameters(model, report, config)
    notes = (*described.notes, *_check_report(model, report, str(folder), fresh), *_pickle_note(folder))
    _settle(model, described)
    _try_own_code(model, described)
    _keep_differentiable(model)
    _switch_checkpointing(model, config)
    identity = Identity(resolved.location, resolved.kind, revision, known or fingerprint(folder), notes)
    return model, identity, _fresh_modules(fresh, model.base_model_prefix)


def _auto_class(config: BackboneConfig) -> Any:
    import transformers

    return getattr(transformers, BACKBONES.get(config.task_type).auto_class)


def _model_folder(resolved: Resolved, config: BackboneConfig) -> tuple[Path, str | None]:
    """The folder with the files, and the commit of a hub model."""
    if resolved.kind != "hub":
        return Path(resolved.location), None
    folder = cached_snapshot(resolved.location, resolved.revision or config.revision)
    if folder is None:
        raise BackboneError("The model was loaded, but its files are not in the cache.", where=resolved.location)
    return folder, folder.name


def _read_settings(resolved: Resolved, config: BackboneConfig) -> PretrainedConfig:
    from transformers import AutoConfig, PretrainedConfig

    with explained(resolved), quiet_transformers():
        raw, _ = PretrainedConfig.get_config_dict(resolved.location, revision=resolved.revision)
        check_suitable(raw, config, where=resolved.location)
        return AutoConfig.from_pretrained(
            resolved.location, revision=resolved.revision, trust_remote_code=config.trust_remote_code
        )


def _read_tokenizer(resolved: Resolved, config: BackboneConfig) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if resolved.kind != "hub" and not any(
        file for pattern in _TOKENIZER_FILES for file in Path(resolved.location).glob(pattern)
    ):
        raise BackboneError(
            "There are no tokenizer files in this folder.", where=resolved.location, instead=_TOKENIZER_ADVICE
        )
    with explained(resolved, "The tokenizer cannot be loaded", _TOKENIZER_ADVICE), quiet_transformers():
        return AutoTokenizer.from_pretrained(
            resolved.location, revision=resolved.revision, trust_remote_code=config.trust_remote_code
        )


def _read_generation(resolved: Resolved, config: BackboneConfig) -> GenerationConfig | None:
    from transformers import GenerationConfig

    read = partial(GenerationConfig.from_pretrained, resolved.location, revision=resolved.revision or "main")
    if resolved.kind != "hub":
        if not (Path(resolved.location) / "generation_config.json").is_file():
            return None
        with explained(resolved, "generation_config.json cannot be read", "Repair or remove it."), quiet_transformers():
            return read()
    try:
        with quiet_transformers():
            return read()
    except OSError:
        return None


def _quantised_note(settings: PretrainedConfig) -> str | None:
    found = getattr(settings, "quantization_config", None)
    return f"The weights are quantised on disk ({found.get('quant_method')})." if isinstance(found, dict) else None


def _quantization_options(config: BackboneConfig) -> dict[str, Any]:
    if config.quantization is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CapabilityError(
            f"`quantization: {config.quantization}` needs the package bitsandbytes, which is not installed.",
            where="backbone.quantization",
            instead="Run: pip install 'evertune[quantization]'",
        )
    import torch
    from transformers import BitsAndBytesConfig

    if config.quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, config.dtype)
        )
    }


def _fresh_parameters(model: PreTrainedModel, report: dict[str, Any], config: BackboneConfig) -> list[str]:
    """Parameters of an encoder that its weights need not hold: its head, and a pooler between the two."""
    if BACKBONES.get(config.task_type).answers_in_text:
        return []
    heads = tuple(f"{name}." for name in head_names(model))
    wanted = {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}
    return [
        name
        for name, _ in model.named_parameters()
        if name.startswith(heads) or (name in wanted and ".pooler." in f".{name}")
    ]


def _fresh_modules(parameters: Sequence[str], encoder: str) -> tuple[str, ...]:
    """Paths of the poolers inside an encoder that hold some of these parameters; others are part of the head."""
    inside = [name.split(".") for name in parameters if name.startswith(f"{encoder}.")]
    return tuple(dict.fromkeys(".".join(path[: path.index("pooler") + 1]) for path in inside if "pooler" in path))


def _check_report(model: PreTrainedModel, report: dict[str, Any], where: str, fresh: Sequence[str]) -> list[str]:
    """Refuses weights that lack parameters or have other shapes; returns notes on superfluous ones."""
    mismatched = sorted(key for key in report["mismatched_keys"] if key[0] not in fresh)
    if mismatched:
        name, found, expected = mismatched[0]
        raise BackboneError(
            f"{len(mismatched)} tensors have other shapes than config.json says, first `{name}`: {list(found)} instead "
            f"of {list(expected)}.",
            where=where,
            instead="Use the config.json that belongs to these weights.",
        )
    parameters = {name for name, _ in model.named_parameters()} - set(fresh)
    missing = sorted(set(report["missing_keys"]) & parameters)
    if missing and len(missing) == len(parameters) and fresh:
        raise BackboneError(
            f"{type(model).__name__} looks for its weights under other names than these have: none of them is found.",
            where=where,
            instead="Use a model of another architecture for this task type.",
        )
    if missing:
        raise BackboneError(
            f"The weights lack {len(missing)} of the model's {len(parameters)} tensors, first `{missing[0]}`: "
            "they would be random.",
            where=where,
            instead="Use the complete weights, of the architecture that config.json names.",
        )
    # An encoder goes without the head that it was trained with: no one misses that.
    unused = sorted(key for key in report["unexpected_keys"] if not fresh or _of_encoder(key, model.base_model_prefix))
    return [f"{len(unused)} tensors of the weights are not used, first `{unused[0]}`."] if unused else []


def _of_encoder(key: str, encoder: str) -> bool:
    return key.startswith(f"{encoder}.") and ".pooler." not in key


def _pickle_note(folder: Path) -> list[str]:
    files = weight_files(folder)
    if files[0].suffix == ".safetensors":
        return []
    return [f"The weights are a pickle ({files[0].name}), read as tensors only; no code in it was run."]


def _settle(model: PreTrainedModel, described: Described) -> None:
    """Makes the model's token ids those of the tokenizer, and its generation defaults neutral."""
    from transformers import GenerationConfig

    special, text = described.special, model.config.get_text_config()
    if not special.stop:  # it generates nothing, and keeps the ids of its own configuration
        for settings in (model.config, text):
            settings.pad_token_id, settings.use_cache = special.pad, False
        return
    for settings in (model.config, text):
        settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = special.bos, special.eos, special.pad
        settings.use_cache = False
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None and described.generation is not None:
        start = described.generation.decoder_start_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=special.bos,
        eos_token_id=list(special.stop),
        pad_token_id=special.pad,
        decoder_start_token_id=start,
    )


def _try_own_code(model: PreTrainedModel, described: Described) -> None:
    """Lets a model that brings its own code answer two tokens: what cannot run is better found now than after an epoch.

    Raises:
        BackboneError: If it cannot.
    """
    if not is_own_code(model) or not described.special.stop:
        return
    import torch

    ids = torch.full((1, 2), described.special.pad, device=model.device)
    asked: Any = model
    with explained(described.resolved, "The model cannot answer"), torch.no_grad():
        asked.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, use_cache=True)


def _keep_differentiable(model: PreTrainedModel) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights when a CPU scores with them.

    On CPUs with AVX512-BF16 it does so in evaluation mode, for a kernel that has no backward pass, and goes on to use
    it in training: no gradient would reach the adapters below any more.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]


def _switch_checkpointing(model: PreTrainedModel, config: BackboneConfig) -> None:
    """Recomputes activations, in the variant that needs no gradient at the embeddings."""
    if not config.gradient_checkpointing:
        return
    if not model.supports_gradient_checkpointing:
        raise CapabilityError(
            f"{type(model).__name__} does not support gradient checkpointing.",
            where="backbone.gradient_checkpointing",
            instead="Write `gradient_checkpointing: false`.",
        )
    # transformers renamed it; the older name warns where the newer exists.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
