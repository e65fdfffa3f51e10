"""``evertune list targets``: the modules of a model that adapters can sit on."""

from __future__ import annotations

from typing import Any


def target_entries(path: str, *, trust_remote_code: bool = False) -> list[dict[str, Any]]:
    """Modules by name and shape, repeated layers folded, as plain values.

    Args:
        path: A folder with a ``config.json``, a hub id, or a built-in model; no weights are read.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        InputError: If there is no such model.
    """
    import json
    from pathlib import Path

    from evertune.adapters.roles import module_tree
    from evertune.backbones.builtin import PREFIX, builtin_folder
    from evertune.errors import BackboneError
    from evertune.files import read_json

    folder = builtin_folder(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else Path(path)
    try:
        written = read_json(folder / "config.json") if folder.is_dir() else {}
        model = _skeleton(str(folder), written, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        what = f"No model can be made of this: {' '.join(str(error).split())[:300]}"
        instead = "Name a folder with a config.json, or a hub id."
        if "trust_remote_code" in str(error):
            what, instead = "This model brings Python code of its own.", "Write `--trust-remote-code` to run it."
        raise BackboneError(what, where="--model", instead=instead) from error
    return [
        {
            "name": group.name,
            "role": group.role,
            "shape": group.shape,
            "count": group.count,
            "path": group.path_pattern,
            "type": group.type,
            "targetable": group.targetable,
        }
        for group in module_tree(model)
    ]


def _skeleton(path: str, written: dict[str, Any], *, trust_remote_code: bool) -> Any:
    """The architecture that a configuration names, on the meta device."""
    import torch
    import transformers as hf

    settings = hf.AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    named = next(iter(written.get("architectures") or settings.architectures or ()), "")
    cls = getattr(hf, named, None)
    with torch.device("meta"):
        if cls is not None:
            return cls(settings)
        for auto in (hf.AutoModelForCausalLM, hf.AutoModelForSeq2SeqLM, hf.AutoModel):
            brought = trust_remote_code and auto.__name__ in (getattr(settings, "auto_map", None) or {})
            if brought or type(settings) in auto._model_mapping:
                return auto.from_config(settings, trust_remote_code=trust_remote_code)
    raise ValueError(f"transformers has no architecture for the model type `{settings.model_type}`")


def target_table(entries: list[dict[str, Any]]) -> Any:
    """The modules that adapters can sit on as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("name", "role", "shape", "count"):
        table.add_column(heading, no_wrap=True)
    table.add_column("path", overflow="fold")
    for entry in entries:
        name = Text(entry["name"]) if entry["targetable"] else Text(f"({entry['name']})", style="dim")
        table.add_row(name, entry["role"], entry["shape"], str(entry["count"]), Text(entry["path"]))
    return table
