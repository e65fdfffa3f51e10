"""Which runs a sweep is made of: every combination of the values that are given."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evertune.errors import InputError

_OPEN, _CLOSE = "[{(", "]})"
_LONGEST_NAME = 80
_BASE_OVERRIDE = "adapter={kind: full}"
BASE = "base"
"""Name of full fine-tuning in a sweep."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One key that takes several values.

    Attributes:
        key: Dotted key.
        values: Its values, as YAML text.
    """

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: Name of its folder.
        version: Its name without the seed: what the runs of several seeds have in common.
        overrides: ``key.path=value`` in the order given.
        values: Swept keys to their values, as YAML text, without the seed.
        seed: Its seed where seeds were given.
    """

    name: str
    version: str
    overrides: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict[str, str])
    seed: str | None = None


@dataclass(frozen=True)
class Grid:
    """The runs of a sweep.

    Attributes:
        axes: Keys with several values, in the order given.
        seeds: The seeds; empty for that of the configuration.
        points: The runs in order; those of one version follow each other.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[str, ...]
    points: tuple[Point, ...]


def split_values(text: str) -> list[str]:
    """The values in a text: what commas separate that stand outside brackets and quotation marks."""
    values, depth, quote, start = list[str](), 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == "," and depth == 0:
            values.append(text[start:place].strip())
            start = place + 1
    return [*values, text[start:].strip()]


def make_grid(
    sets: Sequence[str], *, methods: str | None = None, seeds: str | None = None, with_base: bool = False
) -> Grid:
    """The runs of a sweep.

    Args:
        sets: What followed each ``--set``: ``key.path=value``, or several values with commas between them.
        methods: Names of methods with commas between them.
        seeds: Seeds with commas between them.
        with_base: Whether full fine-tuning comes first.

    Raises:
        InputError: If a text is not of this form, if a key is given twice or a value of it is, or if a key has an
            option of its own.
    """
    texts = [*([f"method={methods}"] if methods is not None else []), *sets]
    read = [_read(text) for text in texts]
    for place, axis in enumerate(read):
        if any(axis.key == other.key for other in read[:place]):
            raise InputError("This key is given twice.", where=f"--set {axis.key}", instead="Give all values at once.")
        if axis.key == "output_dir":
            what = "Every run of a sweep has a folder of its own below that of the sweep."
            raise InputError(what, where="--set output_dir", instead="Write `--output-dir DIR`.")
        if axis.key == "seed" and seeds is not None:
            raise InputError("`--seeds` sets it too.", where="--set seed", instead="Give all seeds with `--seeds`.")
    numbers = tuple(split_values(seeds)) if seeds is not None else ()
    _check_values("--seeds", numbers)
    axes = tuple(axis for axis in read if len(axis.values) > 1)
    fixed = [axis for axis in read if len(axis.values) == 1]
    if not axes and not numbers and not with_base:
        what = "Nothing takes several values, so this is a single run."
        raise InputError(what, where="evertune sweep", instead="Write for example `--set adapter.r=4,8,16`.")
    versions = _versions(axes, fixed)
    if with_base:
        versions.insert(0, _base(fixed))
    points = tuple(point for version in versions for point in _of_seeds(version, numbers))
    return Grid(axes, numbers, points)


def _read(text: str) -> Axis:
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise InputError(
            "This is not of the form key.path=value,value.",
            where=f"--set {text}",
            instead="Write for example `--set adapter.r=4,8,16`.",
        )
    axis = Axis(key, tuple(split_values(values)))
    _check_values(f"--set {key}", axis.values)
    return axis


def _check_values(where: str, values: Sequence[str]) -> None:
    if len(values) > 1 and not all(values):
        raise InputError("A value is missing between two commas.", where=where, instead="Write `null` for none.")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InputError(f"The value {value} is given twice.", where=where, instead="Remove one of them.")


def _versions(axes: Sequence[Axis], fixed: Sequence[Axis]) -> list[Point]:
    kept = tuple(f"{axis.key}={axis.values[0]}" for axis in fixed)
    if not axes:
        return [Point("configured", "configured", kept)]
    labels = _labels(axes)
    found: dict[str, Point] = {}
    for combination in itertools.product(*(axis.values for axis in axes)):
        values = {axis.key: value for axis, value in zip(axes, combination, strict=True)}
        name = _name({labels[key]: value for key, value in values.items()}, found)
        overrides = (*kept, *(f"{key}={value}" for key, value in values.items()))
        found[name] = Point(name, name, overrides, values)
    return list(found.values())


def _base(fixed: Sequence[Axis]) -> Point:
    """Full fine-tuning: what was fixed for all holds for it too, except for the adapters that it has none of."""
    kept = [f"{axis.key}={axis.values[0]}" for axis in fixed if axis.key.partition(".")[0] != "adapter"]
    return Point(BASE, BASE, (*kept, _BASE_OVERRIDE))


def _of_seeds(version: Point, seeds: Sequence[str]) -> list[Point]:
    if not seeds:
        return [version]
    return [
        Point(
            f"{version.name}_seed-{seed}", version.version, (*version.overrides, f"seed={seed}"), version.values, seed
        )
        for seed in seeds
    ]


def _labels(axes: Sequence[Axis]) -> dict[str, str]:
    """The last part of every key; the whole key where two end alike."""
    last = [axis.key.rpartition(".")[2] for axis in axes]
    return {
        axis.key: end if last.count(end) == 1 else axis.key.replace(".", "-")
        for axis, end in zip(axes, last, strict=True)
    }


def _name(values: Mapping[str, str], taken: Mapping[str, Point]) -> str:
    """A folder's name; with a hash where it would be too long, or two values would look alike in it."""
    parts = ((label, re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-.")) for label, value in values.items())
    name = "_".join(f"{label}-{value}" if value else label for label, value in parts)
    if len(name) <= _LONGEST_NAME and name not in taken and name != BASE:
        return name
    digest = hashlib.sha256(str(dict(values)).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}-{digest}"
