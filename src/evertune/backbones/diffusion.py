"""The parts of a text-to-image pipeline, from a folder or the hub; every failure in the words of who wrote the path."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.backbones.base import BackboneConfig, Identity
from evertune.backbones.fingerprint import tensor_lines
from evertune.backbones.location import Resolved, cached_snapshot, resolve_path
from evertune.errors import BackboneError, CapabilityError

if TYPE_CHECKING:
    from torch import nn

INDEX = "model_index.json"
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Pipeline:
    """A text-to-image pipeline in parts.

    Attributes:
        unet: Predicts the noise in latent images; the part that learns.
        vae: Images to latent images and back.
        text_encoder: Captions to states.
        tokenizer: Captions to ids.
        scheduler: How much noise there is at which time.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any


def locate(config: BackboneConfig, base_dir: Path | None = None) -> Resolved:
    """Where a pipeline is.

    Raises:
        CapabilityError: If diffusers is not installed.
        BackboneError: If there is none.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise CapabilityError(
            "`task_type: text_to_image` needs the package diffusers, which is not installed.",
            where="backbone.task_type",
            instead="Run: pip install 'evertune[images]'",
        )
    if config.quantization is not None:
        raise CapabilityError(
            "Pipelines of images cannot be loaded quantised.",
            where="backbone.quantization",
            instead="Write `quantization: null`.",
        )
    resolved = resolve_path(config.path, base_dir, revision=config.revision)
    if resolved.kind != "hub":
        _check_folder(Path(resolved.location))
    return resolved


def _check_folder(folder: Path) -> None:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BackboneError(
            f"This folder holds no pipeline: there is no {INDEX}.",
            where=str(folder),
            instead="Write the folder that holds it, with unet, vae, text_encoder, tokenizer and scheduler below.",
        ) from error
    except ValueError as error:
        raise BackboneError(f"{INDEX} cannot be read: {error}.", where=str(folder), instead="Copy it again.") from error
    if "text_encoder_2" in index:
        raise BackboneError(
            f"`{index.get('_class_name')}` has two text encoders, which is not supported.",
            where=str(folder),
            instead="Use a pipeline of Stable Diffusion 1 or 2.",
        )
    missing = [part for part in _PARTS if part not in index or not (folder / part).is_dir()]
    if missing:
        raise BackboneError(
            f"The pipeline has no `{missing[0]}`; one of UNet, autoencoder, text encoder, tokenizer and scheduler is "
            "needed.",
            where=str(folder),
            instead="Use a Stable Diffusion pipeline, or copy the missing folder.",
        )


def load_pipeline(config: BackboneConfig, resolved: Resolved) -> tuple[Pipeline, Identity]:
    """Loads all parts; safetensors only.

    Raises:
        BackboneError: If a part is missing or damaged.
    """
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        folder = Path(resolved.location)
        if resolved.kind == "hub":
            folder = Path(
                DiffusionPipeline.download(resolved.location, revision=resolved.revision, use_safetensors=True)
            )
        with _quiet():
            whole: Any = DiffusionPipeline.from_pretrained(
                folder, torch_dtype=getattr(torch, config.dtype), use_safetensors=True, safety_checker=None
            )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise BackboneError(
            f"The pipeline cannot be loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=resolved.location,
            instead="Copy or download it again.",
        ) from error
    parts = Pipeline(*(getattr(whole, name) for name in _PARTS))
    if parts.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise BackboneError(
            f"The UNet predicts `{parts.scheduler.config.prediction_type}`; noise and velocity are supported.",
            where=resolved.location,
            instead="Use another pipeline.",
        )
    for part in (parts.unet, parts.vae, parts.text_encoder):
        part.requires_grad_(False).eval()
    if config.gradient_checkpointing:
        parts.unet.enable_gradient_checkpointing()
    identity = Identity(resolved.location, resolved.kind, _commit(resolved), _fingerprint(folder), (resolved.note,))
    return parts, identity


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps diffusers from speaking of a safety checker that is left out on purpose, and of its own old keys."""
    from diffusers.utils import logging

    spoken = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(spoken)


def skeleton(resolved: Resolved) -> nn.Module:
    """The UNet without weights, on the meta device.

    Raises:
        BackboneError: If its configuration cannot be had.
    """
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    try:
        settings: Any = UNet2DConditionModel.load_config(
            resolved.location, subfolder="unet", revision=resolved.revision
        )
        with torch.device("meta"):
            built: Any = UNet2DConditionModel.from_config(settings)
            return built
    except (OSError, ValueError, TypeError) as error:
        raise BackboneError(
            f"The UNet's configuration cannot be read: {error}", where=resolved.location, instead="Copy it again."
        ) from error


def _commit(resolved: Resolved) -> str | None:
    if resolved.kind != "hub":
        return None
    folder = cached_snapshot(resolved.location, resolved.revision, INDEX)
    return folder.name if folder is not None else resolved.revision


def _fingerprint(folder: Path) -> str:
    """As `evertune.backbones.fingerprint.fingerprint`, over all parts."""
    digest = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder", "scheduler"):
        for file in sorted((folder / part).glob("*.json")):
            values = json.loads(file.read_text(encoding="utf-8"))
            kept = {key: value for key, value in values.items() if not key.startswith("_")}
            digest.update(json.dumps([part, file.name, kept], sort_keys=True).encode())
        for file in sorted((folder / part).glob("*.safetensors")):
            for line in sorted(tensor_lines(file)):
                digest.update(line.encode())
    return digest.hexdigest()
