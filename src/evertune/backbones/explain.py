"""What the libraries, and code that comes with a model, raise while loading, in one clear line."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evertune.backbones.fingerprint import damaged_weights
from evertune.backbones.location import Resolved
from evertune.errors import BackboneError, CapabilityError

_LONGEST = 300
_OWN_CODE = "transformers_modules"  # the package in which transformers imports code that comes with a model

_FAULTS = (ImportError, OSError, ValueError, RuntimeError, LookupError, NameError, TypeError, AttributeError)


@contextmanager
def explained(resolved: Resolved, what: str = "The model cannot be loaded", advice: str = "") -> Iterator[None]:
    """Turns errors of transformers, safetensors and torch into ours; running out of memory is left alone.

    Args:
        resolved: The model that is being loaded.
        what: What failed, without full stop.
        advice: What to do instead, where the usual advice would not help.

    Raises:
        BackboneError: If files are missing, damaged or do not belong together, or code of the model's own does not run.
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
    except (*_FAULTS, StrictDataclassError) as error:
        place = own_code_place(error)
        if place and not isinstance(error, OSError) and not _lacks_package(error):
            raise _own_code_error(resolved, what, error, place) from error
        raise _library_error(resolved, what, error, advice) from error


def _library_error(resolved: Resolved, what: str, error: Exception, advice: str) -> BackboneError | CapabilityError:
    if isinstance(error, ImportError):
        return CapabilityError(
            f"{what}: {_reason(error)}.", where=resolved.location, instead="Install the package that is named."
        )
    return BackboneError(
        f"{what}: {_reason(error)}.", where=resolved.location, instead=_advice(resolved, error, advice)
    )


def is_own_code(thing: object) -> bool:
    """Whether a class, or the class of an object, was imported from code that comes with a model."""
    kind = thing if isinstance(thing, type) else type(thing)
    return kind.__module__.startswith(_OWN_CODE)


def own_code_place(error: Exception) -> str:
    """Where code that comes with a model failed: ``modeling_x.py, line 7, in X.forward``; empty if it did not.

    An attribute that the library misses in an object of such code counts as well: ``configuration_x.py``.
    """
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(_OWN_CODE)
    ]
    if frames:
        code, line = frames[-1][0].f_code, frames[-1][1]
        inside = getattr(code, "co_qualname", code.co_name)  # Python 3.11
        return f"{Path(code.co_filename).name}, line {line}" + ("" if inside == "<module>" else f", in {inside}")
    held = getattr(error, "obj", None)
    if not is_own_code(held):
        return ""
    return f"{(held if isinstance(held, type) else type(held)).__module__.rpartition('.')[2]}.py"


def _lacks_package(error: Exception) -> bool:
    """Whether a package is missing altogether, and not a name in one that is there."""
    return isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("transformers")


def _own_code_error(resolved: Resolved, what: str, error: Exception, place: str) -> BackboneError:
    import transformers

    written = _written_for(resolved)
    old = f"; config.json names {written}" if written else ""
    return BackboneError(
        f"{what}: the code that comes with it does not run on transformers {transformers.__version__}{old}. "
        f"{place}: {type(error).__name__}: {_reason(error)}.",
        where=resolved.location,
        instead="Use a model that transformers knows itself (in place of ChatGLM: GLM-4, such as "
        "`THUDM/glm-4-9b-chat-hf`), or code of its authors for transformers 5. Older code runs with the transformers "
        f"that it was written for{f' (pip install transformers=={written})' if written else ''}, without Evertune.",
    )


def _written_for(resolved: Resolved) -> str:
    """The version of transformers that a local config.json names; empty if it names none, or the installed one."""
    import transformers

    try:
        config = json.loads((Path(resolved.location) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    written = str(config.get("transformers_version") or "")
    return "" if written == transformers.__version__ else written


def _reason(error: Exception) -> str:
    """The first sentence of an error, with what follows its colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".!:") if len(text) <= _LONGEST else f"{text[:_LONGEST]} [...]"


def _advice(resolved: Resolved, error: Exception, advice: str) -> str:
    if "trust_remote_code" in str(error):
        return "Read the Python code that comes with it; if you trust it, write `backbone.trust_remote_code: true`."
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
