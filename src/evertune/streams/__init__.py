"""What is learnt, in which order: tasks, rows, prompts, splits and their hashes.

A stream is a frozen dataclass of its options with one method ``load(*, seed, console) -> Stream``.
"""

from evertune.registry import Registry

STREAMS = Registry(
    "stream",
    {
        "cl-benchmark": "evertune.streams.cl_benchmark:CLBenchmark",
        "five-tasks": "evertune.streams.five_tasks:FiveTasks",
        "instructions": "evertune.streams.instructions:Instructions",
        "synthetic": "evertune.streams.demo:Synthetic",
    },
)
