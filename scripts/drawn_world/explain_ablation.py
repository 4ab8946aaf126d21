# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures why contributions help or do not help on the drawn world, for the text of docs/ablation.md.

cd scripts/drawn_world
python explain_ablation.py halves                      # accuracy of each half of the text embeddings
python explain_ablation.py noise --runs runs/ablation  # the trained heads with noisy patch features
python explain_ablation.py noise --strength 0 --head dinotxt  # zero-shot heads with the AnyUp that training changed
python explain_ablation.py few --runs runs/ablation    # the trained heads with few names per image
python explain_ablation.py one --runs runs/ablation    # the trained heads with a single name
python explain_ablation.py slide --runs runs/ablation  # the trained heads on large scenes, in windows of 96 pixels
python explain_ablation.py whole --runs runs/ablation  # the trained heads on large scenes, in one piece without windows
python explain_ablation.py merging --runs runs/ablation  # the parts of local-global inference on large scenes
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("train", "datasets")

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from dinov3seg_hf import TINY, Dinov3SegForSemanticSegmentation, Dinov3SegProcessor, OpenVocabularySegmentationPipeline
from dinov3seg_hf.cli.console import EXIT_OK, Parser, execute, positive
from dinov3seg_hf.data.drawn_world import drawn_world
from dinov3seg_hf.data.presets import drawn_world_vocabulary
from dinov3seg_hf.data.segmentation import SegmentationDataset
from dinov3seg_hf.drawn_world.seeds import ABLATION
from dinov3seg_hf.metrics.scoring import ConfusionMatrix
from dinov3seg_hf.model.correlation import correlate
from dinov3seg_hf.model.inference_settings import InferenceSettings
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegImageFeatures
from dinov3seg_hf.model.windows import Box, merge_windows
from dinov3seg_hf.training.batches import normalize
from dinov3seg_hf.training.feature_noise import FeatureNoise

TRAINED, LARGE = 96, 192  # sides of the scenes of training, and of large scenes, with as large objects
MERGING = "merging"
LARGE_SCENES = {
    mode: InferenceSettings(inference=mode, size={"shortest_edge": LARGE}, window_size=window_size)
    for mode, window_size in (("slide", TRAINED), ("whole", None))
}


def make_parser(prog: str) -> Parser:
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["halves", "noise", "few", "one", MERGING, *LARGE_SCENES])
    parser.add_argument("--scenes", type=positive, default=40)
    parser.add_argument("--split", choices=["unseen", "seen"], default="unseen", help="default: %(default)s")
    parser.add_argument(
        "--head",
        choices=["full", "dinotxt"],
        default="full",
        help="head to score, of noise, few, slide and whole (default: full)",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="--output of ablation.py")
    parser.add_argument("--strength", type=float, default=4.0, help="strength of the noise; see feature_noise.py")
    parser.add_argument("--names", type=positive, default=24, help="few: number of names per image")
    parser.add_argument("--variants", nargs="+", help="folders in --runs of the variants to score (default: all)")
    return parser


def run(options: argparse.Namespace) -> int:
    if options.head != "full" and options.what in ("halves", "one", MERGING):
        raise ValueError(f"--head is {options.head!r}, but {options.what!r} has heads of its own. Leave it out.")
    sides = (LARGE,) if options.what in (MERGING, *LARGE_SCENES) else ()
    data = SegmentationDataset(drawn_world(options.scenes, options.split, ABLATION, *sides), drawn_world_vocabulary())
    if options.what == "halves":
        explain_halves(data)
        return EXIT_OK
    runs: dict[str, list[Path]] = {}
    for model in sorted(options.runs.glob("*/seed-*/model")):
        variant = model.parent.parent.name
        if options.variants is None or variant in options.variants:
            runs.setdefault(variant, []).append(model)
    if not runs:
        raise ValueError(f"No trained models of these variants are in {str(options.runs)!r}. Run ablation.py first.")
    if options.what == MERGING:
        print(f"mIoU in % on {options.scenes} large {options.split} scenes; one score per seed, and the mean")
        for name, models in {**runs, "embedded head": [Path(TINY)]}.items():
            explain_merging(name, models, data)
        return EXIT_OK
    if options.what == "one":
        print(f"a name alone on {options.scenes} {options.split} scenes: overlap in %, and % of pixels where it is not")
        for name, models in runs.items():
            explain_one(name, models, data)
        return EXIT_OK
    strength = options.strength if options.what == "noise" else 0.0
    num_names = options.names if options.what == "few" else None
    what = {
        "noise": f"noise {strength:g}",
        "few": f"{num_names} names per image",
        "slide": "large, in windows",
        "whole": "large, in one piece",
    }[options.what]
    print(f"mIoU in % on {options.scenes} {options.split} scenes, {what}; one score per seed, and the mean")
    settings = LARGE_SCENES.get(options.what, InferenceSettings(inference="whole")).updated(head=options.head)
    for name, models in runs.items():
        report(name, [score(model, data, settings, strength, num_names) for model in models])
    zero_shot = score(Path(TINY), data, settings.updated(head="dinotxt"), strength, num_names)
    report("zero-shot head, nothing trained", [zero_shot])
    return EXIT_OK


