"""What the libraries raise while loading, in one clear line."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evertune.backbones.fingerprint import damaged_weights
from evertune.backbones.location import Resolved
from evertune.errors import BackboneError, CapabilityError

_LONGEST = 300


@contextmanager
def explained(resolved: Resolved, what: str = "The model cannot be loaded", advice: str = "") -> Iterator[None]:
    """Turns errors of transformers, safetensors and torch into ours; running out of memory is left alone.

    Args:
        resolved: The model that is being loaded.
        what: What failed, without full stop.
        advice: What to do instead, where the usual advice would not help.

    Raises:
        BackboneError: If files are missing, damaged or do not belong together.
        CapabilityError: If a package is missing.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise damaged_weights(Path(resolved.location), error) from error
    except ImportError as error:
        raise CapabilityError(
            f"{what}: {_reason(error)}.", where=resolved.location, instead="Install the package that is named."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise BackboneError(
            f"{what}: {_reason(error)}.", where=resolved.location, instead=_advice(resolved, error, advice)
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of an error, with what follows its colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".!:") if len(text) <= _LONGEST else f"{text[:_LONGEST]} [...]"


def _advice(resolved: Resolved, error: Exception, advice: str) -> str:
    if "attn_implementation" in str(error):
        return "Write one of these, or remove `backbone.attn_implementation`."
    if advice:
        return advice
    if resolved.kind == "hub":
        return "Check the id and the network, or write a local folder that holds the model."
    return "Check that config.json and weights in this folder are whole and belong together."


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps progress bars and reports of transformers off the terminal: what matters is said as a note."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
