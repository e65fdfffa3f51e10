"""Raw public files to the rows of a stream: cleaned, split and written with a manifest, one preparation a stream.

A preparation is a class with one method ``prepare(output, *, source, seed, max_rows, console) -> Prepared``.
"""

from evertune.registry import Registry

PREPARATIONS = Registry("preparation", {"five-tasks": "evertune.streams.prepare.five_tasks:FiveTasksPreparation"})
