"""The words of a bash script, with their lines. Nothing is run and nothing is expanded here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from evertune.errors import InputError

_OPERATORS = ";&|<>()"
_PLAIN_DOLLAR = "\ue000"  # a dollar sign that the shell would leave alone
_FIRST_SUBSTITUTION = 0xE100  # from here on, one character stands for one command substitution
_UNREADABLE = re.compile("[\0\ue000-\uf8ff]")
_SUBSTITUTION = re.compile("[\ue100-\uf8ff]")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command, quotes removed.

    Attributes:
        text: Its text. Only dollar signs that the shell would act on are `$`; see `plain`.
        line: The line that it begins on, from 1.
    """

    text: str
    line: int


def plain(text: str) -> str:
    """A word's text with the dollar signs that were quoted."""
    return text.replace(_PLAIN_DOLLAR, "$")


def simple_commands(script: str, source: str) -> Iterator[list[Word]]:
    """The simple commands of a script, in order: what stands between newlines, ``;``, ``&&``, ``|`` and brackets.

    Comments, redirections and the text of here-documents are left out; command substitutions stay text.

    Args:
        script: The script.
        source: How messages name it.

    Raises:
        InputError: If a quotation is not closed, or a line of flags does not belong to a command.
    """
    scanner = _Scanner(script.replace("\r\n", "\n"), source)
    while (pieces := scanner.next_line()) is not None:
        words = [word for line, text in pieces for word in _words(text, line, scanner)]
        here = next((words[i + 1].text for i, word in enumerate(words[:-1]) if word.text.startswith("<<")), None)
        for command in _split(words):
            if command[0].text.startswith("--"):
                raise InputError(
                    f"This line begins with the flag {command[0].text}: the line above it does not go on.",
                    where=f"{source}:{command[0].line}",
                    instead="End every line of a command but its last with a `\\`, with nothing behind it.",
                )
            yield command
        if here is not None:
            scanner.skip_beyond(here.lstrip("-"))


def _words(text: str, line: int, scanner: _Scanner) -> Iterator[Word]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace_split = True
    lexer.commenters = ""
    for token in lexer:
        yield Word(_SUBSTITUTION.sub(lambda found: scanner.substitutions[found[0]], token), line)


def _split(words: list[Word]) -> Iterator[list[Word]]:
    """Simple commands, without their redirections."""
    command: list[Word] = []
    redirected = False
    for word in words:
        if redirected:
            redirected = False
        elif word.text and not set(word.text) - set(_OPERATORS):
            redirected = bool(set(word.text) & set("<>"))
            if not redirected and command:
                yield command
                command = []
        elif word.text.strip():
            command.append(word)
    if command:
        yield command


class _Scanner:
    """Cuts a script into lines of commands: joins what goes on, drops comments, and keeps `shlex` from guessing."""

    def __init__(self, script: str, source: str) -> None:
        if found := _UNREADABLE.search(script):
            line = script[: found.start()].count("\n") + 1
            what = f"The character U+{ord(found[0]):04X} cannot be read."
            raise InputError(what, where=f"{source}:{line}", instead="Remove it.")
        self.substitutions: dict[str, str] = {}
        self._script, self._source = script, source
        self._at, self._line = 0, 1

    def next_line(self) -> list[tuple[int, str]] | None:
        """The pieces of the next command line, each with the number of its line; None at the end."""
        if self._at >= len(self._script):
            return None
        self._pieces: list[tuple[int, str]] = []
        self._begin()
        while self._at < len(self._script):
            character = self._take()
            if character == "\n":
                break
            if character == "\\":
                self._escape(quoted=False)
            elif character in "'\"":
                self._quotation(character)
            elif self._is_substitution(character):
                self._text += self._substitution(character)
            elif character == "#" and (not self._text or self._text[-1] in " \t;&|("):
                end = self._script.find("\n", self._at)
                self._at = len(self._script) if end < 0 else end
            else:
                if character in "<>":
                    self._text = re.sub(r"(?<!\S)\d$", "", self._text)  # the 2 of `2> file` is no word
                self._text += character
        self._end()
        return self._pieces

    def skip_beyond(self, word: str) -> None:
        """Goes to the line after the one that is `word` and nothing else."""
        while self._at < len(self._script):
            end = self._script.find("\n", self._at)
            end = len(self._script) if end < 0 else end
            line, self._at = self._script[self._at : end].strip(), end + 1
            self._line += 1
            if line == word:
                return

    def _begin(self) -> None:
        self._text, self._start = "", self._line

    def _end(self) -> None:
        if self._text.strip():
            self._pieces.append((self._start, self._text))

    def _take(self) -> str:
        character = self._script[self._at]
        self._at += 1
        self._line += character == "\n"
        return character

    def _peek(self) -> str:
        return self._script[self._at : self._at + 1]

    def _escape(self, *, quoted: bool) -> None:
        following = self._take() if self._peek() else ""
        if following == "$":
            self._text += _PLAIN_DOLLAR
        elif following not in ("", "\n"):
            self._text += f"\\{following}"
        elif (
            following
            and not quoted
            and (not self._text or self._text[-1].isspace() or self._peek() in ("", " ", "\t", "\n"))
        ):
            # A word of its own line; elsewhere the shell joins the two halves of a word.
            self._end()
            self._begin()

    def _quotation(self, mark: str) -> None:
        start = self._line
        self._text += mark
        while self._peek():
            character = self._take()
            if character == mark:
                self._text += mark
                return
            if mark == "'":
                self._text += _PLAIN_DOLLAR if character == "$" else character
            elif character == "\\":
                self._escape(quoted=True)
            elif self._is_substitution(character):
                self._text += self._substitution(character)
            else:
                self._text += character
        raise InputError("This quotation is not closed.", where=f"{self._source}:{start}", instead="Close it.")

    def _is_substitution(self, character: str) -> bool:
        return character == "`" or (character == "$" and self._peek() == "(")

    def _substitution(self, opening: str) -> str:
        """Takes a command substitution as one character, which stands for its text."""
        start, depth, line = self._at - 1, 0, self._line
        while self._peek():
            character = self._take()
            depth += (character == "(") - (character == ")")
            if character == opening or (opening == "$" and character == ")" and depth == 0):
                mark = chr(_FIRST_SUBSTITUTION + len(self.substitutions))
                self.substitutions[mark] = " ".join(self._script[start : self._at].split())
                return mark
        raise InputError("This `$(` is not closed.", where=f"{self._source}:{line}", instead="Close it.")
