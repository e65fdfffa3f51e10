"""Which runs a sweep is made of."""

from __future__ import annotations

import itertools

import pytest

from evertune.errors import InputError
from evertune.sweeping.grid import make_grid, split_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("4,8,16", ["4", "8", "16"]),
        ("1e-3", ["1e-3"]),
        ("[q, v],[q,k,v]", ["[q, v]", "[q,k,v]"]),
        ("{a: 1, b: 2}, {a: 3}", ["{a: 1, b: 2}", "{a: 3}"]),
        ("\"a,b\",'c,d'", ['"a,b"', "'c,d'"]),
        (r".*\.(q|v)_proj{1,2},all-linear", [r".*\.(q|v)_proj{1,2}", "all-linear"]),
        ("[[1,2],[3]],[4]", ["[[1,2],[3]]", "[4]"]),
        ("", [""]),
        ('"it\'s, so",x', ['"it\'s, so"', "x"]),
    ],
)
def test_commas_outside_brackets_and_quotes_separate(text: str, values: list[str]) -> None:
    assert split_values(text) == values


def test_every_combination_comes_once_in_the_order_written() -> None:
    sets = ["adapter.r=4,8", "train.num_train_epochs=2", "train.learning_rate=1e-3,1e-4"]
    grid = make_grid(sets, seeds="1,2", methods="ewc,replay")
    expected = itertools.product(("ewc", "replay"), ("4", "8"), ("1e-3", "1e-4"), ("1", "2"))
    assert [(*point.values.values(), point.seed) for point in grid.points] == list(expected)
    assert grid.points[0].overrides == (
        "train.num_train_epochs=2",
        "method=ewc",
        "adapter.r=4",
        "train.learning_rate=1e-3",
        "seed=1",
    )
    assert grid.points[0].name == "method-ewc_r-4_learning_rate-1e-3_seed-1"
    assert grid.points[0].version == grid.points[1].version == "method-ewc_r-4_learning_rate-1e-3"
    assert len({point.name for point in grid.points}) == 16


def test_names_are_folders_and_tell_values_apart() -> None:
    names = [point.name for point in make_grid(["adapter.target=[q, v],[q v],q/v,../q"]).points]
    assert len(set(names)) == 4
    assert all("/" not in name and not name.startswith(".") for name in names)
    (long, other) = (point.name for point in make_grid([f"a.b={'x' * 200}1,{'x' * 200}2"]).points)
    assert long != other
    assert max(len(long), len(other)) <= 80
    alike = make_grid(["train.r=1,2", "adapter.r=3,4"]).points[0]
    assert alike.name == "train-r-1_adapter-r-3"


def test_full_fine_tuning_comes_first_without_the_adapters_keys() -> None:
    grid = make_grid(["adapter.r=4,8", "adapter.lora_alpha=8", "train.max_steps=5"], with_base=True, seeds="1,2")
    assert [point.name for point in grid.points[:3]] == ["base_seed-1", "base_seed-2", "r-4_seed-1"]
    assert grid.points[0].overrides == ("train.max_steps=5", "adapter={kind: full}", "seed=1")
    assert [point.name for point in make_grid([], with_base=True).points] == ["base", "configured"]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ([], "evertune sweep: Nothing takes several values, so this is a single run."),
        (["adapter.r=4"], "evertune sweep: Nothing takes several values, so this is a single run."),
        (["adapter.r"], "--set adapter.r: This is not of the form key.path=value,value."),
        (["adapter..r=1,2"], "--set adapter..r=1,2: This is not of the form key.path=value,value."),
        (["adapter.r=4,,8"], "--set adapter.r: A value is missing between two commas. Write `null` for none."),
        (["adapter.r=4,8,4"], "--set adapter.r: The value 4 is given twice. Remove one of them."),
        (["adapter.r=4,8", "adapter.r=2"], "--set adapter.r: This key is given twice. Give all values at once."),
    ],
)
def test_what_is_no_sweep(sets: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        make_grid(sets)
    assert str(caught.value).startswith(said)


def test_folders_and_seeds_have_options_of_their_own() -> None:
    with pytest.raises(InputError, match=r"--set output_dir: Every run .* Write `--output-dir DIR`\."):
        make_grid(["output_dir=a,b"])
    for text in ("seed=1,2", "seed=1"):
        with pytest.raises(InputError, match=r"--set seed: `--seeds` sets it too\. Give all seeds with `--seeds`\."):
            make_grid([text], seeds="3,4")
    assert len(make_grid(["seed=1,2"]).points) == 2


def test_seeds_are_checked_too() -> None:
    with pytest.raises(InputError, match=r"--seeds: The value 1 is given twice\."):
        make_grid([], seeds="1,1")
