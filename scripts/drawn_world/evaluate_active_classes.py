# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What `active_classes` costs and saves with 1039 names: the drawn ones among the words of ADE20K-847.

    python scripts/drawn_world/evaluate_active_classes.py                                # 300 scenes, "auto"
    python scripts/drawn_world/evaluate_active_classes.py --choice --scenes 14 --rules 4 8 --groups 1 32 64

The second command is how `AUTO` and `MAX_GROUPS` were chosen, on other scenes.

Scenes have seen and unseen names. Scores are the mIoU in % of one confusion matrix over all scenes, times are CPU
seconds of the head in one thread. Intervals are 95 % of a bootstrap over scenes, paired: each resample takes the same
scenes from both. Ctrl+C ends early, with the scenes so far.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import dinov3seg_hf
from dinov3seg_hf import Vocabulary
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.scenes import Scene, draw_scene
from dinov3seg_hf.drawn_world.seeds import ACTIVE_CLASSES
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.metrics.scoring import ConfusionMatrix, ImageCounts, bootstrap_intervals
from dinov3seg_hf.model import active_classes

CHOICE = ACTIVE_CLASSES - 10_000  # first seed of the scenes that the rule was chosen on


class Score:
    """The counts of the scenes with one rule, the seconds of the head, and the pixels that change."""

    def __init__(self) -> None:
        self.counts: list[ImageCounts] = []
        self.seconds: list[float] = []
        self.changed: list[float] = []

    def update(self, label_map: np.ndarray, of_all: np.ndarray, scene: Scene, seconds: float) -> None:
        self.counts.append(ImageCounts.of(len(self.counts), label_map, scene.labels, len(NAMES)))
        self.seconds.append(seconds)
        self.changed.append(float((label_map != of_all).mean()))

    def mean_iou(self) -> float:
        matrix = ConfusionMatrix(len(NAMES))
        for image in self.counts:
            matrix.add(image.labels, image.predictions, image.counts)
        return 100 * matrix.mean_iou()

    def summary(self, of_all: "Score") -> dict[str, float | list[float]]:
        groups = {"all": range(len(NAMES))}
        (interval,) = bootstrap_intervals(self.counts, len(NAMES), groups, baseline=of_all.counts).values()
        return {
            "miou": round(self.mean_iou(), 2),
            "gain": round(self.mean_iou() - of_all.mean_iou(), 2),
            "gain_interval": [round(100 * edge, 2) for edge in interval],
            "changed": round(100 * float(np.mean(self.changed)), 2),
            "seconds": round(float(np.mean(self.seconds)), 3),
            "ratio": round(sum(of_all.seconds) / sum(self.seconds), 1),
        }


Rule = tuple[int | str | None, int]  # active_classes, and the number of groups of rejected classes


@torch.inference_mode()
def segment(pipe, scene: Scene, text_embeds: torch.Tensor, rules: Sequence[Rule]) -> list[tuple]:
    """Returns the label map of each rule, and the seconds of the head."""
    features = pipe.encode_image(Image.fromarray(scene.image), inference="whole", head="full").features
    found = []
    for rule, active_classes.MAX_GROUPS in rules:
        start = time.process_time()
        logits = pipe.model(image_features=features, text_embeds=text_embeds, active_classes=rule).logits
        seconds = time.process_time() - start
        (label_map,) = pipe.image_processor.post_process_semantic_segmentation(
            SimpleNamespace(logits=logits), target_sizes=[scene.labels.shape]
        )
        found.append((label_map.numpy(), seconds))
    return found


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(dinov3seg_hf.TINY))
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--rules", nargs="+", default=["auto"], help="values of active_classes (default: auto)")
    parser.add_argument(
        "--groups",
        type=int,
        nargs="+",
        default=[active_classes.MAX_GROUPS],
        help="numbers of groups of rejected classes (default: %(default)s)",
    )
    parser.add_argument("--words", default="ade20k-847", help="preset whose words are added to the drawn ones, or none")
    parser.add_argument("--choice", action="store_true", help="use the scenes that the rule was chosen on")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    args = parser.parse_args()

    torch.set_num_threads(1)
    numbers = [rule if rule == "auto" else int(rule) for rule in args.rules]
    rules = [(None, 0), *itertools.product(numbers, args.groups)]  # the first one rejects no class
    words = () if args.words == "none" else Vocabulary.from_preset(args.words).names
    labels = [*NAMES, *(word for word in words if word not in NAMES)]
    pipe = load_pipeline(args.model, "cpu")
    text_embeds = pipe.encode_labels(labels).tensor
    scores = [Score() for _ in rules]
    first = CHOICE if args.choice else ACTIVE_CLASSES
    try:
        for index in tqdm(range(args.scenes), file=sys.stderr):
            scene = draw_scene(first + index, "all")
            found = segment(pipe, scene, text_embeds, rules)
            for score, (label_map, seconds) in zip(scores, found):
                score.update(label_map, found[0][0], scene, seconds)
    except KeyboardInterrupt:
        print("interrupted; these are the scores of the scenes so far", file=sys.stderr)

    results = {"scenes": len(scores[0].counts), "first_seed": first, "names": len(labels), "rules": {}}
    print(f"{len(labels)} names, {results['scenes']} scenes")
    print("| active_classes | groups | mIoU | gain | 95 % interval | pixels that change, % | head, s | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for (rule, groups), score in zip(rules, scores):
        values = score.summary(scores[0])
        results["rules"][f"{rule}, {groups} groups"] = values
        low, high = values["gain_interval"]
        print(
            f"| {rule} | {groups} | {values['miou']:.2f} | {values['gain']:+.2f} | {low:+.2f} to {high:+.2f} | "
            f"{values['changed']:.2f} | {values['seconds']:.3f} | {values['ratio']} |"
        )
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