def report(name: str, scores: list[float]) -> None:
    print(f"{name:45s} {' '.join(f'{value:5.1f}' for value in scores)}   {np.mean(scores):5.1f}", flush=True)


def score(
    folder: Path, data: SegmentationDataset, settings: InferenceSettings, strength: float, num_names: int | None
) -> float:
    """Returns the mIoU in %. Each image has its own noise and names, which are the same for all models."""
    model = Dinov3SegForSemanticSegmentation.from_pretrained(folder).eval()
    pipe = OpenVocabularySegmentationPipeline(model=model, processor=Dinov3SegProcessor.from_pretrained(TINY))
    noise = FeatureNoise(model.vision_model, strength)
    text = pipe.encode_labels(data.vocabulary)
    matrix = ConfusionMatrix(len(data.vocabulary))
    for row in tqdm(range(len(data)), desc=folder.parent.name, leave=False):
        item = data.read(row)
        labels = chosen_labels(item["labels"], len(data.vocabulary), num_names, row)
        chosen = replace(text, tensor=text.tensor[labels], names=tuple(text.names[label] for label in labels))
        prepared = pipe.prepare(item["image"], settings)
        with noise.using([row]):
            (labeled,) = pipe.segment_prepared([prepared], chosen, settings)
        matrix.update(labels[labeled.label_map], item["labels"])
    return 100 * matrix.scores()["mean_iou"]


def explain_one(name: str, models: list[Path], data: SegmentationDataset) -> None:
    """Prints how well heads find a single name: each one in an image, and as many that it does not show.

    A pixel shows the name if its score is at least 0.5. The result has the mean over images and names of the
    intersection over union with the true pixels, and of the share of pixels where the name is not in the image.
    """
    found, elsewhere = [], []
    for folder in models:
        model = Dinov3SegForSemanticSegmentation.from_pretrained(folder).eval()
        pipe = OpenVocabularySegmentationPipeline(model=model, processor=Dinov3SegProcessor.from_pretrained(TINY))
        text = pipe.encode_labels(data.vocabulary)
        settings = InferenceSettings(inference="whole", head="full")
        overlaps, shares = [], []
        for row in tqdm(range(len(data)), desc=folder.parent.name, leave=False):
            item = data.read(row)
            prepared = pipe.prepare(item["image"], settings)
            present = np.unique(item["labels"])
            for label in chosen_labels(item["labels"], len(data.vocabulary), 2 * len(present), row):
                one = replace(text, tensor=text.tensor[[label]], names=(text.names[label],))
                (labeled,) = pipe.segment_prepared([prepared], one, settings)
                shown, true = labeled.score_map >= 0.5, item["labels"] == label
                if label in present:
                    overlaps.append((shown & true).sum() / (shown | true).sum())
                else:
                    shares.append(shown.mean())
        found.append(100 * np.mean(overlaps))
        elsewhere.append(100 * np.mean(shares))
    report(name, found)
    report(f"{name}, where it is not", elsewhere)


