"""What is wrong with rows is gathered, each problem once."""

from __future__ import annotations

import pytest

from evertune.errors import DataError
from evertune.streams.bad_rows import MOST_SHOWN, BadRows


def test_a_file_that_is_read_twice_is_complained_about_once() -> None:
    bad = BadRows()
    for _ in range(2):
        for row in range(MOST_SHOWN + 3):
            bad.add(f"a.jsonl:{row}", "This is wrong.")
    assert len(bad) == MOST_SHOWN + 3
    with pytest.raises(DataError) as caught:
        bad.raise_if_any()
    assert len(caught.value.problems) == MOST_SHOWN + 1
    assert str(caught.value).endswith("\n... and 3 more.")
