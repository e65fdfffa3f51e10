"""What is read through the `datasets` library: data sets of the hub, folders saved with `save_to_disk`, label names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.errors import DataError
from evertune.streams.bad_rows import BadRows
from evertune.streams.task import Split

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from pyarrow import Schema

_COMMIT = re.compile(r"[0-9a-f]{40}")

# What people call the three splits, the likeliest first.
_SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("validation", "dev", "valid", "eval"),
    "test": ("test",),
}


def _label_namer(features: Features) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that replaces the numbers of `ClassLabel` columns, and of lists of these, by their names.

    A number without a name (-1 marks "no label" in many test splits) stays as it is.
    """
    from datasets import ClassLabel

    inner = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    names = {column: feature.names for column, feature in inner.items() if isinstance(feature, ClassLabel)}

    def name(row: dict[str, Any]) -> dict[str, Any]:
        for column, known in names.items():
            value = row.get(column)
            row[column] = [_named(each, known) for each in value] if isinstance(value, list) else _named(value, known)
        return row

    return name


def _named(value: Any, names: Sequence[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def named_labels_of_schema(schema: Schema) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that names the labels of rows of a Parquet file, if `datasets` wrote their names into it."""
    if b"huggingface" not in (schema.metadata or {}):
        return lambda row: row
    from datasets import Features

    return _label_namer(Features.from_arrow_schema(schema))


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    name = _label_namer(dataset.features)
    return (name(row) for row in dataset.to_list())


def read_saved_folder(path: Path, shown: str, *, split: Split, bad: BadRows) -> Iterator[dict[str, Any]]:
    """Rows of a folder that `save_to_disk` wrote; of a `DatasetDict` those of the split that is asked for.

    Args:
        path: The folder.
        shown: How errors show it.
        split: Which split is asked for.
        bad: Gets what is wrong.

    Returns:
        The rows; none if the folder cannot be read.
    """
    is_dict = (path / "dataset_dict.json").is_file()
    if not is_dict and not (path / "state.json").is_file():
        inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:12]) or "nothing"
        bad.add(shown, f"This folder was not saved by `datasets`; in it: {inside}.", "Write the path of a file.")
        return iter(())
    from datasets import Dataset, DatasetDict

    try:
        if not is_dict:
            return _rows(Dataset.load_from_disk(path))
        splits = DatasetDict.load_from_disk(path)
    # Whatever a damaged folder makes `datasets` and pyarrow raise.
    except (OSError, ValueError, KeyError, TypeError) as error:
        bad.add(shown, f"This saved folder cannot be read: {_first_line(error)}.")
        return iter(())
    for name in _SPLIT_NAMES[split]:
        if name in splits:
            return _rows(splits[name])
    bad.add(
        shown,
        f"This saved folder has the splits {', '.join(map(str, splits))} and none for {split}.",
        f"Write the path of one of them: {shown}/{next(iter(splits), 'train')}.",
    )
    return iter(())


def read_hub(
    name: str,
    *,
    subset: str | None,
    split_name: str | None,
    revision: str | None,
    split: Split,
    folder: str | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Rows of a data set of the Hugging Face hub.

    Args:
        name: ``owner/name``.
        subset: Its configuration, where it has several.
        split_name: Its split, or a slice of one (``train[:90%]``); None takes the usual name of `split`.
        revision: Branch, tag or commit.
        split: What the rows are for.
        folder: Its folder, where only a part of it is meant.

    Returns:
        The rows, and the commit they are of (empty if `datasets` does not say).

    Raises:
        DataError: In one line, if the data set cannot be had.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    where = f"hub:{name}"
    try:
        # With this prefix a local folder of the same name is not read instead.
        dataset = load_dataset(
            f"hf://datasets/{name}",
            subset,
            data_dir=folder,
            split=split_name or _SPLIT_NAMES[split][0],
            revision=revision,
        )
    except (OSError, ValueError, KeyError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"This data set cannot be had from the hub: {_first_line(error)}.",
            where=where,
            instead="Check the name, the subset, the split and the network, or write the path of a file.",
        ) from error
    commit = _commit(dataset)  # type: ignore[arg-type]
    # Without a network `datasets` takes whatever revision is in its cache.
    if revision and commit and _COMMIT.fullmatch(revision) and revision != commit:
        raise DataError(
            f"The copy of this data set in the cache is of commit {commit}, not {revision}.",
            where=where,
            instead="Connect to the network once, or write that `revision`.",
        )
    return list(_rows(dataset)), commit  # type: ignore[arg-type]


def _commit(dataset: Dataset) -> str:
    found = (re.search(r"@([0-9a-f]{40})/", address) for address in dataset.info.download_checksums or ())
    return next((match[1] for match in found if match), "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
