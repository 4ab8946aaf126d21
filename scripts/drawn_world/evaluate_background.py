# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures how well things without a label are found: precision and recall of "none of these" (docs/background.md).

    python scripts/drawn_world/evaluate_background.py                 # the embedded checkpoint, 150 scenes
    python scripts/drawn_world/evaluate_background.py --model runs/tiny --scenes 40 --output background.json

Lists of labels, for scenes with seen names: the names in the scene but one object's, and 5 others ("short"); all names
but that object's ("all but one"); a fixed third or half of the names, or half of the colors, for all scenes; the names
in the scene and 5 others, so that nothing is missing ("complete"); 8 names that are not in the scene ("nothing").
Calibrations are measured on as many other scenes.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import pipeline
from transformers.utils import logging

import dinov3seg_hf
from dinov3seg_hf.doctor.calibration import NO_CLASS, calibrate, measure
from dinov3seg_hf.drawn_world.names import COLORS, NAMES, SEEN
from dinov3seg_hf.drawn_world.scenes import Scene, draw_scene
from dinov3seg_hf.drawn_world.seeds import CARD
from dinov3seg_hf.metrics.scoring import ConfusionMatrix
from dinov3seg_hf.model.inference_settings import InferenceSettings

CALIBRATION = CARD + 5_000  # first seed of the scenes for calibration
NONE = len(NAMES)  # the label of pixels without a label, in the confusion matrix


def lists_of(scene: Scene, rng: np.random.Generator) -> dict[str, list[str]]:
    """Returns the lists of labels that depend on the scene; the missing object is drawn at random."""
    present = sorted({NAMES[label] for label in np.unique(scene.labels)})
    others = [name for name in NAMES if name not in present]
    dropped = scene.objects[rng.integers(len(scene.objects))].name
    absent = list(rng.choice(others, 8, replace=False))
    return {
        "short": [name for name in present if name != dropped] + absent[:5],
        "all but one": [name for name in NAMES if name != dropped],
        "complete": present + absent[:5],
        "nothing": absent,
    }


def fixed_lists(rng: np.random.Generator) -> dict[str, list[str]]:
    """Returns the lists that are the same for all scenes."""
    shuffled = list(rng.permutation(SEEN))
    return {
        "a third": sorted(shuffled[: len(SEEN) // 3]),
        "half": sorted(shuffled[: len(SEEN) // 2]),
        "half of the colors": [name for name in NAMES if name.split()[0] in COLORS[::2]],
    }


def truth_of(scene: Scene, labels: list[str]) -> np.ndarray:
    """The label of each pixel in the list, or `NO_CLASS`."""
    table = np.full(len(NAMES), NO_CLASS, np.int32)
    table[[NAMES.index(name) for name in labels]] = np.arange(len(labels))
    return table[scene.labels]


class Score:
    """Precision, recall and F-score of "none of these", and the mIoU with it as one more class, all in %."""

    def __init__(self) -> None:
        self.matrix = ConfusionMatrix(NONE + 1)

    def update(self, labels: list[str], label_map: np.ndarray, truth: np.ndarray) -> None:
        numbers = np.array([*(NAMES.index(name) for name in labels), NONE, NONE])  # -1 and -2 are the last two
        self.matrix.update(numbers[label_map], numbers[truth])

    def summary(self) -> dict[str, float]:
        counts = self.matrix.counts  # (truth, prediction)
        right, found, missing = counts[NONE, NONE], counts[:, NONE].sum(), counts[NONE].sum()
        rounded = {
            "precision": right / max(1, found),
            "recall": right / max(1, missing),
            "f": 2 * right / max(1, found + missing),
            "wrongly none": (found - right) / max(1, counts.sum() - missing),
            "miou": self.matrix.mean_iou(),
        }
        return {key: round(100 * float(value), 1) for key, value in rounded.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(dinov3seg_hf.TINY))
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--heads", nargs="+", choices=("dinotxt", "full"), default=["dinotxt", "full"])
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    args = parser.parse_args()

    logging.disable_progress_bar()
    pipe = pipeline("open-vocabulary-segmentation", model=args.model, device="cpu")
    rng = np.random.default_rng(0)
    fixed = fixed_lists(rng)
    scenes = [draw_scene(CARD + index, "seen") for index in range(args.scenes)]
    lists = [{**lists_of(scene, rng), **fixed} for scene in scenes]
    others = [draw_scene(CALIBRATION + index, "seen") for index in range(args.scenes)]
    scores: dict[str, dict[str, Score]] = {}

    for head in args.heads:
        settings = InferenceSettings(head=head, inference="whole")
        calibrated = {}
        for name, labels in fixed.items():
            text = pipe.encode_labels(labels)
            measured = [
                measure(pipe, Image.fromarray(scene.image), text, settings, truth_of(scene, labels))
                for scene in tqdm(others, desc=f"{head}, calibrating {name}", file=sys.stderr)
            ]
            if head == "dinotxt":
                blind = [replace(image, truth=None) for image in measured]
                calibrated[name, "calibrated without masks"] = replace(text, calibration=calibrate(blind, text))
            calibrated[name, "calibrated with masks"] = replace(text, calibration=calibrate(measured, text))
        for scene, of_scene in tqdm(list(zip(scenes, lists)), desc=head, file=sys.stderr):
            image = pipe.encode_image(Image.fromarray(scene.image), head=head, inference="whole")
            for name, labels in of_scene.items():
                texts: dict[str, tuple[Any, str]] = {
                    "never": (labels, "never"),
                    "auto": (labels, "auto"),
                    **{kind: (text, "auto") for (of, kind), text in calibrated.items() if of == name},
                }
                truth = truth_of(scene, labels)
                for kind, (text, background) in texts.items():
                    options = {"return_label_map": True, "return_masks": False, "background": background}
                    label_map = pipe(image, text, head=head, **options)["label_map"]
                    score = scores.setdefault(f"{head}, {name}", {}).setdefault(kind, Score())
                    score.update(labels, label_map, truth)

    results = {name: {kind: score.summary() for kind, score in kinds.items()} for name, kinds in scores.items()}
    columns = ("precision", "recall", "f", "wrongly none", "miou")
    print(f"{'':52}", *(f"{column:>12}" for column in columns))
    for name, kinds in results.items():
        for kind, values in kinds.items():
            print(f"{name:26} {kind:25}", *(f"{values[column]:12.1f}" for column in columns))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
