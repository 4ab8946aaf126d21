# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`scripts/train.py` with FSDP2 on CPUs and gloo; Accelerate has it for accelerators alone, and is told otherwise here.

accelerate launch --multi_gpu --num_processes 2 tests/train_sharded.py ARGUMENTS OF TRAIN.PY
"""

import runpy
from pathlib import Path

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from dinov3seg_hf.training import trainer as training

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "train.py"
plugin = FullyShardedDataParallelPlugin(
    fsdp_version=2,
    auto_wrap_policy="transformer_based_wrap",
    state_dict_type="SHARDED_STATE_DICT",
    cpu_ram_efficient_loading=False,
)
start_state = AcceleratorState.__init__


def start_sharded_state(self, *arguments, **options) -> None:
    start_state(self, *arguments, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin


AcceleratorState.__init__ = start_sharded_state
training.Accelerator = lambda **options: Accelerator(fsdp_plugin=plugin, **options)
runpy.run_path(str(SCRIPT), run_name="__main__")
