"""Kinds of adapters: a name, what it is, where it sits, and what the bank can do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evertune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from evertune.adapters.spec import AdapterSpec

FULL, NONE = "full", "none"
DEFAULT_TARGET = "attention_query_value"
Place = Literal["linear", "norm", "embedding", "inside", ""]


@dataclass(frozen=True)
class Kind:
    """What is known of a kind before a model is there.

    Attributes:
        summary: One sentence.
        place: What it sits on: ``linear`` modules, each ``norm``, the ``embedding`` of the input, what peft itself
            chooses ``inside`` the model; empty where it sits on none.
        target: Default of `AdapterSpec.target`; empty where there is nothing to choose.
        alone: Why only one of its adapters can be on a model at a time; empty if several can take part together.
        bakes: Whether its change of a weight depends on nothing but the adapter, so that finished ones can be written
            into the base weights.
        prompts: Whether it adds virtual tokens and leaves all modules as they are.
    """

    summary: str
    place: Place = "linear"
    target: str = DEFAULT_TARGET
    alone: str = ""
    bakes: bool = False
    prompts: bool = False


def _prompts(summary: str) -> Kind:
    return Kind(summary, "", "", "one set of virtual tokens stands before the input at a time", prompts=True)


KINDS: Mapping[str, Kind] = {
    "lora": Kind("Low-rank change of weights, `B A` (Hu et al. 2021); with options DoRA, rsLoRA, PiSSA, EVA, ...",
                 bakes=True),
    "osf": Kind("The small singular directions of the weights learn, the large ones stay (Nayak et al. 2025).",
                bakes=True),
    FULL: Kind("Full fine-tuning: every weight of the model learns.", "", "",
               "all adapters of this kind are the weights of the model themselves"),
    NONE: Kind("No adapter: nothing but the heads of an encoder learn.", "", ""),
    "adalora": Kind("Low-rank change whose rank moves to the layers that need it while it learns (Zhang et al. 2023).",
                    alone="peft trains one of them at a time, with one budget of ranks"),
    "adamss": Kind("Small changes within learnt subspaces of the weights (AdaMSS)."),
    "adaption_prompt": Kind("Learnt prompts with gates in the upper layers of attention (LLaMA-Adapter).", "inside", "",
                            "peft exchanges the attention modules of one adapter for those of another"),
    "beft": Kind("Learnt biases of the value projections (BEFT)."),
    "boft": Kind("Orthogonal rotation of weights as a product of butterfly factors (Liu et al. 2023)."),
    "c3a": Kind("Circular convolution as the change of a weight (C3A)."),
    "cartridge": _prompts("Learnt keys and values before the input, the first of them frozen (Cartridges)."),
    "cpt": _prompts("Context-aware prompt tuning: virtual tokens that begin as tokens of examples."),
    "deft": Kind("Decomposed change with a projection that is taken away (DEFT)."),
    "delora": Kind("Low-rank change with its strength apart from its direction (DeLoRA)."),
    "fourierft": Kind("A few learnt coefficients of the change's Fourier transform (Gao et al. 2024)."),
    "frod": Kind("Full-rank change from a joint decomposition with few learnt numbers (FRoD)."),
    "glora": Kind("Generalised LoRA: learnt scale and shift of weights, biases and prompts (GLoRA)."),
    "gralora": Kind("Low-rank changes of the blocks of a weight (GraLoRA)."),
    "hira": Kind("Low-rank factors times the weight, element by element (HiRA)."),
    "hra": Kind("Rotation of weights by a chain of Householder reflections (HRA)."),
    "ia3": Kind("Learnt factors of keys, values and feed-forward activations (Liu et al. 2022).",
                target="attention_key_value_mlp_down"),
    "lily": Kind("Low-rank adapters that share their halves over layers (Lily)."),
    "ln_tuning": Kind("The weights of the layer norms learn (LN tuning).", "norm", "norms",
                      "peft's layer norms compute with one adapter"),
    "loha": Kind("Hadamard product of two low-rank changes (LoHa)."),
    "lokr": Kind("Kronecker product as the change of a weight (LoKr)."),
    "miss": Kind("Shards of a weight share one small matrix (MiSS, once Bone)."),
    "multitask_prompt_tuning": _prompts("Virtual tokens as a shared prompt times a low-rank one of the task."),
    "oft": Kind("Orthogonal rotation of weights in blocks (Qiu et al. 2023)."),
    "p_tuning": _prompts("Virtual tokens that an LSTM or MLP writes while it learns (Liu et al. 2021)."),
    "peanut": Kind("A small network on the weights as their change (PEANuT)."),
    "poly": Kind("A mixture of low-rank skills, routed by task (Polytropon)."),
    "prefix_tuning": _prompts("Learnt keys and values before the input of every layer (Li and Liang 2021)."),
    "prompt_tuning": _prompts("Learnt virtual tokens before the input (Lester et al. 2021)."),
    "psoft": Kind("Orthogonal rotation within the leading subspace of a weight (PSOFT)."),
    "pvera": Kind("VeRA with a probability distribution over its vectors (PVeRA)."),
    "randlora": Kind("Sum of random low-rank bases with learnt scales: full rank at few numbers (RandLoRA)."),
    "road": Kind("Learnt rotations of pairs of outputs (RoAd)."),
    "shadow": Kind("A small decoder beside the model, which learns its corrections (ShadowPEFT).", "inside", "",
                   "its network runs beside the whole model"),
    "shira": Kind("A few learnt entries of every weight (SHiRA)."),
    "supertuning": Kind("Learns the largest or smallest entries of every weight (SuperTuning)."),
    "tinylora": Kind("Very few learnt numbers in projections of the weight's singular directions (TinyLoRA)."),
    "trainable_tokens": Kind("The embeddings of some tokens learn: `token_indices`.", "embedding", "embeddings",
                             "two adapters would replace the same tokens"),
    "unilora": Kind("One learnt vector, projected into all low-rank factors (UniLoRA)."),
    "vblora": Kind("Low-rank factors put together from a bank of vectors (VB-LoRA)."),
    "vera": Kind("Learnt scales of one pair of random matrices that all layers share (Kopiczko et al. 2023)."),
    "waveft": Kind("A few learnt coefficients of the change's wavelet transform (WaveFT)."),
    "xlora": Kind("A learnt mixture of finished LoRA adapters, `adapters: {name: folder}` (X-LoRA).", "inside", "",
                  "it mixes the adapters itself"),
}  # fmt: skip
"""Every `adapter.kind` that can be written: the names of peft's `PeftType` in small letters, and two of ours."""

