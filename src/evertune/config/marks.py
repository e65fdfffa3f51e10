"""A configuration as written: every value with the place where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

import yaml

from evertune.config.syntax import explain, explain_character
from evertune.dialect import TAG, Loader, scalar
from evertune.errors import ConfigError, Problem

Scalar: TypeAlias = "bool | int | float | str | None"
Plain: TypeAlias = "Scalar | list[Plain] | dict[str, Plain]"

# More values than anyone writes: what a file of nested aliases ("a billion laughs") would grow beyond.
_MAX_NODES = 200_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written.

    Attributes:
        source: The file as the user named it, or ``--set key`` for the command line.
        line: From 1; 0 on the command line.
        column: From 1.
        folder: Folder that relative paths start from.
    """

    source: str
    line: int
    column: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Node:
    """One value.

    Attributes:
        value: A scalar, a list of nodes, or nodes by key in the order written.
        place: Where the value stands.
        key: Its dotted key, empty for the whole file.
        key_place: Where its key stands; the same as `place` where there is none.
    """

    value: Scalar | list[Node] | dict[str, Node]
    place: Place
    key: str
    key_place: Place

    @property
    def plain(self) -> Plain:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain for key, node in self.value.items()}
        return [node.plain for node in self.value] if isinstance(self.value, list) else self.value

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        below = self.value.values() if isinstance(self.value, dict) else self.value
        for node in below if not isinstance(below, (str, int, float, type(None))) else ():
            yield from node.walk()

    def renamed(self, key: str) -> Node:
        """The same value under another dotted key, all keys below it included."""
        value = self.value
        if isinstance(value, dict):
            value = {name: node.renamed(join(key, name)) for name, node in value.items()}
        elif isinstance(value, list):
            value = [node.renamed(join(key, str(index))) for index, node in enumerate(value)]
        return replace(self, value=value, key=key)

    def with_value(self, value: Scalar | list[Node] | dict[str, Node]) -> Node:
        """Another value at the same place."""
        return replace(self, value=value)

    def problem(self, what: str, instead: str = "", *, at_key: bool = False) -> Problem:
        """Something that is wrong here, named by place and key."""
        place = str(self.key_place if at_key else self.place)
        # The command line already names the key.
        named = not self.key or place.endswith(f" {self.key}")
        return Problem(place if named else f"{place}: {self.key}", what, instead)


def join(*parts: str) -> str:
    """A dotted key of its parts, empty ones left out."""
    return ".".join(part for part in parts if part)


def invented(value: Scalar, like: Node, key: str) -> Node:
    """A value that nobody wrote, in the place of something that was."""
    return Node(value, like.place, key, like.key_place)


def parse(text: str, *, source: str, folder: Path, key: str = "", line: bool = True) -> Node:
    """Reads YAML text.

    Args:
        text: The text.
        source: How places name it.
        folder: Where relative paths in it start.
        key: Dotted key of the whole text, for a value of ``--set``.
        line: Whether places count lines and columns.

    Raises:
        ConfigError: For anything that is not plain YAML, with its place and in plain words.
    """
    try:
        root = cast("yaml.Node | None", yaml.compose(text, Loader))  # pyright: ignore[reportUnknownMemberType]
    except yaml.MarkedYAMLError as error:
        raise ConfigError(explain(error, source, line=line)) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(explain_character(error, text, source, line=line)) from error
    builder = _Builder(source, folder, line)
    if root is None:
        return builder.node(yaml.ScalarNode(f"{TAG}null", "", yaml.Mark(source, 0, 0, 0, None, 0)), key, None)
    tree = builder.node(root, key, None)
    if builder.problems:
        raise ConfigError(builder.problems)
    return tree


class _Builder:
    """Turns composed YAML nodes into ours, and notes duplicates, foreign tags and loops."""

    def __init__(self, source: str, folder: Path, line: bool) -> None:
        self.problems: list[Problem] = []
        self._source, self._folder, self._line = source, folder, line
        self._open: set[int] = set()
        self._count = 0

    def _place(self, node: yaml.Node) -> Place:
        mark = node.start_mark
        line, column = (mark.line + 1, mark.column + 1) if self._line else (0, 0)
        return Place(self._source, line, column, self._folder)

    def node(self, node: yaml.Node, key: str, key_place: Place | None) -> Node:
        place = self._place(node)
        made = Node(None, place, key, key_place or place)
        self._count += 1
        if self._count > _MAX_NODES:
            raise ConfigError("Aliases blow this file up beyond reason.", where=str(place), instead="Write it out.")
        if id(node) in self._open:
            self.problems.append(made.problem("is an alias of what it is part of.", "Remove it."))
            return made
        self._open.add(id(node))
        try:
            return made.with_value(self._value(node, made))
        finally:
            self._open.discard(id(node))

    def _value(self, node: yaml.Node, made: Node) -> Scalar | list[Node] | dict[str, Node]:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            return self._mapping(node, made)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            return [self.node(item, join(made.key, str(index)), None) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            try:
                return scalar(node.tag, node.value)
            except ValueError:
                pass
        tag = node.tag.replace(TAG, "!!")
        self.problems.append(made.problem(f"has the tag `{tag}`, which is not allowed here.", "Write the plain value."))
        return None

    def _mapping(self, node: yaml.MappingNode, made: Node) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if key_node.tag == f"{TAG}merge":
                merged = {**self._merged(value_node, made), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(f"{place}", "A key must be plain text.", "Write `key: value`."))
                continue
            # As written: a task called 1e3 or true is a name here, not a number.
            name = key_node.value
            child = self.node(value_node, join(made.key, name), place)
            if name in own:
                first = own[name].key_place
                again = f"is written twice, first at line {first.line}." if first.line else "is written twice."
                self.problems.append(child.problem(again, "Keep one of the two.", at_key=True))
            own[name] = child
        return {**merged, **own}

    def _merged(self, node: yaml.Node, made: Node) -> dict[str, Node]:
        """What ``<<: *anchor`` adds; of several, the first wins."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Node] = {}
        for source in reversed(sources):
            values = self.node(source, made.key, None).value
            if isinstance(values, dict):
                merged.update(values)
            else:
                place = self._place(node)
                self.problems.append(Problem(f"{place}", "`<<` can only take in a mapping.", "Write `<<: *name`."))
        return merged
