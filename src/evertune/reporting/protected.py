"""The input directions that a method protects for earlier tasks: by kind of module, after every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from evertune.reporting.formats import count, percent
from evertune.reporting.load import Run, StageResult

# Below this share of free directions the report says so, as the methods do while they learn.
LITTLE_ROOM = 0.1
_SHOWN = 4
_FIELDS = ("width", "directions", "new", "energy", "free", "full")


@dataclass(frozen=True)
class ProtectedModule:
    """One module after one stage.

    Attributes:
        path: Its path in the base model.
        width: Number of its input directions.
        directions: How many are protected.
        new: How many of these the stage added.
        energy: Share of the stage's own energy that they hold.
        free: Share of the directions that is still free.
        full: Whether as many are protected as may be, though they hold less energy than asked for.
    """

    path: str
    width: int
    directions: int
    new: int
    energy: float
    free: float
    full: bool

    @property
    def kind(self) -> str:
        """What it shares with the modules of other layers: ``SelfAttention q``."""
        return " ".join([part for part in self.path.split(".") if not part.isdigit()][-2:])

    @property
    def text(self) -> str:
        """What is protected in it, in words."""
        return f"{self.path}: {self.directions} of {self.width} directions, {percent(self.free)} % free"

    @property
    def protected(self) -> float:
        """Share of the directions that is protected."""
        return 1 - self.free


@dataclass(frozen=True)
class ProtectedStage:
    """All modules after one stage.

    Attributes:
        position: Its row of the matrix, 1 for the first.
        name: Name of the stage.
        modules: In the order of the model.
    """

    position: int
    name: str
    modules: tuple[ProtectedModule, ...]

    @property
    def kinds(self) -> dict[str, tuple[ProtectedModule, ...]]:
        """The modules by kind, in the order of the model."""
        kinds: dict[str, list[ProtectedModule]] = {}
        for module in self.modules:
            kinds.setdefault(module.kind, []).append(module)
        return {kind: tuple(modules) for kind, modules in kinds.items()}

    @property
    def fullest(self) -> ProtectedModule:
        """The module with the least left."""
        return min(self.modules, key=lambda module: module.free)


def protected_stages(run: Run) -> list[ProtectedStage]:
    """The stages that tell what they protect, in order; none for most methods."""
    found = ((stage, tuple(_modules(stage))) for stage in run.stages)
    return [ProtectedStage(stage.row + 1, stage.name, modules) for stage, modules in found if modules]


def _modules(stage: StageResult) -> Iterator[ProtectedModule]:
    for facts in (stage.training.get("facts") or {}).values():
        entries: Mapping[str, Any] = facts.get("protected_space") or {}
        for path, entry in entries.items():
            yield ProtectedModule(path, **{name: entry[name] for name in _FIELDS})


@dataclass(frozen=True)
class SharePoint:
    """The share protected in the modules of one kind after one stage.

    Attributes:
        position: Row of the matrix of the stage.
        after: Name of the stage.
        middle: Median over the layers, 0 to 1.
        low: The lowest.
        high: The highest.
    """

    position: int
    after: str
    middle: float
    low: float
    high: float


def protected_shares(stages: Sequence[ProtectedStage]) -> dict[str, list[SharePoint]]:
    """The share protected over the stages, by kind of module."""
    lines: dict[str, list[SharePoint]] = {}
    for stage in stages:
        for kind, modules in stage.kinds.items():
            shares = [module.protected for module in modules]
            point = SharePoint(stage.position, stage.name, median(shares), min(shares), max(shares))
            lines.setdefault(kind, []).append(point)
    return lines


PROTECTED_COLUMNS = ("modules", "inputs", "directions", "new", "energy covered", "still free", "least free")


@dataclass(frozen=True)
class ProtectedTable:
    """What is protected after one stage, ready to print.

    Attributes:
        name: Name of the stage.
        rows: Kind of module, a text for every one of `PROTECTED_COLUMNS`, and whether hardly anything is left.
        fullest: The module with the least left, in words.
    """

    name: str
    rows: tuple[tuple[str, tuple[str, ...], bool], ...]
    fullest: str


def protected_tables(stages: Sequence[ProtectedStage]) -> list[ProtectedTable]:
    """A table a stage, the newest first; medians over the layers with their ranges."""
    return [_table(stage) for stage in reversed(stages)]


def _table(stage: ProtectedStage) -> ProtectedTable:
    rows = tuple(
        (kind, _values(modules), min(module.free for module in modules) < LITTLE_ROOM)
        for kind, modules in stage.kinds.items()
    )
    return ProtectedTable(stage.name, rows, stage.fullest.text)


def _values(modules: tuple[ProtectedModule, ...]) -> tuple[str, ...]:
    widths = sorted({module.width for module in modules})
    return (
        count(len(modules)),
        ", ".join(map(count, widths)),
        _middle([module.directions for module in modules]),
        _middle([module.new for module in modules]),
        f"{percent(median(module.energy for module in modules))} %",
        f"{percent(median(module.free for module in modules))} %",
        f"{percent(min(module.free for module in modules))} %",
    )


def _middle(values: list[int]) -> str:
    low, high = min(values), max(values)
    middle = f"{median(values):g}"
    return middle if low == high else f"{middle} ({low} to {high})"


def protected_notes(stages: Sequence[ProtectedStage]) -> list[str]:
    """Sentences on what is short of room after the last stage; none as long as there is enough."""
    if not stages:
        return []
    last, notes = stages[-1], []
    if little := [module for module in last.modules if module.free < LITTLE_ROOM]:
        notes.append(
            f"After {last.name}, {len(little)} of {len(last.modules)} modules have less than {LITTLE_ROOM:.0%} of "
            f"their input directions left for later tasks: {_named(little)}."
        )
    if full := [module for module in last.modules if module.full]:
        notes.append(
            f"{len(full)} of {len(last.modules)} modules protect as many directions as they may and hold less of "
            f"{last.name} than asked for, so a part of it can be overwritten: {_named(full)}."
        )
    return notes


def _named(modules: list[ProtectedModule]) -> str:
    worst = sorted(modules, key=lambda module: module.free)
    names = ", ".join(f"{module.path} ({percent(module.free)} % free)" for module in worst[:_SHOWN])
    return names + (f" and {len(worst) - _SHOWN} more" if len(worst) > _SHOWN else "")
