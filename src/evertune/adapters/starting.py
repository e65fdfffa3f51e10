"""Adapters that were learnt elsewhere, as a run begins with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from evertune.adapters.filing import Filing
from evertune.adapters.folder import CONFIG, AdapterFolder, check_config, find_adapter, read_adapter
from evertune.adapters.kinds import FULL, NONE
from evertune.adapters.released import is_released, read_released
from evertune.adapters.spec import AdapterSpec
from evertune.adapters.targets import Targets
from evertune.errors import CheckpointError


@dataclass(frozen=True)
class Start:
    """An adapter to begin with.

    Attributes:
        found: The folder, with tensors for an adapter of `spec`.
        spec: What such an adapter is.
    """

    found: AdapterFolder
    spec: AdapterSpec


def read_start(folder: Path, spec: AdapterSpec, filing: Filing, targets: Targets) -> Start:
    """Reads a peft folder, or the only adapter of a stage of a run.

    Another ``lora_alpha`` than here is folded into B. A folder of the released codes (`evertune.adapters.released`)
    gives an adapter of the rank that it has, with scaling 1.

    Args:
        folder: The folder.
        spec: The adapters here.
        filing: How they are read.
        targets: Where they sit.

    Raises:
        CheckpointError: If it is damaged, does not fit, or computes something else without what it was learnt with.
    """
    place = find_adapter(folder)
    if spec.kind in (FULL, NONE):
        return Start(filing.read(place, spec, targets), spec)
    config, base = filing.config(spec, targets), filing.base
    if is_released(place):
        released = read_released(place)
        alike = {**released.found.config, "r": config.to_dict().get("r")}  # ranks may differ
        check_config(replace(released.found, config=alike), config, base, exactly=False)
        return Start(released.found, spec.exact(released.rank))
    found = read_adapter(place)
    if found.below:
        raise CheckpointError(
            f"This adapter was learnt on top of others ({', '.join(found.below)}): alone it computes something else.",
            where=str(place / CONFIG),
            instead="Write all of them as one adapter with `evertune export`, and start from that.",
        )
    check_config(found, config, base, exactly=False)
    if spec.kind != "lora":
        return Start(found, spec)
    return Start(replace(found, tensors=_rescaled(found, AdapterFolder(folder, config.to_dict(), {}, base))), spec)


def _rescaled(found: AdapterFolder, here: AdapterFolder) -> dict[str, Tensor]:
    """The tensors of `found`, with B such that they mean the same with the scaling `here`, module by module."""
    tensors = dict(found.tensors)
    for key, tensor in found.tensors.items():
        path, low_rank, _ = key.removeprefix("base_model.model.").partition(".lora_B.")
        if low_rank:
            tensors[key] = tensor.float() * (found.scaling_of(path) / here.scaling_of(path))
    return tensors
