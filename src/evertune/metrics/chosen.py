"""Which metrics are computed of a task."""

from __future__ import annotations

from collections.abc import Iterable

from evertune.metrics import METRICS
from evertune.metrics.base import Metric


def with_companions(names: Iterable[str], *, where: str = "") -> tuple[Metric, ...]:
    """The metrics of these names and those that are reported beside them, each once, in order.

    Args:
        names: Names in `METRICS`.
        where: Place of the names, for errors.

    Raises:
        ConfigError: If there is no such metric.
    """
    named: list[Metric] = [METRICS.get(name, where=where) for name in names]
    beside = [METRICS.get(name) for metric in named for name in metric.beside]
    return tuple({metric.name: metric for metric in (*named, *beside)}.values())
