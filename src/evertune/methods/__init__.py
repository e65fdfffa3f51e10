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
        "o-lora": "evertune.methods.o_lora:OLoRA",
        "n-lora": "evertune.methods.n_lora:NLoRA",
        "osf": "evertune.methods.osf:OSF",
        "slao": "evertune.methods.slao:SLAO",
        "migu": "evertune.methods.migu:MIGU",
        "gorp": "evertune.methods.gorp:GORP",
        "inf-lora": "evertune.methods.inf_lora:InfLoRA",
        "ds-lora": "evertune.methods.ds_lora:DSLoRA",
        "slsd": "evertune.methods.slsd:SLSD",
        "ewc": "evertune.methods.ewc:EWC",
        "lwf": "evertune.methods.lwf:LwF",
        "a-gem": "evertune.methods.a_gem:AGEM",
        "lora-ema": "evertune.methods.lora_ema:LoRAEMA",
    },
)
