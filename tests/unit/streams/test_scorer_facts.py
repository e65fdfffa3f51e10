"""Metrics are checked against the rows when a stream is built, not after training."""

from __future__ import annotations

import pytest

from evertune.errors import ConfigError, DataError
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.splits import NO_ROWS, SplitRows, build_task
from evertune.streams.task import Split, Task


def rows(split: Split, *facts: dict[str, object]) -> SplitRows:
    made = [
        PromptTarget(f"t/{split}/{number}", (Segment(f"{split} {number}"),), "x", facts=each)
        for number, each in enumerate(facts)
    ]
    return SplitRows(made, ("file",), len(made), "file")


def build(metric: str, *metrics: str, **splits: SplitRows) -> Task:
    wanted: dict[Split, SplitRows] = {"train": rows("train", {}), "dev": NO_ROWS, "test": rows("test", {})}
    wanted |= splits  # type: ignore[typeddict-item]
    caps = dict.fromkeys(wanted)
    return build_task("t", wanted, caps=caps, seed=0, labels=None, metric=metric, metrics=metrics)


def test_rows_that_are_scored_must_hold_what_a_metric_needs() -> None:
    good, bad = {"rejected": "no"}, {"rejected": ""}
    with pytest.raises(DataError) as error:
        build("preference_accuracy", dev=rows("dev", good, bad), test=rows("test", {}, good))
    assert [problem.where for problem in error.value.problems] == ["t/dev/1", "t/test/0"]
    assert str(error.value.problems[1]) == (
        "t/test/0: It has no `rejected`. The metric preference_accuracy needs it. "
        "Add `rejected`, or name another metric."
    )


def test_rows_to_learn_from_need_nothing() -> None:
    task = build("rougeL", "preference_accuracy", test=rows("test", {"rejected": "no"}))
    assert (task.metric, task.metrics) == ("rougeL", ("preference_accuracy",))


def test_only_the_first_bad_rows_are_shown() -> None:
    with pytest.raises(DataError, match=r"\.\.\. and 5 more\."):
        build("exact_match", "code_passes", test=rows("test", *({} for _ in range(25))))


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"t: There is no metric `rougel2`"):
        build("rougel2")
