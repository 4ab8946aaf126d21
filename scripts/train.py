# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Trains dinov3.seg: on the drawn world in minutes, on COCO-Stuff, or on masks of your own.

    # a few minutes on two CPU cores: a new head on the embedded checkpoint's dino.txt
    export OMP_NUM_THREADS=1
    accelerate launch --multi_gpu --num_processes 2 scripts/train.py --config recipes/drawn_world.yaml \
        --output runs/drawn

    # COCO-Stuff, on the GPUs that `accelerate config` was told of; the same command goes on after an interruption
    accelerate launch scripts/train.py --config recipes/coco_stuff.yaml --init dinov3seg-vitl16 --output runs/stuff \\
        --dataset data/coco-stuff-171 --resume

    # masks of your own: any data set with an image and a mask column
    accelerate launch scripts/train.py --config recipes/coco_stuff.yaml --init runs/stuff --output runs/mine \\
        --dataset me/my-masks --vocabulary classes.txt --eval-split test --steps 2000 --learning-rate 5e-5

Every field of a recipe is a flag, and flags win. What is wrong with them is said before the first step. (`--multi_gpu`
means several processes, on CPUs too.)
"""

import sys

from transformers.utils import logging

from dinov3seg_hf.training import Trainer, TrainingResult, start_processes
from dinov3seg_hf.training_config import config_from_flags

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130


def main() -> int:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    processes = start_processes()
    try:
        config, resume = config_from_flags(prog="scripts/train.py", description=__doc__)
        trainer = Trainer(config, resume)
        result = trainer.train()
    except ValueError as error:
        if processes.is_main_process:
            print(f"scripts/train.py: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return EXIT_ERROR
    if processes.is_main_process:
        print(summary(config.output, result), flush=True)
    trainer.accelerator.end_training()
    return 0 if result.finished else EXIT_INTERRUPTED


def summary(output: str, result: TrainingResult) -> str:
    lines = [f"step {result.step}"]
    if result.loss is not None:
        lines.append(f"loss {result.loss:.4f}")
    if result.scores:
        lines += [
            f"{name} {100 * value:.2f} %"
            for name, value in result.scores.items()
            if not name.endswith(("_low", "_high"))
        ]
    if result.seconds_per_step is not None:
        lines.append(f"{result.seconds_per_step:.2f} s a step, {result.peak_memory / 2**20:.0f} MiB at the most")
    state = f"The model is in {output}/model." if result.finished else "Stopped; go on with --resume."
    return "\n".join([*lines, state])


if __name__ == "__main__":
    sys.exit(main())
