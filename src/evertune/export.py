"""What a run learnt, as others use it: a standard peft adapter, or a model with everything in its weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from evertune.adapters.kinds import FULL, NONE
from evertune.adapters.reading import with_adapter
from evertune.adapters.spec import HEADS_FILE
from evertune.backbones import BACKBONES
from evertune.backbones.base import Batch
from evertune.backbones.encoder import Encoder
from evertune.backbones.pixels import preprocessor_file
from evertune.backbones.windows import WindowBatch
from evertune.errors import CapabilityError, ConfigError, InputError, RunError
from evertune.files import atomic_folder, write_text
from evertune.restore import RestoredStage

Form = Literal["adapter", "merged"]
CHECKED_ROWS = 4
# Largest difference of a logit, relative to the largest logit: what adding in another order may cost.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        form: In which form.
        difference: Largest difference of a logit from the run's, relative to the largest logit.
    """

    folder: Path
    form: Form
    difference: float


def export(restored: RestoredStage, folder: Path, form: Form, *, task: int | None = None) -> Exported:
    """Writes a stage of a run, reads it back, and compares its logits with the run's.

    Args:
        restored: The stage; it is of no use afterwards.
        folder: Must not exist; it appears whole or not at all.
        form: ``adapter``: a peft folder for the same base model; ``merged``: a whole model with its tokenizer.
        task: Index of the task whose adapters are meant, where they differ between tasks.

    Raises:
        InputError: If the folder exists, a task must be named, or the form cannot hold what was learnt.
        RunError: If what was read back computes something else.
    """
    if folder.exists():
        raise InputError("This exists already.", where=str(folder), instead="Name another folder, or remove it.")
    task = _the_task(restored, task)
    restored.place(task)
    if form == "adapter":
        _check_adapter_form(restored, task)
    elif restored.settings.backbone.task_type == "text_to_image":
        raise CapabilityError(
            "A pipeline of several models is not merged.", where="--as merged", instead="Write `--as adapter`."
        )
    elif restored.settings.backbone.quantization is not None:
        raise CapabilityError(
            "Weights of a quantised model cannot be merged with adapters.",
            where="--as merged",
            instead="Write `--as adapter`, and merge it with the model in its full precision.",
        )
    name, backbone = restored.stream.names[task], restored.backbone
    batch = _batch(restored, task)
    wanted = _logits(restored, restored.bank.model, batch)
    with atomic_folder(folder) as temporary:
        if form == "adapter":
            restored.bank.save_sum(temporary, heads=backbone.head_in_model(name))
        else:
            model = restored.bank.merge_active()
            if isinstance(backbone, Encoder):
                model = backbone.settle(name)
            model.save_pretrained(temporary)
            if restored.settings.backbone.task_type != "image_classification":
                backbone.tokenizer.save_pretrained(temporary)
            elif (said := preprocessor_file(backbone.config.path, backbone.config.revision)) and said.is_file():
                shutil.copyfile(said, temporary / said.name)
        difference = _difference(wanted, _read_logits(restored, temporary, form, batch, name))
        if not difference <= _TOLERANCE[_dtype(restored)]:
            raise RunError(
                f"What was written computes something else than the run: {difference:.1e} of the largest logit apart.",
                where=str(folder),
                instead="Nothing was kept.",
            )
        write_text(temporary / "README.md", _card(restored, task, form, difference))
    return Exported(folder, form, difference)


def _the_task(restored: RestoredStage, task: int | None) -> int:
    """The task that is meant; any, where all have the same adapters."""
    if task is not None:
        return task
    seen = range(restored.stage.row + 1)
    if len({restored.plan_for(index) for index in seen}) > 1:
        names = ", ".join(restored.stream.names[index] for index in seen)
        raise ConfigError(
            "Every task of this run has adapters of its own.", where="--task", instead=f"Name one of: {names}."
        )
    return restored.stage.tasks[-1]


