"""Methods of continual learning, one file each."""

from evertune.registry import Registry

METHODS = Registry(
    "method",
    {
        "seq-lora": "evertune.methods.seq_lora:SeqLoRA",
        "inc-lora": "evertune.methods.inc_lora:IncLoRA",
        "per-task-lora": "evertune.methods.per_task_lora:PerTaskLoRA",
        "multi-task": "evertune.methods.multi_task:MultiTask",
        "replay": "evertune.methods.replay:Replay",
    },
)