@torch.no_grad()
def explain_merging(name: str, models: list[Path], data: SegmentationDataset) -> None:
    """Prints the scores of large scenes by the features that the heads get, and by the size of map that they see.

    Features are those of windows of the size of the training, merged and averaged with those of the whole image
    ("merged"), or not ("windows"). Then early refinement follows, on the whole image. The head sees all of the
    features at once ("in one"), or those of each window, with averaged logits ("in pieces").
    """
    scores: dict[str, list[float]] = {}
    for folder in models:
        model = Dinov3SegForSemanticSegmentation.from_pretrained(folder).eval()
        pipe = OpenVocabularySegmentationPipeline(model=model, processor=Dinov3SegProcessor.from_pretrained(TINY))
        settings = LARGE_SCENES["whole"].updated(
            inference="local-global", window_size=TRAINED, window_stride=TRAINED // 2
        )
        text_embeds = pipe.encode_labels(data.vocabulary).tensor
        matrices: dict[str, ConfusionMatrix] = {}
        for row in tqdm(range(len(data)), desc=folder.parent.name, leave=False):
            item = data.read(row)
            inputs = pipe.prepare(item["image"], settings).tensors
            merged = model.get_image_features(**inputs, head="full")
            windows = without_global_view(model, inputs, merged)
            boxes = [tuple(box) for box in inputs["window_boxes"].tolist()]
            for features, encoded in (("merged", merged), ("windows", windows)):
                for how, pieces, head in (
                    ("full head, in one", [(0, 0, LARGE, LARGE)], "full"),
                    ("full head, in pieces", boxes, "full"),
                    ("zero-shot head", [(0, 0, LARGE, LARGE)], "dinotxt"),
                ):
                    logits = [
                        model(image_features=cut_features(encoded, box), text_embeds=text_embeds, head=head).logits
                        for box in pieces
                    ]
                    logits = F.interpolate(torch.cat(logits), size=pieces[0][2:], mode="bilinear", align_corners=False)
                    found = merge_windows(logits[None], pieces, (LARGE, LARGE), (LARGE, LARGE)).argmax(1)[0]
                    matrix = matrices.setdefault(f"{features}, {how}", ConfusionMatrix(len(data.vocabulary)))
                    matrix.update(found.numpy(), item["labels"])
        for key, matrix in matrices.items():
            scores.setdefault(key, []).append(100 * matrix.mean_iou())
    for key, values in scores.items():
        report(f"{name}: {key}", values)


def without_global_view(
    model: Dinov3SegForSemanticSegmentation, inputs: dict[str, torch.Tensor], merged: Dinov3SegImageFeatures
) -> Dinov3SegImageFeatures:
    """Returns the features of the windows alone, refined on the whole image, with the prior of the whole image."""
    whole = model.get_image_features(inputs["pixel_values"], head="dinotxt", refine_features=False).patch_features
    windows = 2 * merged.patch_features - whole  # the merged features are the average of both
    refined = windows if model.early_refinement is None else model.early_refinement(windows, inputs["pixel_values"])
    return Dinov3SegImageFeatures(**{**merged, "patch_features": windows, "refined_features": refined})


def cut_features(features: Dinov3SegImageFeatures, box: Box) -> Dinov3SegImageFeatures:
    """Returns the features of a box of a large scene, (top, left, height, width) in pixels."""

    def cut(values):
        if isinstance(values, tuple):
            return tuple(map(cut, values))
        if values.ndim < 4:
            return values  # of the whole image
        top, left, height, width = (side * values.shape[-1] // LARGE for side in box)
        return values[..., top : top + height, left : left + width].contiguous()

    return Dinov3SegImageFeatures(**{name: cut(values) for name, values in features.items()})


def chosen_labels(labels: np.ndarray, num_classes: int, num_names: int | None, seed: int) -> np.ndarray:
    """Returns the labels of the vocabulary: all labels, or those in the image and random others up to `num_names`."""
    if num_names is None:
        return np.arange(num_classes)
    present = np.unique(labels)
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(num_classes), present))
    return np.sort(np.concatenate([present, others[: max(0, num_names - len(present))]]))


def explain_halves(data: SegmentationDataset) -> None:
    """Prints, for patches of a single class, how often the most similar text is correct, for each half."""
    model = Dinov3SegForSemanticSegmentation.from_pretrained(TINY).eval()
    processor = Dinov3SegProcessor.from_pretrained(TINY)
    text = data.vocabulary.encode(model, processor, progress=False).tensor  # (C, 2, D)
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    right, num_patches = [], 0
    for row in range(len(data)):
        item = data.read(row)
        pixels = torch.from_numpy(np.array(item["image"])).permute(2, 0, 1)[None]
        with torch.no_grad():
            features = model.get_image_features(normalize(pixels, mean, std), head="dinotxt").patch_features
            found = correlate(features, text)[0].argmax(0)  # (2, h, w)
        height, width = found.shape[1:]
        labels = torch.from_numpy(item["labels"])
        patches = labels.unflatten(1, (width, -1)).unflatten(0, (height, -1)).transpose(1, 2).flatten(2)
        pure = (patches == patches[..., :1]).all(-1)
        right.append((found == patches[..., 0])[:, pure])
        num_patches += height * width
    is_global, is_local = torch.cat(right, dim=1)
    for name, share in (
        ("patches of one class", torch.tensor(len(is_local) / num_patches)),
        ("of these, correct by the global half", is_global.float().mean()),
        ("correct by the local half", is_local.float().mean()),
        ("correct only by the global half", (is_global & ~is_local).float().mean()),
    ):
        print(f"{name:50s} {100 * share:5.1f} %")


if __name__ == "__main__":
    sys.exit(execute(sys.modules[__name__], "scripts/drawn_world/explain_ablation.py"))
