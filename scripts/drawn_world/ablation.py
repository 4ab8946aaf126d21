# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Trains the head on the drawn world with each of the paper's contributions left out in turn, and writes the table.

    accelerate launch --multi_gpu --num_processes 2 scripts/ablation.py --output runs/ablation

Every variant starts from the embedded checkpoint's frozen dino.txt and is trained as often as there are seeds, which
decide its first weights, the order of the scenes, the noise and the classes of each step. With `--head keep` it starts
from the embedded checkpoint's head too, of which a part is taken out: what can the rest make up for in a few steps?

A run that was stopped goes on; a run that has its scores is not repeated. The table lies between two marks in the
Markdown file: what else is written there stays.
"""

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

from transformers.utils import logging

from dinov3seg_hf.data.drawn_world import drawn_world
from dinov3seg_hf.data.presets import drawn_world_vocabulary
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.distributed import start_processes
from dinov3seg_hf.evaluation.evaluator import evaluate
from dinov3seg_hf.loading import load_starting_point
from dinov3seg_hf.model.files import write_atomically
from dinov3seg_hf.model.fingerprints import weights_fingerprint
from dinov3seg_hf.training.config import TrainingConfig
from dinov3seg_hf.training.trainer import Trainer

FULL = "full model"
VARIANTS = {
    FULL: [],
    "no global text": ["use_global_text"],
    "no early refinement": ["use_early_refinement"],
    "no late refinement": ["use_spatial_refinement", "use_class_refinement", "use_guidance"],
    "late refinement without the spatial blocks": ["use_spatial_refinement"],
    "late refinement without the class blocks": ["use_class_refinement"],
    "late refinement without guidance": ["use_guidance"],
}
NO_LOCAL_GLOBAL = "no local-global inference"
ZERO_SHOT = "zero-shot head, nothing trained"
OUTCOME, ZERO_SHOT_OUTCOME = "ablation.json", "zero-shot.json"
# Seeds of scenes that nothing else draws.
FIRST_TEST_SEED = 700_000
LARGE = 2  # the side of large scenes, in sides of a training crop
COLUMNS, WHOLE = ("unseen", "seen", "unseen, large"), "unseen, large, whole"
# Where in the Markdown file a table lies, by the head that it began with.
MARKS = {
    "fresh": ("<!-- table of scripts/ablation.py: begin -->", "<!-- table of scripts/ablation.py: end -->"),
    "keep": ("<!-- table of scripts/ablation.py --head keep: begin -->", "<!-- ... --head keep: end -->"),
}


def scene_sets(num_scenes: int, crop_size: int) -> dict[str, tuple[SegmentationDataset, dict]]:
    """Column -> scenes and how they are evaluated. Large scenes are seen at their own size; they are fewer, with as
    many pixels together."""
    vocabulary = drawn_world_vocabulary()

    def scenes(split: str, num_scenes: int, size: int) -> SegmentationDataset:
        return SegmentationDataset(drawn_world(num_scenes, split, FIRST_TEST_SEED, size), vocabulary)

    large = scenes("unseen", max(1, num_scenes // LARGE**2), LARGE * crop_size)
    size = {"shortest_edge": LARGE * crop_size}
    return {
        "unseen": (scenes("unseen", num_scenes, crop_size), {"inference": "whole"}),
        "seen": (scenes("seen", num_scenes, crop_size), {"inference": "whole"}),
        "unseen, large": (large, {"inference": "local-global", "size": size}),
        WHOLE: (large, {"inference": "whole", "size": size}),
    }


def score(model, processor, sets: dict, accelerator=None, **options) -> dict[str, float]:
    """Column -> mIoU, between 0 and 1."""
    return {
        column: evaluate(model, processor, data, accelerator=accelerator, num_resamples=0, **how, **options).scores[
            "mean_iou"
        ]
        for column, (data, how) in sets.items()
    }


def read_outcome(path: Path, made_with: dict) -> dict | None:
    """What an earlier start wrote, if it did, with the same options.

    Raises:
        ValueError: With others; names one.
    """
    if not path.exists():
        return None
    outcome = json.loads(path.read_text())
    earlier = outcome["made_with"]
    if changed := [key for key in made_with if earlier.get(key) != made_with[key]]:
        raise ValueError(
            f"The scores in {str(path)!r} were made with {changed[0]} {earlier.get(changed[0])!r}, which is now "
            f"{made_with[changed[0]]!r}. Choose a new --output, or delete them."
        )
    return outcome


def write_outcome(path: Path, outcome: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(outcome, indent=1) + "\n").encode())


def run(config: TrainingConfig, sets: dict, made_with: dict) -> dict:
    """Trains and scores one variant with one seed, or goes on with it, or reads what it gave."""
    path = Path(config.output) / OUTCOME
    made_with = {**{key: value for key, value in config.to_dict().items() if key != "output"}, **made_with}
    if (outcome := read_outcome(path, made_with)) is not None:
        return outcome
    trainer = Trainer(config, resume=True)
    result = trainer.train()
    if not result.finished:
        raise KeyboardInterrupt
    if config.ablate:  # this is asked of the full model alone
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


def rows_of(outcomes: dict[str, list[dict]], zero_shot: dict[str, float]) -> dict[str, dict[str, list[float]]]:
    """Row -> column -> a score for every seed, in percent."""
    rows = {
        variant: {column: [100 * outcome["scores"][column] for outcome in runs] for column in COLUMNS}
        for variant, runs in outcomes.items()
    }
    rows[NO_LOCAL_GLOBAL] = {
        **rows[FULL],
        "unseen, large": [100 * outcome["scores"][WHOLE] for outcome in outcomes[FULL]],
    }
    rows[ZERO_SHOT] = {column: [100 * zero_shot[column]] for column in COLUMNS}
    return rows


def markdown(rows: dict[str, dict[str, list[float]]], notes: list[str]) -> str:
    """The table: mean and standard deviation over seeds, and how much each variant loses, seed by seed."""
    lines = [
        "| | " + " | ".join(f"{column} | change" for column in COLUMNS) + " |",
        "|---" * (1 + 2 * len(COLUMNS)) + "|",
    ]
    for name, scores in rows.items():
        cells = []
        for column in COLUMNS:
            values, full = scores[column], rows[FULL][column]
            cells.append(spread(values))
            changed = name != FULL and values != full
            paired = values if len(values) == len(full) else values * len(full)
            cells.append(spread([a - b for a, b in zip(paired, full)], signed=True) if changed else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *notes])


def spread(values: list[float], signed: bool = False) -> str:
    mean = f"{statistics.mean(values):{'+' if signed else ''}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def place_of_table(path: Path, head: str) -> tuple[str, str]:
    """What stands before a table and after it, marks included.

    Raises:
        ValueError: The file is there, without the marks.
    """
    begin, end = MARKS[head]
    empty = "\n\n".join(f"{begin}\n{end}" for begin, end in MARKS.values())
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Ablation\n\n{empty}\n"
    if begin not in text or end not in text:
        raise ValueError(f"{str(path)!r} has no place for the table; put the lines {begin!r} and {end!r} into it.")
    return text[: text.index(begin)] + begin, text[text.index(end) :]


def write_table(path: Path, table: str, head: str = "fresh") -> None:
    """Between the marks, where the file has them."""
    before, after = place_of_table(path, head)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{before}\n{table}\n{after}".encode())


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of the runs")
    parser.add_argument("--recipe", default="recipes/drawn_world.yaml", help="what the runs have in common")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default 3)")
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--batch-size", type=int, help="in place of the recipe's")
    parser.add_argument("--learning-rate", type=float, help="in place of the recipe's")
    parser.add_argument("--feature-noise", type=float, help="in place of the recipe's")
    parser.add_argument("--head", choices=MARKS, default="fresh", help="what a head begins with (default fresh)")
    parser.add_argument("--scenes", type=int, default=100, help="test scenes of each kind (default 100)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="some of them only")
    parser.add_argument("--table", type=Path, default=Path("docs/ablation.md"), help="default: docs/ablation.md")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.scenes < 1:
        parser.error("at least one seed and one scene")
    if FULL not in options.variants:
        options.variants.insert(0, FULL)  # what the others are compared with
    return options


def main(arguments: list[str] | None = None) -> int:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = parse(arguments)
    try:
        place_of_table(options.table, options.head)  # before hours of training
        rows, notes = ablate(options)
        if start_processes().is_main_process:
            table = markdown(rows, notes)
            write_table(options.table, table, options.head)
            print(table)
    except ValueError as error:
        print(f"scripts/ablation.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("scripts/ablation.py: stopped; the same command goes on.", file=sys.stderr)
        return 130
    return 0


def ablate(options: argparse.Namespace) -> tuple[dict, list[str]]:
    given = {key: getattr(options, key) for key in ("steps", "batch_size", "learning_rate", "feature_noise")}
    given = {key: value for key, value in given.items() if value is not None}
    # evaluated here, at the end
    fixed = {"head": options.head, "eval_split": None, "num_overlays": 0, "keep_checkpoints": 1, "trackers": ["none"]}
    configs = {
        (variant, seed): TrainingConfig.from_yaml(
            options.recipe,
            **fixed,
            **given,
            ablate=VARIANTS[variant],
            seed=seed,
            output=str(Path(options.output) / variant.replace(" ", "-") / f"seed-{seed}"),
        )
        for seed in range(options.seeds)  # all variants of a seed first: a table can be made of few seeds
        for variant in options.variants
    }
    config = next(iter(configs.values()))
    model, processor = load_starting_point(config.init)
    made_with = {"scenes": options.scenes, "weights": weights_fingerprint(model)}
    sets = scene_sets(options.scenes, config.crop_size)
    outcomes: dict[str, list[dict]] = {}
    for number, ((variant, seed), config) in enumerate(configs.items(), start=1):
        if start_processes().is_main_process:
            print(f"{number}/{len(configs)}: {variant}, seed {seed}", file=sys.stderr, flush=True)
        outcomes.setdefault(variant, []).append(run(config, sets, made_with))

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
    command = [*launcher, "scripts/ablation.py", *sys.argv[1:]]
    side = config.crop_size
    seeds = f"{options.seeds} seed{'s' * (options.seeds > 1)}"
    classes = (
        f"{' or '.join(map(str, config.sampled_classes))} classes" if config.sampled_classes else "all seen classes"
    )
    return [
        f"mIoU in % on {options.scenes} fresh scenes a column (a quarter of that on large ones), all 192 names as the "
        f"vocabulary: mean ± standard deviation over {seeds}, and the change from the full model with the same seed. "
        f"Scenes have {side} px a side, large ones {LARGE * side} px with local-global inference.",
        "",
        f"{'Each head' if options.head == 'fresh' else 'What is left of the embedded head'} was trained for "
        f"{config.steps} steps of {config.batch_size} scenes, {classes} a step"
        + f", learning rate {config.learning_rate:g}, feature noise {config.feature_noise:g}"
        + (f", {statistics.mean(seconds):.2f} s a step" if seconds else "")
        + ". dino.txt is that of the embedded checkpoint, frozen.",
        "",
        "```bash",
        shlex.join(command),
        "```",
    ]


if __name__ == "__main__":
    sys.exit(main())
