"""Long texts in pieces: nothing is lost, and every token has one piece that speaks for it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from evertune.backbones.windows import cuts


@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 60))
def test_every_token_is_owned_once_by_a_piece_that_holds_it(length: int, room: int, overlap: int) -> None:
    pieces = cuts(length, room, overlap)
    owned = [token for piece in pieces for token in range(piece.own_start, piece.own_stop)]
    assert owned == list(range(length))
    assert all(piece.start <= piece.own_start <= piece.own_stop <= piece.stop for piece in pieces)
    assert all(piece.stop - piece.start <= room for piece in pieces)


@given(st.integers(1, 400), st.integers(2, 60), st.data())
def test_neighbours_share_as_many_tokens_as_asked(length: int, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room - 1))
    pieces = cuts(length, room, overlap)
    for before, this in pairwise(pieces):
        assert before.stop - this.start == overlap or this is pieces[-1]


def test_a_token_belongs_where_it_has_most_around_it() -> None:
    first, second = cuts(12, 8, 4)
    assert (first.start, first.stop, second.start, second.stop) == (0, 8, 4, 12)
    assert (first.own_stop, second.own_start) == (6, 6)
