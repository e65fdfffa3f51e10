from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.streams.audit import audit, overlap, prompt_key, row_key
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.splits import SplitRows, carve, carve_rows

few_keys = st.lists(st.sampled_from("abcdefgh"), max_size=60)


def row(text, target="yes", id="t/train/0"):
    return PromptTarget(id, (Segment(text, cut=True),), target)


def rows(*texts):
    return [row(text, id=f"t/train/{number}") for number, text in enumerate(texts)]


@given(few_keys, st.integers(1, 60), st.integers())
def test_equal_keys_are_never_on_both_sides(keys, wanted, seed):
    chosen = carve(keys, wanted, seed=seed, purpose="dev")
    inside = {keys[index] for index in chosen}
    outside = {key for index, key in enumerate(keys) if index not in chosen}
    assert not inside & outside
    assert bool(chosen) == (len(set(keys)) > 1)
    assert outside or not keys
    smallest = min((keys.count(key) for key in set(keys)), default=0)
    assert len(chosen) <= max(wanted, smallest)


@given(st.sets(st.text(), min_size=2), st.integers(1, 60), st.integers())
def test_distinct_keys_give_exactly_what_is_wanted(keys, wanted, seed):
    assert len(carve(sorted(keys), wanted, seed=seed, purpose="dev")) == min(wanted, len(keys) - 1)


@given(few_keys, st.integers(1, 60), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_decides_nothing(keys, wanted, rng):
    shuffled = rng.sample(keys, len(keys))
    chosen = {keys[index] for index in carve(keys, wanted, seed=3, purpose="dev")}
    assert {shuffled[index] for index in carve(shuffled, wanted, seed=3, purpose="dev")} == chosen


def test_seed_and_purpose_decide():
    keys = [str(number) for number in range(100)]
    first = carve(keys, 10, seed=1, purpose="dev")
    assert carve(keys, 10, seed=1, purpose="dev") == first
    assert carve(keys, 10, seed=2, purpose="dev") != first
    assert carve(keys, 10, seed=1, purpose="test") != first


def test_the_choice_is_recorded_for_ever():
    # Were another row chosen after an update, runs of before could not be resumed or compared.
    assert carve(list("abcdefghij"), 3, seed=42, purpose="dev") == {3, 6, 8}


def test_choice_equals_a_plain_ranking():
    import hashlib

    keys = [str(number) for number in range(50)]
    ranked = sorted(range(50), key=lambda index: hashlib.sha256(f"7\x1fdev\x1f{keys[index]}".encode()).hexdigest())
    assert carve(keys, 5, seed=7, purpose="dev") == frozenset(ranked[:5])


@given(
    st.lists(st.sampled_from(["a", "A ", "b", "c", "d"]), min_size=1),
    st.floats(0, 0.99),
    st.lists(st.sampled_from("abcd")),
)
def test_carved_rows_share_no_prompt_with_train_or_test(texts, fraction, test):
    train, dev = carve_rows(
        SplitRows(rows(*texts), ("f",), len(texts), "file"), "dev", fraction, task="t", seed=1, apart_from=rows(*test)
    )
    prompts = {prompt_key(each) for each in dev.rows}
    assert not prompts & {prompt_key(each) for each in train.rows}
    assert not prompts & {prompt_key(each) for each in rows(*test)}
    assert len(train.rows) + len(dev.rows) == len(texts)
    assert train.rows
    assert [each.id.split("/")[1] for each in dev.rows] == ["dev"] * len(dev.rows)
    numbers = [each.id.rpartition("/")[2] for each in (*train.rows, *dev.rows)]
    assert sorted(numbers, key=int) == [str(number) for number in range(len(texts))]


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(2, 0.01, 1), (10, 0.1, 1), (1000, 0.1, 100), (3, 0.99, 2)]
)
def test_how_many_rows_are_carved(count, fraction, expected):
    source = SplitRows(rows(*map(str, range(count))), ("f",), count, "file")
    train, dev = carve_rows(source, "dev", fraction, task="t", seed=1)
    assert (len(train.rows), len(dev.rows)) == (count - expected, expected)


def test_nothing_to_carve_from():
    source = SplitRows(rows("same", "Same "), ("f",), 2, "file")
    train, dev = carve_rows(source, "dev", 0.5, task="t", seed=1)
    assert (len(train.rows), len(dev.rows), dev.rule) == (2, 0, "none: too few different prompts to carve from")


def test_keys_ignore_case_and_white_space():
    assert prompt_key(row("A  b\n")) == prompt_key(row("a B"))
    assert prompt_key(row("ab")) != prompt_key(row("a b"))
    assert row_key(row("a", "Yes")) == row_key(row("A", "yes "))
    assert row_key(row("a", "yes")) != row_key(row("a", "no"))
    turns = ({"role": "user", "content": "a"},)
    assert prompt_key(PromptTarget("t/train/0", (), "x", messages=turns)) != prompt_key(
        PromptTarget("t/train/0", (), "x", messages=turns, tools=({"name": "f"},))
    )


def test_overlap_counts_rows_with_the_same_answer():
    assert overlap([row("a"), row("A"), row("b"), row("c", "no")], [row("a"), row("c")]) == 2


def test_audit_against_plain_loops():
    rng = random.Random(5)
    splits = {
        split: [row(rng.choice("abcdefghij"), rng.choice(["yes", "no", "maybe"]), f"t/{split}/{n}") for n in range(12)]
        for split in ("train", "dev", "test")
    }
    found = audit(splits, ["yes", "no"])
    pairs = {split: [(each.prompt_text, each.target) for each in splits[split]] for split in splits}
    expected = {split: sum(pair in pairs[split][:n] for n, pair in enumerate(pairs[split])) for split in pairs}
    for later, earlier in (("dev", "train"), ("test", "train"), ("test", "dev")):
        expected[f"{later} in {earlier}"] = sum(pair in pairs[earlier] for pair in pairs[later])
    assert found["duplicates"] == expected
    every = [each for split in splits.values() for each in split]
    assert found["invalid_labels"] == [each.id for each in every if each.target == "maybe"]
    contradictory = [
        each.id
        for each in every
        if any(other.prompt_text == each.prompt_text and other.target != each.target for other in every)
    ]
    assert found["contradictory_labels"] == {"count": len(contradictory), "ids": contradictory[:20]}
    assert contradictory
    free_text = audit(splits, None)
    assert (free_text["invalid_labels"], free_text["contradictory_labels"]) == ([], {"count": 0, "ids": []})