def _check_adapter_form(restored: RestoredStage, task: int) -> None:
    name, backbone = restored.stream.names[task], restored.backbone
    if isinstance(backbone, Encoder) and not backbone.head_in_model(name):
        raise CapabilityError(
            f"A model for {backbone.config.task_type} has no place for the head of {name}.",
            where="--as adapter",
            instead=f"Name a task whose rows are for {backbone.config.task_type}; the heads of all tasks lie in "
            f"`{HEADS_FILE}` of the stage.",
        )
    if restored.bank.change is not None:
        raise CapabilityError(
            "This run changed weights of the base model, which an adapter cannot hold.",
            where="--as adapter",
            instead="Write `--as merged`.",
        )
    if restored.settings.adapter.kind in (FULL, NONE):
        raise CapabilityError(
            f"What learnt with `kind: {restored.settings.adapter.kind}` is no adapter of peft.",
            where="--as adapter",
            instead="Write `--as merged`.",
        )
    if not restored.bank.active:
        raise CapabilityError("No adapter answers for this task.", where="--as adapter", instead="Name another task.")


def _batch(restored: RestoredStage, task: int) -> Batch:
    """A few rows of the task."""
    train = restored.parts.task_settings(task).train
    chosen = restored.stream.tasks[task]
    rows = restored.backbone.encode(
        list((chosen.test or chosen.train)[:CHECKED_ROWS]),
        max_source_length=train.max_source_length,
        max_target_length=train.max_target_length,
    )
    return restored.backbone.collate(rows).to(restored.device)


def _logits(restored: RestoredStage, model: nn.Module, batch: Batch) -> Tensor:
    model.eval()
    autocast = restored.parts.autocast
    with torch.no_grad(), torch.autocast(restored.device.type, autocast, enabled=autocast is not None):
        return restored.backbone.loss(model, batch).logits.float()


def _read_logits(restored: RestoredStage, folder: Path, form: Form, batch: Batch, task: str) -> Tensor:
    """Logits of the same rows by what others load from a folder."""
    backbone = restored.backbone
    if not isinstance(backbone, Encoder):
        return _logits(restored, _read_back(restored, folder, form), batch)
    assert isinstance(batch, WindowBatch)
    plain: Any = backbone.plain(task, folder if form == "merged" else None)
    model: nn.Module = plain.to(restored.device)
    if form == "adapter":
        model = with_adapter(plain, folder)
    autocast = restored.parts.autocast
    with torch.no_grad(), torch.autocast(restored.device.type, autocast, enabled=autocast is not None):
        return backbone.plain_logits(model, batch, task).float()


def _read_back(restored: RestoredStage, folder: Path, form: Form) -> nn.Module:
    """The model that others load from what was written."""
    if form == "merged":
        model = type(restored.bank.base_model).from_pretrained(folder, dtype=_dtype(restored))
        return model.to(restored.device)  # pyright: ignore[reportArgumentType]
    fresh = BACKBONES.get(restored.settings.backbone.task_type).load(restored.settings.backbone)
    if restored.settings.backbone.quantization is None:
        fresh.model.to(restored.device)
    return with_adapter(fresh.model, folder)


def _dtype(restored: RestoredStage) -> torch.dtype:
    return getattr(torch, restored.settings.backbone.dtype)


def _difference(wanted: Tensor, found: Tensor) -> float:
    return float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-30))


def _card(restored: RestoredStage, task: int, form: Form, difference: float) -> str:
    """A model card: what it is, what it learnt, in which order, and how it was checked."""
    identity = restored.backbone.identity
    names = restored.stream.names[: restored.stage.row + 1]
    methods = ", ".join(name for name, _ in restored.parts.stage_settings(restored.stage).methods)
    kind = "A peft adapter" if form == "adapter" else "A model with everything that was learnt in its weights"
    lines = [
        "---",
        f"library_name: {'peft' if form == 'adapter' else 'transformers'}",
        "tags: [continual-learning, evertune]",
        "---",
        "",
        f"# {restored.settings.run_name}, stage {restored.stage.index + 1}",
        "",
        f"{kind}, trained with Evertune.",
        "",
        f"- base model: `{identity.path}` (fingerprint {identity.fingerprint[:12]})",
        f"- method: {methods}",
        f"- tasks, in the order learnt: {', '.join(names)}",
        f"- adapters of the task: {restored.stream.names[task]}",
        f"- logits compared with the run on {CHECKED_ROWS} rows: {difference:.1e} of the largest apart",
        "",
    ]
    return "\n".join(lines)
