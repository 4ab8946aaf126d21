# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg train` and `accelerate launch scripts/train.py`: train a model as specified by a recipe and flags."""

import argparse
from argparse import Namespace

from ..checkpoint_names import resolve_checkpoint
from ..drawn_world.names import DRAWN_WORLD
from ..training.config import config_from_options
from ..training.config import make_parser as training_parser
from .console import EXIT_INTERRUPTED, EXIT_OK

EXAMPLES = """\
examples:
  # a few minutes on two CPU cores: a new head on the dino.txt of the embedded checkpoint
  export OMP_NUM_THREADS=1
  accelerate launch --multi_gpu --num_processes 2 scripts/train.py --config recipes/drawn_world.yaml \\
      --output runs/drawn

  # COCO-Stuff, on the GPUs set in `accelerate config`; the same command resumes an interrupted run
  accelerate launch scripts/train.py --config recipes/coco_stuff.yaml --init dinov3seg-vitl16 --output runs/stuff \\
      --dataset data/coco-stuff-171 --resume

  # your own masks: a folder with images/, masks/ and classes.txt, or any data set with an image and a mask column
  accelerate launch scripts/train.py --config recipes/own_masks.yaml --init runs/stuff --output runs/mine \\
      --dataset my-masks --split "train[:90%]" --eval-split "train[90%:]" --trainable-encoders vision text \\
      --encoder-learning-rate-multiplier 0.01

Every field of a recipe is also a flag; a flag overrides the recipe. Errors in fields and flags are reported before the
first step. (`--multi_gpu` means several processes, also on CPUs.)
"""
INTERRUPTED = "interrupted; resume the run with --resume"


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser of `dinov3seg train`, with a flag for every field of `TrainingConfig`."""
    return training_parser(
        prog=prog,
        description="Trains dinov3.seg on the drawn world (in minutes), on COCO-Stuff, or on your own masks.",
        epilog=EXAMPLES,
    )


def check(options: Namespace) -> None:
    """Adds the configuration of the run to the options.

    Raises:
        ValueError: If a field is invalid, or a data set or the initial checkpoint does not exist.
    """
    from ..data.dataset_names import check_dataset

    config, resume = options.run_config = config_from_options(options)
    for name in (config.dataset, config.eval_dataset):
        if name is not None and name != DRAWN_WORLD:
            check_dataset(name)
    if not resume:  # the weights may be in the run
        resolve_checkpoint(config.init)


def run(options: Namespace) -> int:
    """Trains until the last step or until stopped."""
    from ..distributed import TRAINING_PATIENCE, start_processes
    from ..training.trainer import Trainer

    processes = start_processes(TRAINING_PATIENCE)
    config, resume = options.run_config
    trainer = Trainer(config, resume)
    result = trainer.train()
    if processes.is_main_process:
        print(result.summary(), flush=True)
        state = (
            f"The model is in {config.output}/model." if result.finished else "Stopped. Resume the run with --resume."
        )
        print(state, flush=True)
    trainer.accelerator.end_training()
    return EXIT_OK if result.finished else EXIT_INTERRUPTED