_LORA = "Write `kind: lora` with"
OTHERWISE: Mapping[str, str] = {
    "dora": f"{_LORA} `use_dora: true`.",
    "rslora": f"{_LORA} `use_rslora: true`.",
    **{name: f"{_LORA} `init_lora_weights: {name}`." for name in ("pissa", "olora", "eva", "corda", "loftq", "mica")},
    "loraga": f"{_LORA} `init_lora_weights: lora_ga`.",
    "qlora": "Write `kind: lora`, and `quantization: nf4` under `backbone`.",
    "lora+": f"{_LORA} `loraplus_lr_ratio: 16`.",
    "loraplus": f"{_LORA} `loraplus_lr_ratio: 16`.",
    "lorafa": f"{_LORA} `lora_fa: true`.",
    "bitfit": f"{_LORA} `bias: all`, whose biases learn beside it, or `kind: beft` for biases alone.",
    "prefix": "Write `kind: prefix_tuning`.",
    "bone": "Write `kind: miss`.",
}
"""Names of methods that are no kind of their own: small, without hyphens; to what is written for them."""


def otherwise(name: str) -> str:
    """What is written for a method that is no kind of its own; empty if it is not known."""
    return OTHERWISE.get(name.lower().replace("-", "").replace("_", "").replace(" ", ""), "")


# Ways to begin that take a part of the base weight away: the adapter means something else on the base as it came.
_MUTATING = ("pissa", "olora", "corda", "lora_ga")
# Options of LoRA that leave its change of a weight `B A` times a number.
_PLAIN_LORA = frozenset({"init_lora_weights", "eva_config", "lora_ga_config", "corda_config", "loftq_config"})
_PATTERNS = frozenset({"rank_pattern", "alpha_pattern"})
_SHARED_WITH_BASE = ("modules_to_save", "trainable_token_indices", "layer_replication")


def kind_of(spec: AdapterSpec) -> Kind:
    """What is known of the kind of an adapter.

    Raises:
        ConfigError: If there is no such kind.
    """
    if spec.kind not in KINDS:
        instead = otherwise(spec.kind) or did_you_mean(spec.kind, list(KINDS))
        raise ConfigError(f"There is no adapter kind `{spec.kind}`.", where="adapter.kind", instead=instead)
    return KINDS[spec.kind]


def mutates_base(spec: AdapterSpec) -> bool:
    """Whether the adapter begins by taking a part of the base weights into itself."""
    return spec.kind == "lora" and str(spec.options.get("init_lora_weights", "")).startswith(_MUTATING)


def not_several(spec: AdapterSpec) -> str:
    """Why adapters cannot take part together; empty if they can."""
    if kind_of(spec).alone:
        return kind_of(spec).alone
    if mutates_base(spec):
        return f"`init_lora_weights: {spec.options['init_lora_weights']}` takes a part of the base weights away"
    if spec.options.get("bias", "none") != "none":
        return "learnt biases belong to the model, which has one of each"
    if "kasa_config" in spec.options:
        return "KaSA takes a part of the base weights away"
    for option in _SHARED_WITH_BASE:
        if spec.options.get(option):
            return f"`{option}` changes parts of the model that all adapters share"
    return ""


def no_factors(spec: AdapterSpec) -> str:
    """Why an adapter has no plain low-rank factors ``B A`` for penalties and sums; empty if it has."""
    if spec.kind != "lora":
        return f"adapters of the kind `{spec.kind}` are no product `B A`"
    if mutates_base(spec):
        return not_several(spec)
    if spec.options.get("init_lora_weights") == "mica":
        return "with `init_lora_weights: mica` B does not learn"
    if odd := sorted(set(spec.options) - _PLAIN_LORA):
        return f"with `{odd[0]}` the change is no longer `B A` alone"
    return ""


def can_be_baked(spec: AdapterSpec) -> bool:
    """Whether finished adapters can be written into plain base weights."""
    options = set(spec.options) <= _PLAIN_LORA | _PATTERNS if spec.kind == "lora" else True
    return kind_of(spec).bakes and options and not not_several(spec)


NEEDS: Mapping[str, str] = {
    "several_active": "adds the changes of several adapters",
    "low_rank_factors": "works on the low-rank factors of the adapters",
    "osf": "splits weights by their singular directions",
}
"""What a method can need of adapters, as said in messages."""


def unmet(spec: AdapterSpec, need: str) -> str:
    """Why adapters do not have what a method needs, of `NEEDS`; empty if they do."""
    if need == "several_active":
        return not_several(spec)
    if need == "low_rank_factors":
        return no_factors(spec)
    return "" if spec.kind == need else f"adapters of the kind `{spec.kind}` do not do that"


def meeting(need: str) -> list[str]:
    """Kinds of adapters that have what a method needs, with their default options."""
    from evertune.adapters.spec import AdapterSpec

    return [name for name in KINDS if not unmet(AdapterSpec(kind=name), need)]
