"""What is said when a stage stops, and which keys are named first."""

from __future__ import annotations

import re

import pytest

from evertune.training.config import TrainConfig
from evertune.training.failures import interrupted, memory_exhausted, not_finite


def keys(text: str) -> list[str]:
    """The keys of the advice, in order."""
    return re.findall(r"`((?:train|backbone)\.[a-z_]+)", text)


def failed(ids: int = 2, saved: bool = True, **options: object) -> str:
    config = TrainConfig(**options)  # type: ignore[arg-type]
    names = [f"a/train/{n}" for n in range(ids)]
    error = not_finite("1/4 a", step=7, what=("loss", "gradient norm"), ids=names, saved=saved, config=config)
    assert error.exit_code == 1
    return str(error)


def test_a_loss_that_is_not_finite_names_rows_and_keys() -> None:
    text = failed()
    assert text.startswith("1/4 a: loss and gradient norm are not finite at step 7; the weights were not touched")
    assert "Rows of the step: a/train/0, a/train/1." in text
    assert "`train.learning_rate` (now 0.001: try 0.0003)" in text
    assert (
        "Look at these rows with `evertune inspect`, or run with another `--output-dir` and change, cheapest first:"
        in text
    )
    # The default schedule refuses a warm-up: the advice must be one that can be followed.
    assert "`train.lr_scheduler_type: constant_with_warmup` with `train.warmup_ratio: 0.05`" in text
    assert keys(text) == ["train.learning_rate", "train.lr_scheduler_type", "train.warmup_ratio", "backbone.dtype"]
    assert keys(failed(lr_scheduler_type="linear")) == ["train.learning_rate", "train.warmup_ratio", "backbone.dtype"]
    assert text.endswith("The last checkpoint is whole.")
    assert failed(saved=False).endswith("Finished stages are kept.")


def test_only_keys_that_would_help_are_named() -> None:
    off = failed(max_grad_norm=0.0, lr_scheduler_type="cosine")
    assert keys(off) == ["train.learning_rate", "train.max_grad_norm", "train.warmup_ratio", "backbone.dtype"]
    for warm in ({"warmup_steps": 5}, {"warmup_ratio": 0.1}):
        assert keys(failed(**warm)) == ["train.learning_rate", "backbone.dtype"]


def test_many_rows_are_counted() -> None:
    text = failed(ids=23)
    assert "a/train/19 and 3 more." in text
    assert "a/train/20" not in text


def test_memory_names_the_cheapest_key_first() -> None:
    error = memory_exhausted("2/4 b", 11, TrainConfig(per_device_train_batch_size=8, gradient_accumulation_steps=2))
    text = str(error)
    assert error.exit_code == 1
    assert text.startswith("2/4 b: Memory ran out in step 12. Change, cheapest first: ")
    assert keys(text) == [
        "train.per_device_train_batch_size",
        "train.gradient_accumulation_steps",
        "backbone.gradient_checkpointing",
        "train.max_source_length",
        "backbone.dtype",
        "backbone.quantization",
    ]
    assert text.endswith("Finished stages and the last checkpoint are whole.")


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 1), (3, 1), (8, 4), (9, 2), (7, 3), (15, 1), (12, 5)])
def test_the_smaller_batch_keeps_the_result(batch: int, accumulation: int) -> None:
    config = TrainConfig(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    text = str(memory_exhausted("a", 0, config))
    found = re.search(r"batch_size: (\d+)` with `train\.gradient_accumulation_steps: (\d+)`", text)
    assert found is not None
    smaller, more = int(found[1]), int(found[2])
    assert smaller < batch
    assert smaller * more == batch * accumulation


def test_a_batch_of_one_cannot_shrink() -> None:
    text = str(memory_exhausted("a", 0, TrainConfig(per_device_train_batch_size=1)))
    assert keys(text)[0] == "backbone.gradient_checkpointing"
    assert "batch_size" not in text


def test_a_stop_says_how_to_go_on() -> None:
    error = interrupted("1/4 a", "at step 3 of 9")
    assert error.exit_code == 130
    assert str(error) == "1/4 a: Stopped at step 3 of 9; the state is saved. Run the same command again to continue."
