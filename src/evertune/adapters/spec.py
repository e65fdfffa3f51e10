"""What an adapter is: its kind, its size and where it sits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

# How far base weights are from the base model, in the folder of a stage: its adapters build on it.
BASE_CHANGE = "delta.safetensors"
# The heads of an encoder, in the folder of a stage.
HEADS_FILE = "heads.safetensors"


@dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """The adapters of a run: all have the same kind and shape.

    The other fields of peft's configuration class are written among these keys, by their names; in Python they are the
    mapping `options`. `notes` are sentences to say aloud about how `config` was read.

    Attributes:
        kind: Name in `evertune.adapters.kinds.KINDS`: a method of peft in small letters, ``full`` or ``none``.
        r: Rank. This and the three below are those of ``lora``; other kinds have the defaults of peft.
        lora_alpha: Numerator of the scaling ``lora_alpha / r`` (``lora_alpha / sqrt(r)`` with `use_rslora`).
        lora_dropout: Dropout on the adapter's input, while training.
        use_rslora: Scale by the square root of the rank (Kalajdzievski 2023).
        target: Where adapters sit: a role (``attention_query_value``, ``attention``, ``mlp``), ``all-linear``, a list
            of module names, or a regular expression that matches whole module paths.
        layers: Indices of the layers that get adapters, in every stack; None for all.
        num_frozen_layers: In place of `layers`: how many layers, counted from the bottom of every stack, get none.
        effective_rank: Of kind ``osf``: how many leading singular directions of a weight are kept as they are; a
            fraction (below 1) of the smaller side of the weight, or a number. None for half.
        start_from: A peft folder, or ``RUN/stages/NN-task``: its weights initialise the first adapter. A folder of the
            released O-LoRA, N-LoRA or GORP code (with ``r_sum``) becomes a frozen adapter below those of the run.
        config: An ``adapter_config.json`` of peft, or the folder that holds one: kind, options and targets are read
            from it, and other keys written beside it count more.
        loraplus_lr_ratio: Of kind ``lora``: how many times faster B learns than A (LoRA+, Hayou et al. 2024; 16 there).
        lora_fa: Of kind ``lora``: A stays as it was drawn and only B learns (LoRA-FA, Zhang et al. 2023).
    """

    kind: str = "lora"
    r: Annotated[int, Ge(1)] = 8
    lora_alpha: Annotated[float, Gt(0)] = 16
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    use_rslora: bool = False
    target: str | tuple[str, ...] = "attention_query_value"
    layers: tuple[int, ...] | None = None
    num_frozen_layers: Annotated[int, Ge(0)] = 0
    effective_rank: Annotated[float, Gt(0)] | None = None
    start_from: Path | None = None
    config: Path | None = None
    loraplus_lr_ratio: Annotated[float, Gt(0)] | None = None
    lora_fa: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, metadata={"written": False})
    notes: tuple[str, ...] = field(default=(), compare=False, metadata={"written": False})

    def exact(self, rank: int) -> AdapterSpec:
        """Adapters on the same modules that add ``B A`` as it is: of this rank, with scaling 1 and without dropout."""
        return replace(self, r=rank, lora_alpha=rank, use_rslora=False, lora_dropout=0.0, options={})

    def with_tokenizer(self, path: str) -> AdapterSpec:
        """The same; virtual tokens that begin as a text are read by the model's own tokenizer where none is named."""
        begins_as_text = str(self.options.get("prompt_tuning_init", "")).upper().endswith("TEXT")
        if not begins_as_text or self.options.get("tokenizer_name_or_path"):
            return self
        return replace(self, options={**self.options, "tokenizer_name_or_path": path})


@dataclass(frozen=True)
class BaseWeights:
    """Weights of the base model that are not as they came.

    Attributes:
        target: Whose: as `AdapterSpec.target`; None for the modules that adapters sit on.
        learn: Whether they learn; otherwise the change that earlier stages made takes part as it is.
        key: Where the target was written, for messages.
    """

    target: str | tuple[str, ...] | None = None
    learn: bool = False
    key: str = "method"


@dataclass(frozen=True)
class AdapterPlan:
    """Which adapters take part in the forward pass, and what learns.

    Attributes:
        active: Names, oldest first: the model computes base + the sum of their changes, added in this order.
        trainable: The active ones that learn.
        fixed: Parts of the adapters that do not learn even so, by peft's names: ``lora_A``.
        base: Weights of the base model that change; None for none.
    """

    active: tuple[str, ...]
    trainable: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    base: BaseWeights | None = None

    def __post_init__(self) -> None:
        assert set(self.trainable) <= set(self.active), (self.active, self.trainable)
