"""Pieces of a sentence to its words."""

from __future__ import annotations

from evertune.backbones.token_classification import words_of


def test_a_piece_belongs_to_the_word_in_which_it_ends() -> None:
    # "ab c", with a piece that begins with the space, a space alone, and a piece without characters
    assert words_of(["ab", "c"], [(0, 1), (1, 2), (2, 4)]) == [(0, True), (0, False), (1, True)]
    assert words_of(["ab", "c"], [(0, 2), (2, 3), (3, 4), (4, 4)]) == [
        (0, True),
        (None, False),
        (1, True),
        (None, False),
    ]
