# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Computes the scores of the embedded checkpoint in its model card, and the scores of the oracles.

    python scripts/drawn_world/evaluate_tiny.py                        # the embedded checkpoint, 300 scenes per split
    python scripts/drawn_world/evaluate_tiny.py --model runs/tiny --scenes 50 --output results.json

Every score is the mIoU in % of one confusion matrix over all scenes of a split, or the boundary F-score in %. The
vocabulary contains *all* names, seen and unseen. The scenes are segmented with the public pipeline. Intervals of gains
are 95 % of a bootstrap over scenes, paired: each resample takes the same scenes from both. Each split has a process of
its own, so `OMP_NUM_THREADS=1` is best on two cores.
"""

import argparse
import json
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import pipeline
from transformers.utils import logging

import dinov3seg_hf
from dinov3seg_hf.drawn_world.names import COLORS, NAMES, PATTERNS, SHAPES, factors_of, phrase_groups, true_phrase
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.drawn_world.seeds import CARD
from dinov3seg_hf.metrics.boundary import BoundaryScore
from dinov3seg_hf.metrics.scoring import ConfusionMatrix, ImageCounts, bootstrap_intervals
from dinov3seg_hf.model.fingerprints import weights_fingerprint

NUM_NAMES = len(NAMES)

# Heads and refinements that need no training of their own; see the options of the pipeline.
VARIANTS: dict[str, dict[str, Any]] = {
    "full model": {},
    "full model, refined pixels": {"refine": "pixels"},
    "zero-shot head": {"head": "dinotxt", "refine_features": False},
    "zero-shot head, refined features": {"head": "dinotxt", "refine_features": True},
    "zero-shot head, refined pixels": {"head": "dinotxt", "refine_features": False, "refine": "pixels"},
    "zero-shot head, refined features and pixels": {"head": "dinotxt", "refine_features": True, "refine": "pixels"},
}


# What the gains are over.
BASELINE = "zero-shot head"

# What `refine="pixels"` gains by itself.
REFINED_PIXELS = {
    "full model, refined pixels": "full model",
    "zero-shot head, refined features and pixels": "zero-shot head, refined features",
}


def score_pipeline(
    pipe, scenes: list, labels: list[str], description: str, **options
) -> tuple[dict[str, float], list[ImageCounts]]:
    """Scores the scenes with the vocabulary `labels`; `labels[i]` is used in place of `NAMES[i]`.

    Returns:
        The scores, and the counts of each scene.
    """
    matrix, boundary, counts = ConfusionMatrix(NUM_NAMES), BoundaryScore(), []
    for index, scene in enumerate(tqdm(scenes, desc=description, file=sys.stderr)):
        result = pipe(Image.fromarray(scene.image), candidate_labels=labels, return_label_map=True, **options)
        label_map = np.asarray(result["label_map"])
        counts.append(ImageCounts.of(index, label_map, scene.labels, NUM_NAMES))
        matrix.add(counts[-1].labels, counts[-1].predictions, counts[-1].counts)
        boundary.update(label_map, scene.labels)
    return {**summary(matrix), "boundary_f": round(100 * boundary.mean(), 2)}, counts


def gain(counts: list[ImageCounts], baseline: list[ImageCounts]) -> list[float]:
    """Returns the interval of the gain in mIoU over the baseline, in points."""
    (interval,) = bootstrap_intervals(counts, NUM_NAMES, {"all": range(NUM_NAMES)}, baseline=baseline).values()
    return [round(100 * edge, 2) for edge in interval]


def oracle(scenes: list, blind: int, rng: np.random.Generator) -> ConfusionMatrix:
    """Scores an oracle that gets every mask and two of its three factors; the third factor is drawn at random.

    If the kind is drawn at random, an object gets a random shape. A background keeps its kind, because its mask shows
    that it is a background.
    """
    factors = (COLORS, PATTERNS, SHAPES)
    matrix = ConfusionMatrix(NUM_NAMES)
    for scene in scenes:
        prediction = np.empty_like(scene.labels)
        # one guess per name and scene, because a label map does not separate two objects with the same name
        for label in np.unique(scene.labels):
            name = list(factors_of(NAMES[label]))
            if not (blind == 2 and name[2] == "background"):
                name[blind] = factors[blind][rng.integers(len(factors[blind]))]
            prediction[scene.labels == label] = NAMES.index(" ".join(name))
        matrix.update(prediction, scene.labels)
    return matrix


def score_phrases(pipe, scenes: list, description: str, **options) -> dict[str, float]:
    """Returns, for each group of phrases as the vocabulary, the share of pixels in % that get the correct phrase."""
    shares = {}
    for name, group in phrase_groups().items():
        truth, right, total = true_phrase(group), 0, 0
        for scene in tqdm(scenes, desc=f"{description}, {name}", file=sys.stderr):
            image = Image.fromarray(scene.image)
            result = pipe(image, candidate_labels=list(group), return_label_map=True, **options)
            right += (np.asarray(result["label_map"]) == truth[scene.labels]).sum()
            total += scene.labels.size
        shares[name] = round(100 * right / total, 1)
    return shares


def score_alone(pipe, scenes: list, description: str) -> dict[str, list[float]]:
    """Scores each phrase as the only label of every scene.

    Returns:
        For each group, over all phrases and scenes: the mean score in pixels for which the phrase is true, the mean
        score in all other pixels, and the IoU in % of the pixels with a score above 0.5.
    """
    rows = {}
    for name, group in phrase_groups().items():
        truth = true_phrase(group)
        inside, outside, overlap, union = [], [], 0, 0
        for scene in tqdm(scenes, desc=f"{description}, {name} alone", file=sys.stderr):
            image = pipe.encode_image(Image.fromarray(scene.image), inference="whole")
            for index, phrase in enumerate(group):
                scores = pipe(image, candidate_labels=[phrase], return_scores=True)["scores"][0].astype(np.float32)
                scores = np.asarray(Image.fromarray(scores).resize(scene.labels.shape[::-1], Image.Resampling.BILINEAR))
                true = truth[scene.labels] == index
                inside.append(scores[true].mean() if true.any() else np.nan)
                outside.append(scores[~true].mean() if (~true).any() else np.nan)
                overlap += (true & (scores > 0.5)).sum()
                union += (true | (scores > 0.5)).sum()
        rows[name] = [
            round(float(np.nanmean(inside)), 3),
            round(float(np.nanmean(outside)), 3),
            round(100 * overlap / union, 1),
        ]
    return rows


def summary(matrix: ConfusionMatrix) -> dict[str, float]:
    objects = [i for i, name in enumerate(NAMES) if not name.endswith("background")]
    backgrounds = [i for i, name in enumerate(NAMES) if name.endswith("background")]
    return {
        "miou": round(100 * matrix.mean_iou(), 2),
        "miou_objects": round(100 * matrix.mean_iou(objects), 2),
        "miou_backgrounds": round(100 * matrix.mean_iou(backgrounds), 2),
        "pixel_accuracy": round(100 * matrix.pixel_accuracy(), 2),
    }


def gain_cells(results: dict[str, Any], splits: list[str], name: str, baseline: str, interval: str) -> list[str]:
    """Describes the gain of a variant over another one in each split."""
    cells = []
    for split in splits:
        low, high = results[split][name][interval]
        difference = results[split][name]["miou"] - results[split][baseline]["miou"]
        cells.append(f"  {split}: {difference:+6.2f} ({low:+.2f} to {high:+.2f})")
    return cells


def score_split(model: str, split: str, num_scenes: int, num_phrase_scenes: int) -> dict[str, Any]:
    """Scores one split of the scenes.

    Returns:
        `"weights"`: the fingerprint of the weights; `"scores"` of each variant and oracle; `"phrases"`: the scores of
        phrases as vocabularies and alone.
    """
    logging.disable_progress_bar()
    pipe = pipeline("open-vocabulary-segmentation", model=model, device="cpu")
    variants = VARIANTS
    if pipe.model.early_refinement is None:
        variants = {name: options for name, options in VARIANTS.items() if not options.get("refine_features")}
    scenes = [draw_scene(CARD + i, split) for i in range(num_scenes)]
    scored = {
        name: score_pipeline(pipe, scenes, list(NAMES), f"{split}, {name}", inference="whole", **options)
        for name, options in variants.items()
    }
    baseline = scored[BASELINE][1]
    scores: dict[str, dict[str, Any]] = {
        name: {**values, "gain_interval": gain(counts, baseline)} for name, (values, counts) in scored.items()
    }
    for refined, plain in REFINED_PIXELS.items():
        if refined in scored:
            scores[refined]["interval_of_pixels"] = gain(scored[refined][1], scored[plain][1])
    shuffled = list(np.random.default_rng(0).permutation(NAMES))
    scores["full model, shuffled names"], _ = score_pipeline(
        pipe, scenes, shuffled, f"{split}, shuffled", inference="whole"
    )
    for blind, factor in enumerate(("color", "pattern", "shape")):
        scores[f"oracle blind to {factor}"] = summary(oracle(scenes, blind, np.random.default_rng(blind)))
    few = scenes[:num_phrase_scenes]
    phrases = {
        "full model": score_phrases(pipe, few, f"{split}, full model", inference="whole"),
        "zero-shot head": score_phrases(
            pipe, few, f"{split}, zero-shot head", inference="whole", head="dinotxt", refine_features=False
        ),
        "alone": score_alone(pipe, few, split),
    }
    return {"weights": weights_fingerprint(pipe.model), "scores": scores, "phrases": phrases}


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it has ended, even if that one was killed."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def score_splits(args: argparse.Namespace) -> dict[str, Any]:
    """Scores each split in a process of its own."""
    start = time.time()
    with ProcessPoolExecutor(len(args.splits), get_context("spawn"), end_with_parent) as processes:
        futures = {
            split: processes.submit(score_split, args.model, split, args.scenes, args.phrase_scenes)
            for split in args.splits
        }
        of_split = {split: future.result() for split, future in futures.items()}
    return {
        "scenes": args.scenes,
        "first_seed": CARD,
        "vocabulary": NUM_NAMES,
        "phrases": {split: result["phrases"] for split, result in of_split.items()},
        "weights": of_split[args.splits[0]]["weights"],
        **{split: result["scores"] for split, result in of_split.items()},
        "minutes": round((time.time() - start) / 60, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(dinov3seg_hf.TINY))
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--splits", nargs="+", choices=("unseen", "seen"), default=["unseen", "seen"])
    parser.add_argument("--phrase-scenes", type=int, default=60, help="number of scenes, of --scenes, for the phrases")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    args = parser.parse_args()

    results = score_splits(args)
    variants = [name for name in VARIANTS if name in results[args.splits[0]]]

    width = max(len(name) for name in results[args.splits[0]])
    print(f"{'mIoU in % (objects alone) boundary F':{width}}", *(f"{split:>23}" for split in args.splits))
    for name in results[args.splits[0]]:
        scores = [results[split][name] for split in args.splits]
        cells = [f"{s['miou']:8.2f} ({s['miou_objects']:5.2f}) {s.get('boundary_f', '-'):>6}" for s in scores]
        print(f"{name:{width}}", *cells)
    print(f"\nphrases as vocabularies, % of pixels correct, {args.phrase_scenes} scenes per split")
    for name, group in phrase_groups().items():
        print(f"{f'{name} ({len(group)})':{width}}", end="")
        for split in args.splits:
            full, zero_shot = (results["phrases"][split][head][name] for head in ("full model", "zero-shot head"))
            print(f"  {split}: {full:5.1f} (zero-shot {zero_shot:5.1f})", end="")
        print()
    print(f"\ngain in mIoU over the {BASELINE}, 95 % interval")
    for name in variants:
        print(f"{name:{width}}", *gain_cells(results, args.splits, name, BASELINE, "gain_interval"))
    print("\ngain of refined pixels in mIoU, 95 % interval")
    for name, plain in REFINED_PIXELS.items():
        if name in variants:
            print(f"{name:{width}}", *gain_cells(results, args.splits, name, plain, "interval_of_pixels"))
    print("\none phrase as the only label: mean score where true, mean score elsewhere, IoU in % at score 0.5")
    for name in phrase_groups():
        print(f"{name:{width}}", end="")
        for split in args.splits:
            inside, outside, iou = results["phrases"][split]["alone"][name]
            print(f"  {split}: {inside:.2f} {outside:.2f} {iou:5.1f}", end="")
        print()
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
