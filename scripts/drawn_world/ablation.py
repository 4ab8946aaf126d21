# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Trains the head on the drawn world without each of the paper's contributions in turn, and writes the table.

    accelerate launch --multi_gpu --num_processes 2 scripts/drawn_world/ablation.py --output runs/ablation

Every variant starts from the frozen dino.txt of the embedded checkpoint and is trained once per seed. The seed
determines the initial weights, the order of the scenes, the noise and the classes of each step. With `--head keep`, a
variant also starts from the head of the embedded checkpoint, without the removed part. This shows how much the
remaining parts can compensate in a few steps.

A stopped run is resumed; a run that has scores is not repeated. The table is written between two marks in the Markdown
file; the other text of the file is not changed.
"""

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("train", "accelerate", "datasets")

from ablation_table import FULL, MARKS, WHOLE, markdown, place_of_table, rows_of, write_table

from dinov3seg_hf.cli.console import EXIT_OK, Parser, execute, positive
from dinov3seg_hf.data.drawn_world import drawn_world
from dinov3seg_hf.data.presets import drawn_world_vocabulary
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.distributed import start_processes
from dinov3seg_hf.drawn_world.seeds import ABLATION
from dinov3seg_hf.evaluation.evaluator import evaluate
from dinov3seg_hf.loading import load_starting_point
from dinov3seg_hf.model.files import write_atomically
from dinov3seg_hf.model.fingerprints import weights_fingerprint
from dinov3seg_hf.model.inference_settings import InferenceSettings
from dinov3seg_hf.training.config import TrainingConfig
from dinov3seg_hf.training.trainer import Trainer

LATE = ["use_spatial_refinement", "use_class_refinement", "use_guidance"]
VARIANTS = {
    FULL: [],
    "no global text": ["use_global_text"],
    "no early refinement": ["use_early_refinement"],
    "no late refinement": LATE,
    "late refinement without the spatial blocks": ["use_spatial_refinement"],
    "late refinement without the class blocks": ["use_class_refinement"],
    "late refinement without guidance": ["use_guidance"],
    "no text threshold": ["use_text_threshold"],
    "no correlation residual": ["use_correlation_residual"],
    "neither early nor late refinement": ["use_early_refinement", *LATE],
}
OUTCOME, ZERO_SHOT_OUTCOME = "ablation.json", "zero-shot.json"
NOT_OF_THE_RUN = ("init", "output", "num_workers")  # options that change no score; the weights of `init` are compared
LARGE = 2  # side of large scenes divided by the side of a training crop


def scene_sets(num_scenes: int, crop_size: int) -> dict[str, tuple[SegmentationDataset, InferenceSettings]]:
    """Returns a mapping from column to scenes and inference settings.

    Large scenes are evaluated at their original size. There are fewer large scenes, with the same number of pixels in
    total.
    """
    vocabulary = drawn_world_vocabulary()

    def scenes(split: str, num_scenes: int, size: int) -> SegmentationDataset:
        return SegmentationDataset(drawn_world(num_scenes, split, ABLATION, size), vocabulary)

    large = scenes("unseen", max(1, num_scenes // LARGE**2), LARGE * crop_size)
    size = {"shortest_edge": LARGE * crop_size}
    return {
        "unseen": (scenes("unseen", num_scenes, crop_size), InferenceSettings(inference="whole")),
        "seen": (scenes("seen", num_scenes, crop_size), InferenceSettings(inference="whole")),
        "unseen, large": (large, InferenceSettings(inference="local-global", size=size)),
        WHOLE: (large, InferenceSettings(inference="whole", size=size)),
    }


def score(model, processor, sets: dict, accelerator=None, **options) -> dict[str, float]:
    """Returns a mapping from column to mIoU, between 0 and 1."""
    scores = {}
    for column, (data, settings) in sets.items():
        settings = settings.updated(**options)
        result = evaluate(model, processor, data, settings=settings, accelerator=accelerator, num_resamples=0)
        scores[column] = result.scores["mean_iou"]
    return scores


def read_outcome(path: Path, made_with: dict) -> dict | None:
    """Returns the scores that an earlier start wrote with the same options; `None` if they do not exist.

    Raises:
        ValueError: If the scores were computed with other options; the message names one of the options.
    """
    if not path.exists():
        return None
    outcome = json.loads(path.read_text())
    earlier = outcome["made_with"]
    if changed := [key for key in made_with if earlier.get(key) != made_with[key]]:
        raise ValueError(
            f"The scores in {str(path)!r} were computed with {changed[0]} {earlier.get(changed[0])!r}; expected "
            f"{made_with[changed[0]]!r}. Choose a new --output, or delete this file."
        )
    return outcome


def write_outcome(path: Path, outcome: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(outcome, indent=1) + "\n").encode())


def run_variant(config: TrainingConfig, sets: dict, made_with: dict) -> dict:
    """Trains (or resumes) and scores one variant with one seed, or reads its existing scores."""
    path = Path(config.output) / OUTCOME
    made_with = {**{key: value for key, value in config.to_dict().items() if key not in NOT_OF_THE_RUN}, **made_with}
    if (outcome := read_outcome(path, made_with)) is not None:
        return outcome
    trainer = Trainer(config, resume=True)
    result = trainer.train()
    if not result.finished:
        raise KeyboardInterrupt
    if config.ablate:  # this column is measured for the full model only
        sets = {column: how for column, how in sets.items() if column != WHOLE}
    outcome = {
        "scores": score(trainer.model, trainer.processor, sets, trainer.accelerator),
        "seconds_per_step": result.seconds_per_step,
        "loss": result.loss,
        "made_with": made_with,
    }
    if trainer.accelerator.is_main_process:
        write_outcome(path, outcome)
    trainer.accelerator.wait_for_everyone()
    return outcome


def make_parser(prog: str) -> Parser:
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of the runs")
    parser.add_argument(
        "--recipe", default="recipes/drawn_world.yaml", help="recipe of all runs (default: %(default)s)"
    )
    parser.add_argument("--init", help="checkpoint to start from (default: from the recipe)")
    parser.add_argument("--num-workers", type=int, help="processes that draw scenes ahead (default: from the recipe)")
    parser.add_argument("--seeds", type=positive, default=3, help="number of runs per variant (default: 3)")
    parser.add_argument("--steps", type=int, help="default: from the recipe")
    parser.add_argument("--batch-size", type=int, help="default: from the recipe")
    parser.add_argument("--learning-rate", type=float, help="default: from the recipe")
    parser.add_argument("--feature-noise", type=float, help="default: from the recipe")
    parser.add_argument(
        "--sampled-classes", type=positive, nargs="+", metavar="N", help="classes per step (default: from the recipe)"
    )
    parser.add_argument("--head", choices=MARKS, default="fresh", help="initial head (default: fresh)")
    parser.add_argument("--scenes", type=positive, default=100, help="test scenes per column (default: 100)")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to train (default: all)"
    )
    parser.add_argument(
        "--table", type=Path, default=Path("docs/ablation.md"), help="Markdown file (default: docs/ablation.md)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    if FULL not in options.variants:
        options.variants.insert(0, FULL)  # the other variants are compared with the full model
    place_of_table(options.table, options.head)  # raises errors before hours of training
    rows, notes = ablate(options)
    if start_processes().is_main_process:
        table = markdown(rows, notes)
        write_table(options.table, table, options.head)
        print(table)
    return EXIT_OK


def configurations(options: argparse.Namespace) -> dict[tuple[str, int], TrainingConfig]:
    """Returns a mapping from variant and seed to the configuration of the run."""
    keys = ("init", "steps", "batch_size", "learning_rate", "feature_noise", "num_workers", "sampled_classes")
    given = {key: getattr(options, key) for key in keys}
    given = {key: value for key, value in given.items() if value is not None}
    # no evaluation during training, because this script evaluates at the end
    fixed = {"head": options.head, "eval_split": None, "num_overlays": 0, "keep_checkpoints": 1, "trackers": ["none"]}
    return {
        (variant, seed): TrainingConfig.from_yaml(
            options.recipe,
            **fixed,
            **given,
            ablate=VARIANTS[variant],
            seed=seed,
            output=str(Path(options.output) / variant.replace(" ", "-") / f"seed-{seed}"),
        )
        for seed in range(options.seeds)  # all variants of a seed first, so that a table of few seeds is possible
        for variant in options.variants
    }


def ablate(options: argparse.Namespace) -> tuple[dict, list[str]]:
    configs = configurations(options)
    config = next(iter(configs.values()))
    model, processor = load_starting_point(config.init)
    made_with = {"scenes": options.scenes, "weights": weights_fingerprint(model)}
    sets = scene_sets(options.scenes, config.crop_size)
    outcomes: dict[str, list[dict]] = {}
    for number, ((variant, seed), config) in enumerate(configs.items(), start=1):
        if start_processes().is_main_process:
            print(f"{number}/{len(configs)}: {variant}, seed {seed}", file=sys.stderr, flush=True)
        outcomes.setdefault(variant, []).append(run_variant(config, sets, made_with))

    path = Path(options.output) / ZERO_SHOT_OUTCOME
    if (outcome := read_outcome(path, made_with)) is None:
        outcome = {"scores": score(model.eval(), processor, sets, head="dinotxt"), "made_with": made_with}
        if start_processes().is_main_process:
            write_outcome(path, outcome)
    zero_shot = outcome["scores"]
    return rows_of(outcomes, zero_shot), notes_of(options, config, outcomes)


def notes_of(options: argparse.Namespace, config: TrainingConfig, outcomes: dict[str, list[dict]]) -> list[str]:
    seconds = [run["seconds_per_step"] for runs in outcomes.values() for run in runs if run["seconds_per_step"]]
    processes = start_processes().num_processes
    launcher = ["python"]
    if processes > 1:
        launcher = ["accelerate", "launch", "--multi_gpu", "--num_processes", str(processes)]
    command = [*launcher, "scripts/drawn_world/ablation.py", *sys.argv[1:]]
    side = config.crop_size
    source = "the embedded checkpoint" if config.init == "embedded" else config.init
    seeds = f"{options.seeds} seed{'s' * (options.seeds > 1)}"
    *counts, last = config.sampled_classes or ["all seen"]
    classes = f"{', '.join(map(str, counts))} or {last} classes" if counts else f"{last} classes"
    return [
        f"mIoU in % on {options.scenes} new scenes per column (a quarter of them for large scenes), with all 192 names "
        f"as the vocabulary: mean ± standard deviation over {seeds}, and the change from the full model with the same "
        f"seed. Scenes are {side} x {side} px; large scenes are {LARGE * side} x {LARGE * side} px, with local-global "
        "inference.",
        "",
        f"{'Each head' if options.head == 'fresh' else 'The remaining part of the embedded head'} was trained for "
        f"{config.steps} steps of {config.batch_size} scenes, {classes} per step"
        + f", learning rate {config.learning_rate:g}, feature noise {config.feature_noise:g}"
        + (f", {statistics.mean(seconds):.2f} s per step" if seconds else "")
        + f". The frozen dino.txt of {source} was used.",
        "",
        "```bash",
        shlex.join(command),
        "```",
    ]


INTERRUPTED = "stopped; run the same command again to resume"

if __name__ == "__main__":
    sys.exit(execute(sys.modules[__name__], "scripts/drawn_world/ablation.py"))
