"""Scores the embedded checkpoint as its model card reports it, and the oracles beside it.

    python scripts/evaluate_tiny.py                        # the embedded checkpoint, 300 scenes a split
    python scripts/evaluate_tiny.py --model runs/tiny --scenes 50 --output results.json

Every score is the mIoU in % of one confusion matrix over all scenes of a split, with *all* names, seen and unseen, as
the vocabulary. It goes through the pipeline, as users do.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import pipeline
from transformers.utils import logging

import dinov3seg_hf
from dinov3seg_hf import synthetic
from dinov3seg_hf.evaluation import ConfusionMatrix

FIRST_SEED = 900_000  # neither the training's nor the validation's
NUM_NAMES = len(synthetic.NAMES)


def score_pipeline(pipe, scenes: list, labels: list[str], description: str, **options) -> ConfusionMatrix:
    """`labels[i]` is what is asked for in place of `synthetic.NAMES[i]`."""
    matrix = ConfusionMatrix(NUM_NAMES)
    for scene in tqdm(scenes, desc=description, file=sys.stderr):
        result = pipe(Image.fromarray(scene.image), candidate_labels=labels, return_label_map=True, **options)
        matrix.update(np.asarray(result["label_map"]), scene.labels)
    return matrix


def oracle(scenes: list, blind: int, rng: np.random.Generator) -> ConfusionMatrix:
    """Knows the mask of everything and two of its three factors; the third is drawn at random.

    A blind kind is drawn among the shapes for an object: a background is known for one by its mask.
    """
    factors = (synthetic.COLOURS, synthetic.PATTERNS, synthetic.SHAPES)
    matrix = ConfusionMatrix(NUM_NAMES)
    for scene in scenes:
        prediction = np.empty_like(scene.labels)
        # an object is what a scene drew, not a name: two objects of one name are guessed apart only if they are two
        # regions, which a label map cannot tell; one guess a name and scene
        for label in np.unique(scene.labels):
            name = list(synthetic.factors_of(synthetic.NAMES[label]))
            if not (blind == 2 and name[2] == "background"):
                name[blind] = factors[blind][rng.integers(len(factors[blind]))]
            prediction[scene.labels == label] = synthetic.NAMES.index(" ".join(name))
        matrix.update(prediction, scene.labels)
    return matrix


def summary(matrix: ConfusionMatrix) -> dict[str, float]:
    objects = [i for i, name in enumerate(synthetic.NAMES) if not name.endswith("background")]
    backgrounds = [i for i, name in enumerate(synthetic.NAMES) if name.endswith("background")]
    return {
        "miou": round(100 * matrix.mean_iou(), 2),
        "miou_objects": round(100 * matrix.mean_iou(objects), 2),
        "miou_backgrounds": round(100 * matrix.mean_iou(backgrounds), 2),
        "pixel_accuracy": round(100 * matrix.pixel_accuracy(), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(dinov3seg_hf.TINY))
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--splits", nargs="+", choices=("unseen", "seen"), default=["unseen", "seen"])
    parser.add_argument("--output", type=Path, help="write the scores as JSON")
    args = parser.parse_args()

    logging.disable_progress_bar()
    pipe = pipeline("open-vocabulary-segmentation", model=args.model, device="cpu")
    rng = np.random.default_rng(0)
    shuffled = list(rng.permutation(synthetic.NAMES))
    results = {"scenes": args.scenes, "first_seed": FIRST_SEED, "vocabulary": NUM_NAMES}
    start = time.time()
    for split in args.splits:
        scenes = [synthetic.draw_scene(FIRST_SEED + i, split) for i in range(args.scenes)]
        scores = {
            "full model": score_pipeline(
                pipe, scenes, list(synthetic.NAMES), f"{split}, full model", inference="whole"
            ),
            "zero-shot head": score_pipeline(
                pipe, scenes, list(synthetic.NAMES), f"{split}, zero-shot head", inference="whole", head="dinotxt"
            ),
            "full model, shuffled names": score_pipeline(
                pipe, scenes, shuffled, f"{split}, shuffled", inference="whole"
            ),
        }
        for blind, factor in enumerate(("colour", "pattern", "shape")):
            scores[f"oracle blind to {factor}"] = oracle(scenes, blind, np.random.default_rng(blind))
        results[split] = {name: summary(matrix) for name, matrix in scores.items()}
    results["minutes"] = round((time.time() - start) / 60, 1)

    width = max(len(name) for name in results[args.splits[0]])
    print(f"{'mIoU in % (objects alone)':{width}}", *(f"{split:>16}" for split in args.splits))
    for name in results[args.splits[0]]:
        scores = [results[split][name] for split in args.splits]
        print(f"{name:{width}}", *(f"{s['miou']:8.2f} ({s['miou_objects']:5.2f})" for s in scores))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
