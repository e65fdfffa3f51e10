"""Which token begins, ends and pads: read from three places that may contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evertune.errors import BackboneError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")

# Options of generation_config.json that would make an answer depend on chance, or on more than the most likely token.
_NEUTRAL: Mapping[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "length_penalty": 1.0,
}


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that are used, wherever else other ones are written.

    Attributes:
        bos: Begin token, None if the tokenizer has none.
        eos: End token: what an answer ends with; None for models that do not answer in text.
        pad: Padding; never seen by the model, since masks are exact.
        stop: Ids that end a generated answer; `eos` is the first.
        notes: What was contradictory or missing, and what is used.
    """

    bos: int | None
    eos: int | None
    pad: int
    stop: tuple[int, ...]
    notes: tuple[str, ...]


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that steer a model and that no text may spell; the unknown token is not one of them."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    unknown: Any = tokenizer.unk_token_id
    return frozenset((added | set(tokenizer.all_special_ids)) - {unknown})


def reconcile(
    tokenizer: PreTrainedTokenizerBase, settings: PretrainedConfig, generation: GenerationConfig | None
) -> SpecialTokens:
    """Settles which special tokens are used; the tokenizer is right where the files contradict each other.

    No token is ever added: with embeddings that are tied to the output layer, a new row would change the model. A
    tokenizer without a padding token gets the end token as padding, which exact attention masks make harmless.

    Args:
        tokenizer: Gets the missing end and padding tokens.
        settings: The model's configuration; not changed.
        generation: From generation_config.json, if there is one; not changed.

    Raises:
        BackboneError: If nothing says which token ends an answer, or the model has no such token.
    """
    text = settings.get_text_config()
    said: dict[str, Any] = {"config.json": text}
    if generation is not None:
        said["generation_config.json"] = generation
    notes = [note for name in _NAMES if (note := _contradiction(name, tokenizer, said))]
    eos = _settle_eos(tokenizer, said, text.vocab_size, notes)
    pad = _settle_pad(tokenizer, said, text.vocab_size, notes)
    controls = control_ids(tokenizer)
    more = [index for index in _ids(getattr(generation, "eos_token_id", None)) if index in controls and index != eos]
    bos: Any = tokenizer.bos_token_id
    return SpecialTokens(bos, eos, pad, (eos, *more), tuple(notes))


def settle_padding(tokenizer: PreTrainedTokenizerBase, settings: PretrainedConfig) -> SpecialTokens:
    """Settles the padding token of an encoder, which needs no other.

    Args:
        tokenizer: Gets a missing padding token: the one of the configuration, or the end token.
        settings: The model's configuration; not changed.

    Raises:
        BackboneError: If there is neither.
    """
    text, notes = settings.get_text_config(), list[str]()
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None and text.pad_token_id is None:
        raise BackboneError(
            "Neither the tokenizer nor the configuration names a padding token.",
            where=tokenizer.name_or_path,
            instead="Set `pad_token` in tokenizer_config.json.",
        )
    pad = _settle_pad(tokenizer, {"config.json": text}, getattr(text, "vocab_size", None) or len(tokenizer), notes)
    bos: Any = tokenizer.bos_token_id
    return SpecialTokens(bos, None, pad, (), tuple(notes))


def left_out(generation: GenerationConfig | None) -> str | None:
    """A note that names the options of generation_config.json that are not used, None if there are none."""
    if generation is None:
        return None
    found = {name: getattr(generation, name, None) for name in _NEUTRAL}
    odd = [f"{name} {value}" for name, value in found.items() if value not in (None, _NEUTRAL[name])]
    if not odd:
        return None
    return f"generation_config.json asks for {', '.join(odd)}: not used, answers are the most likely ones."


def _ids(value: int | list[int] | tuple[int, ...] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _contradiction(name: str, tokenizer: Any, said: Mapping[str, Any]) -> str | None:
    chosen = getattr(tokenizer, name)
    values = {source: getattr(place, name, None) for source, place in said.items()}
    if chosen is None or all(value is None or chosen in _ids(value) for value in values.values()):
        return None
    spoken = ", ".join(f"{source} says {value}" for source, value in values.items() if value is not None)
    token = tokenizer.convert_ids_to_tokens(chosen)
    return f"Contradictory {name}: {spoken}, the tokenizer says {chosen} (`{token}`). {chosen} is used."


def _first_known(name: str, tokenizer: Any, said: Mapping[str, Any], size: int) -> int | None:
    candidates = [index for place in said.values() for index in _ids(getattr(place, name, None))]
    return next((index for index in candidates if 0 <= index < min(size, len(tokenizer))), None)


def _settle_eos(tokenizer: Any, said: Mapping[str, Any], size: int, notes: list[str]) -> int:
    eos = tokenizer.eos_token_id
    if eos is None:
        eos = _first_known("eos_token_id", tokenizer, said, size)
        if eos is None:
            raise BackboneError(
                "Neither the tokenizer nor the configuration names an end token, so no answer could end.",
                where=tokenizer.name_or_path,
                instead="Set `eos_token` in tokenizer_config.json.",
            )
        token = tokenizer.convert_ids_to_tokens(eos)
        tokenizer.eos_token = token
        notes.append(f"The tokenizer names no end token; `{token}` ({eos}) of the configuration is used.")
    if eos >= size:
        raise BackboneError(
            f"The end token has id {eos}, but the model knows {size} tokens: the tokenizer is of another model.",
            where=tokenizer.name_or_path,
            instead="Copy the tokenizer files of this very model beside its weights.",
        )
    return eos


def _settle_pad(tokenizer: Any, said: Mapping[str, Any], size: int, notes: list[str]) -> int:
    pad = tokenizer.pad_token_id
    if pad is not None and pad < size:
        return pad
    wrong = "names no padding token" if pad is None else f"pads with id {pad}, which the model does not have"
    pad = _first_known("pad_token_id", tokenizer, said, size)
    source = "of the configuration" if pad is not None else "(end token; padding is masked, nothing is added)"
    pad = tokenizer.eos_token_id if pad is None else pad
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    notes.append(f"The tokenizer {wrong}; `{tokenizer.pad_token}` {source} is used for padding.")
    return pad
