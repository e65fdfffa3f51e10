"""Names to classes: our own, and those of packages outside."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evertune.errors import ConfigError
from evertune.methods import METHODS
from evertune.methods.base import Method
from evertune.registry import Registry


@pytest.fixture
def fruits() -> Registry:
    return Registry("fruit", {"plum": "collections:OrderedDict", "apple": "collections:Counter"})


@pytest.fixture
def foreign_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that offers two fruits, one under a name that is ours."""
    info = tmp_path / "orchard-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orchard\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[evertune.fruits]\nfig = orchard_fruits:Fig\nplum = orchard_fruits:Fig\n")
    (tmp_path / "orchard_fruits.py").write_text("class Fig:\n    sweet = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "orchard_fruits", raising=False)


def test_names_keep_their_order_and_classes_are_imported_late(fruits: Registry) -> None:
    import collections

    assert fruits.names() == ["plum", "apple"]
    assert fruits.get("apple") is collections.Counter
    assert "plum" in fruits
    assert "pear" not in fruits
    assert Registry("fruit", {"rotten": "no.such.module:X"}).names() == ["rotten"]  # nothing is imported for this


def test_an_unknown_name_says_its_place_and_the_nearest(fruits: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        fruits.get("aple", where="run.yaml:3:9")
    assert str(caught.value) == "run.yaml:3:9: There is no fruit `aple`. Did you mean `apple`?"
    with pytest.raises(ConfigError, match=r"There is no fruit `xyz`\. Write one of: plum, apple\."):
        fruits.get("xyz")


@pytest.mark.usefixtures("foreign_package")
def test_packages_outside_add_names_and_cannot_replace_ours(fruits: Registry) -> None:
    import collections

    assert fruits.names() == ["plum", "apple", "fig"]
    assert fruits.get("fig").sweet is True
    assert fruits.get("plum") is collections.OrderedDict
    with pytest.raises(ConfigError, match=r"Did you mean `fig`\?"):
        fruits.get("figg")


def test_every_method_of_ours_can_be_had_and_is_one() -> None:
    assert METHODS.names()[:5] == ["seq-lora", "inc-lora", "per-task-lora", "multi-task", "replay"]
    for name in METHODS.names():
        assert issubclass(METHODS.get(name), Method)
        assert METHODS.get(name).__doc__
