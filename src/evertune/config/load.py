"""Reads a configuration: a YAML file or a recipe of the package, with changes from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from evertune import dialect
from evertune.config.adapter import build_adapter, plain_adapter
from evertune.config.checks import (
    Written,
    check_adapter,
    check_backbone,
    check_evaluation,
    check_kind,
    check_methods,
    check_train,
)
from evertune.config.marks import Node, Plain, invented, parse
from evertune.config.messages import described
from evertune.config.overrides import apply_overrides
from evertune.config.schema import (
    build_backbone,
    build_options,
    build_stream,
    check_top_level,
    elsewhere,
    method_entries,
)
from evertune.config.stages import Base, Changes, build_stage, check_changes, read_changes, resolved_changes
from evertune.config.typed import INVALID, Findings, plain_value
from evertune.errors import ConfigError, Problem, did_you_mean
from evertune.settings import RunSettings, StageSettings


@dataclass(frozen=True)
class _Source:
    """A configuration before it is parsed.

    Attributes:
        text: The YAML.
        shown: How messages name it.
        folder: Folder that relative paths start from.
        name: Name of the configuration: of the file, or of the run folder that it lies in.
        run_folder: The run folder that it lies in, if it does.
    """

    text: str
    shown: str
    folder: Path
    name: str
    run_folder: Path | None = None


def recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("evertune"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_config(
    path_or_recipe_name: str | Path, overrides: Sequence[str] = (), output_dir: Path | None = None
) -> RunSettings:
    """Reads and checks a configuration.

    Args:
        path_or_recipe_name: A YAML file, or the name of a recipe (``demo``).
        overrides: Changes of the form ``key.path=value``; values are YAML, their paths relative to the current folder.
        output_dir: The run folder, in place of the configured one; relative to the current folder.

    Returns:
        The settings of the run. Paths are absolute; the stream's rows and the model have not been looked at.

    Raises:
        ConfigError: With everything that is wrong, each by file, line, column and key.
    """
    source = _find(path_or_recipe_name)
    root = parse(source.text, source=source.shown, folder=source.folder)
    findings = Findings()
    root = apply_overrides(root, overrides, findings, Path.cwd())
    settings = _assemble(root, source, output_dir, findings)
    if findings.problems:
        raise ConfigError(sorted(findings.problems, key=_order))
    return settings


def _order(problem: Problem) -> tuple[int, int]:
    """In the order of the file, the command line last."""
    found = re.search(r":(\d+):(\d+)(?::|$)", problem.where)
    return (int(found[1]), int(found[2])) if found else (1 << 60, 0)


def dump_config(settings: RunSettings) -> str:
    """The resolved configuration as YAML that `load_config` reads back to equal settings."""
    return dialect.dump(dict(settings.resolved))


def _find(path_or_name: str | Path) -> _Source:
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        inside = path / "config.yaml"
        instead = f"Write {inside}." if inside.is_file() else "Name a YAML file, or a recipe."
        raise ConfigError("This is a folder, not a configuration.", where=str(path), instead=instead)
    recipe = recipes().get(str(path_or_name))
    if recipe is not None and not path.is_file():
        return _Source(recipe.read_text(encoding="utf-8"), f"recipes/{recipe.name}", Path.cwd(), recipe.stem)
    if not path.exists():
        raise ConfigError("There is no such file, and no recipe of this name.", where=str(path), instead=_nearest(path))
    folder = path.resolve().parent
    in_run = path.name == "config.yaml" and (folder / "manifest.json").is_file()
    return _Source(_read(path), str(path), folder, folder.name if in_run else path.stem, folder if in_run else None)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(
            "This is not UTF-8 text.", where=f"{path}:{line}", instead="Save the file as UTF-8."
        ) from error
    except OSError as error:
        raise ConfigError(f"Cannot read this: {error.strerror}.", where=str(path)) from error


def _nearest(path: Path) -> str:
    """The nearest recipe, or the nearest YAML file beside what was asked for."""
    parent = path.parent
    beside = sorted(str(parent / file.name) for file in parent.glob("*.y*ml")) if parent.is_dir() else []
    options = [*recipes(), *beside]
    near = did_you_mean(str(path), options)
    if near.startswith("Did"):
        return near
    is_path = parent != Path() or path.suffix in (".yaml", ".yml")
    return "`evertune list recipes` names the recipes." if is_path else f"Recipes: {', '.join(recipes())}."


def _assemble(root: Node, source: _Source, output_dir: Path | None, findings: Findings) -> RunSettings:
    written = check_top_level(root, findings)
    options = build_options(root, written, findings)
    stream_name, stream = "", INVALID
    for key, example in (("stream", "stream: synthetic"), ("backbone", "backbone: {path: builtin:tiny-llama}")):
        if key not in written:
            findings.at(root, f"`{key}` is missing.", f"Write for example `{example}`.")
    if "stream" in written:
        stream_name, stream = build_stream(written["stream"], findings)
    backbone = build_backbone(written["backbone"], findings) if "backbone" in written else INVALID
    adapter = build_adapter(
        _section(written, root, "adapter"),
        findings,
        task_type="" if backbone is INVALID else backbone.task_type,
        model="" if backbone is INVALID else backbone.path,
        elsewhere=elsewhere("adapter"),
    )
    method = _section(written, root, "method")
    base = Base(
        root,
        _section(written, root, "train"),
        _section(written, root, "evaluation"),
        method,
        method_entries(written.get("method"), root),
    )
    stages = _Stages(base, written, findings)
    locations = _locations(root)
    stages.check(locations, findings)
    if INVALID not in (backbone, stages.first):
        findings.extend(check_backbone(backbone, stages.first.methods, Written(locations)))
    if INVALID not in (adapter, stages.first):
        findings.extend(check_adapter(adapter, stages.first.methods, Written(locations)))
    if INVALID not in (adapter, backbone):
        findings.extend(check_kind(adapter, backbone, Written(locations)))
    if findings.problems:
        return INVALID
    folder = _output_dir(options.output_dir, output_dir, source)
    return RunSettings(
        seed=options.seed,
        output_dir=folder,
        run_name=options.run_name or folder.name,
        stream=stream,
        backbone=backbone,
        adapter=adapter,
        first=stages.first,
        later=stages.later,
        per_task=stages.per_task,
        resolved={
            "seed": options.seed,
            "stream": _named(stream_name, stream),
            "backbone": plain_value(backbone),
            "adapter": plain_adapter(adapter),
            "method": [_named(name, one) for name, one in stages.first.methods],
            "train": plain_value(stages.first.train),
            "evaluation": plain_value(stages.first.evaluation),
            **stages.resolved(),
        },
        locations=locations,
    )


def _named(name: str, value: Any) -> dict[str, Plain]:
    options = plain_value(value)
    assert isinstance(options, dict)
    return {"name": name, **options}


def _section(written: dict[str, Node], root: Node, key: str) -> Node:
    return written[key] if key in written else invented(None, root, key)


def _output_dir(written: Path | None, given: Path | None, source: _Source) -> Path:
    if given is not None:
        return given.expanduser().resolve()
    if written is not None:
        return written.resolve()
    return source.run_folder or (source.folder / "runs" / source.name)


class _Stages:
    """The settings of all tasks, from the base and the blocks of changes."""

    def __init__(self, base: Base, written: dict[str, Node], findings: Findings) -> None:
        after = written.get("after_first")
        self._after = read_changes(after, base, findings)
        self._own: dict[str, Changes] = {}
        for name, node in _tasks(written.get("per_task"), findings).items():
            if changes := read_changes(node, base, findings):
                self._own[name] = changes
        for changes in (self._after, *self._own.values()):
            check_changes(changes, findings)
        self.first = build_stage(base, [], findings)
        self.later = build_stage(base, [self._after], findings)
        self.per_task: dict[str, tuple[StageSettings, StageSettings]] = {
            name: (build_stage(base, [own], findings), build_stage(base, [self._after, own], findings))
            for name, own in self._own.items()
        }

    def check(self, locations: dict[str, str], findings: Findings) -> None:
        """Notes what the options of a stage do not allow each other."""
        base, after = Written(locations), Written(locations, ("after_first",))
        stages = [(self.first, base), (self.later, after)]
        for name, (first, later) in self.per_task.items():
            blocks = (f"per_task.{name}",)
            stages += [(first, Written(locations, blocks)), (later, Written(locations, (*blocks, "after_first")))]
        for stage, written in stages:
            if stage is not INVALID:
                findings.extend(check_train(stage.train, stage.methods, written))
                findings.extend(check_evaluation(stage.evaluation, written))
        if self.first is not INVALID:
            findings.extend(check_methods(self.first.methods, base))

    def resolved(self) -> dict[str, Plain]:
        """The blocks as plain values; those that change nothing are left out."""
        blocks: dict[str, Plain] = {}
        if self._after:
            blocks["after_first"] = resolved_changes(self._after, self.later)
        tasks = {name: resolved_changes(own, self.per_task[name][0]) for name, own in self._own.items()}
        return {**blocks, "per_task": {**tasks}} if tasks else blocks


def _tasks(node: Node | None, findings: Findings) -> dict[str, Node]:
    if node is None or node.value is None:
        return {}
    if isinstance(node.value, dict):
        return node.value
    findings.at(node, f"must be a mapping of task names, got {described(node.plain)}.", "Write `TASK: {...}` below it.")
    return {}


def _locations(root: Node) -> dict[str, str]:
    """Dotted keys to places; tasks written out are known as `stream.tasks` too, which is what they become."""
    found = {node.key: str(node.key_place) for node in root.walk() if node.key}
    if isinstance(root.value, dict) and "stream" in root.value and isinstance(root.value["stream"].value, list):
        items = {key: place for key, place in found.items() if key.startswith("stream.")}
        found |= {key.replace("stream.", "stream.tasks.", 1): place for key, place in items.items()}
    return found
