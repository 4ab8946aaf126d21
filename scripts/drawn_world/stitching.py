# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures two other ways of local-global inference with the zero-shot head, which the package leaves out.

    python scripts/drawn_world/stitching.py                                # 192 and 384 pixels, 100 scenes per split
    python scripts/drawn_world/stitching.py --sizes 72 96 120 --window 48 --scenes 16

*Stitched*: in the blocks of the vision head, each token of a window attends to the tokens of all windows (after
OV-Stitcher, arXiv 2604.08110); the windows alone, or averaged with the whole image as in local-global inference.
*Proxy*: local-global inference in whose vision head a part of the attention of patches is the likeness of their
backbone tokens (after ProxyCLIP, arXiv 2408.04883). The vision head is changed at run time, in this script alone.

Features are not refined, the vocabulary has all 192 names, and windows overlap by half. Scores are the mIoU in % of one
confusion matrix over all scenes. Differences are to local-global inference, with a 95 % interval of a bootstrap over
scenes, paired: each resample takes the same scenes from both.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evaluate_tiny import NUM_NAMES, gain
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

import dinov3seg_hf
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.scenes import Scene, draw_scene
from dinov3seg_hf.drawn_world.seeds import CARD
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.metrics.scoring import ConfusionMatrix, ImageCounts
from dinov3seg_hf.model.image_stages import EncodedImage
from dinov3seg_hf.model.inference_settings import InferenceSettings
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegImageFeatures
from dinov3seg_hf.model.windows import average_views, merge_windows, size_of

FIRST_SEED = CARD + 10_000  # a choice is made with these scenes, so no score is computed with them

# Of ProxyCLIP: how many times the mean a likeness must be to count, and what its excess is multiplied by.
LEAST_LIKENESS, SHARPNESS = 1.2, 3.0

BASELINE = "local-global"


@dataclass(frozen=True)
class Views:
    """The tokens of an image and of its windows, after the backbone and before the vision head.

    Attributes:
        whole: `(1, P + h w, D)`: P tokens without a place (CLS, registers) and those of the patches.
        windows: `(N, P + h' w', D)`.
        boxes: `(N, 4)`: top, left, height, width of each window in pixels.
        size: (height, width) of the image in pixels.
        window_size: (height, width) of a window in pixels.
    """

    whole: torch.Tensor
    windows: torch.Tensor
    boxes: torch.Tensor
    size: tuple[int, int]
    window_size: tuple[int, int]

    @classmethod
    def of(cls, tower: nn.Module, tensors: dict[str, torch.Tensor]) -> "Views":
        """Encodes the image and the windows of `OpenVocabularySegmentationPipeline.prepare`."""
        pixels, boxes = tensors["pixel_values"], tensors.get("window_boxes")
        if boxes is None:  # the only window is the image
            boxes, windows = torch.tensor([[0, 0, *size_of(pixels)]]), pixels
        else:
            windows = tensors["window_pixel_values"][0]
        tokens = (tower.backbone(tower.to_whole_patches(images)).last_hidden_state for images in (pixels, windows))
        return cls(*tokens, boxes, size_of(pixels), size_of(windows))


class SimilarityAttention(nn.Module):
    """The attention of a block, in which given weights have a share of the attention of patches to patches.

    Args:
        attention: The attention of the block.
        weights: `(N, L, L)` for N images of L patches; a row sums to 1.
        share: Between 0 (the attention of the block) and 1.
    """

    def __init__(self, attention: nn.Module, weights: torch.Tensor, share: float):
        super().__init__()
        self.attention, self.weights, self.share = attention, weights, share

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, attentions = self.attention(hidden_states, **options)
        count = self.weights.shape[-1]
        # the same weights for all heads, whose values are side by side
        likened = self.attention.o_proj(self.weights @ self.attention.v_proj(hidden_states[:, -count:]))
        patches = torch.lerp(attended[:, -count:], likened, self.share)
        return torch.cat([attended[:, :-count], patches], dim=1), attentions


def similarity_weights(patches: torch.Tensor) -> torch.Tensor:
    """The attention weights of ProxyCLIP from backbone tokens of patches, `(N, L, D)` -> `(N, L, L)`."""
    unit = F.normalize(patches, dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    excess = SHARPNESS * (similarity - LEAST_LIKENESS * similarity.mean(dim=(1, 2), keepdim=True))
    itself = torch.eye(excess.shape[-1], dtype=torch.bool, device=excess.device)  # a patch has at least one
    return excess.masked_fill((excess < 0) & ~itself, float("-inf")).softmax(dim=-1)


@contextmanager
def attention_by_similarity(head: nn.Module, weights: torch.Tensor, share: float) -> Iterator[None]:
    """Inside the context, the weights have a share of the attention in all blocks of a vision head."""
    usual = [block.attention for block in head.layer]
    for block in head.layer:
        block.attention = SimilarityAttention(block.attention, weights, share)
    try:
        yield
    finally:
        for block, attention in zip(head.layer, usual):
            block.attention = attention


class Encoder:
    """The variants: from the backbone's tokens to the patch features of an image, `(1, D, h, w)`.

    Args:
        model: The model; nothing of it is changed after a call.
        share: The share of the likeness in the attention of the proxy.
    """

    def __init__(self, model: nn.Module, share: float = 0.5):
        self.tower, self.share = model.vision_model, share

    def patches(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Returns the tokens of patches as maps, `(N, D, h, w)`."""
        grid = [-(-side // self.tower.patch_size) for side in size]
        return tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)

    def merge(self, tokens: torch.Tensor, views: Views) -> torch.Tensor:
        """Merges tokens of windows after the vision head into one map."""
        maps = self.patches(tokens, views.window_size)[None]
        grid = size_of(self.patches(views.whole, views.size))
        return merge_windows(maps, views.boxes, output_size=grid, source_size=views.size)

    def whole(self, views: Views) -> torch.Tensor:
        return self.patches(self.tower.head(views.whole), views.size)

    def local_global(self, views: Views) -> torch.Tensor:
        return average_views(None, self.whole(views), self.merge(self.tower.head(views.windows), views))

    def stitched(self, views: Views) -> torch.Tensor:
        # the blocks have no positions, so that windows in one sequence see each other, and nothing else changes
        tokens = self.tower.head(views.windows.flatten(0, 1)[None])
        return self.merge(tokens.view(views.windows.shape), views)

    def stitched_and_whole(self, views: Views) -> torch.Tensor:
        return average_views(None, self.whole(views), self.stitched(views))

    def proxy(self, views: Views) -> torch.Tensor:
        after_head = []
        for tokens, size in ((views.whole, views.size), (views.windows, views.window_size)):
            patches = self.patches(tokens, size).flatten(2).transpose(1, 2)
            with attention_by_similarity(self.tower.head, similarity_weights(patches), self.share):
                after_head.append(self.tower.head(tokens))
        whole, windows = after_head
        return average_views(None, self.patches(whole, views.size), self.merge(windows, views))

    def variants(self) -> dict[str, Callable[[Views], torch.Tensor]]:
        """The variants by their name in the table."""
        return {
            "whole": self.whole,
            BASELINE: self.local_global,
            "stitched": self.stitched,
            "stitched and whole": self.stitched_and_whole,
            f"proxy, {self.share:g} of the weight": self.proxy,
        }


@torch.inference_mode()
def count_scene(pipe, scene: Scene, index: int, text, window: int, encoder: Encoder) -> dict[str, ImageCounts]:
    """Returns the counts of a scene with each variant."""
    height, width = scene.labels.shape
    settings = InferenceSettings(
        inference="local-global",
        head="dinotxt",
        refine_features=False,
        size={"height": height, "width": width},
        window_size=window,
        window_stride=window // 2,
    ).resolved(pipe.model.config, pipe.image_processor)
    prepared = pipe.prepare(Image.fromarray(scene.image), settings)
    views, counts = Views.of(pipe.model.vision_model, prepared.tensors), {}
    for name, encode in encoder.variants().items():
        features = Dinov3SegImageFeatures(cls_embeds=views.whole[:, 0], patch_features=encode(views))
        image = EncodedImage.of(features, prepared, settings, pipe.model)
        result = pipe(image, text, head="dinotxt", refine_features=False, return_label_map=True, return_masks=False)
        counts[name] = ImageCounts.of(index, result["label_map"], scene.labels, NUM_NAMES)
    return counts


def mean_iou(counts: list[ImageCounts]) -> float:
    """The mIoU of all scenes in %."""
    matrix = ConfusionMatrix(NUM_NAMES)
    for image in counts:
        matrix.add(image.labels, image.predictions, image.counts)
    return 100 * matrix.mean_iou()


def scores_of(counts: list[dict[str, ImageCounts]]) -> dict[str, dict[str, Any]]:
    """Returns the mIoU of each variant, its difference to the baseline, and the interval of the difference."""
    by_variant = {name: [of_scene[name] for of_scene in counts] for name in counts[0]}
    baseline = by_variant[BASELINE]
    scores: dict[str, dict[str, Any]] = {}
    for name, images in by_variant.items():
        miou, difference = mean_iou(images), mean_iou(images) - mean_iou(baseline)
        scores[name] = {"miou": round(miou, 2), "gain": round(difference, 2), "gain_interval": gain(images, baseline)}
    return scores


def cell(name: str, score: dict[str, Any]) -> str:
    """The cell of a variant in the table."""
    if name == BASELINE:
        return f"{score['miou']:.1f}"
    low, high = score["gain_interval"]
    return f"{score['miou']:.1f}: {score['gain']:+.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(dinov3seg_hf.TINY))
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 384], help="sides of scenes, in pixels")
    parser.add_argument("--window", type=int, default=96, help="side of a window in pixels (default: 96)")
    parser.add_argument("--share", type=float, default=0.5, help="weight of the likeness in the proxy (default: 0.5)")
    parser.add_argument("--scenes", type=int, default=100, help="scenes per split (default: 100)")
    parser.add_argument("--splits", nargs="+", choices=("unseen", "seen"), default=["unseen", "seen"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = load_pipeline(options.model, "cpu")
    text, encoder = pipe.encode_labels(list(NAMES)), Encoder(pipe.model, options.share)
    patch = pipe.model.vision_model.patch_size
    names = list(encoder.variants())
    results = {"first_seed": FIRST_SEED, "window": options.window, "rows": []}
    print("| patches | of a window | names | scenes |", " | ".join(names), "|")
    print("|---" * (4 + len(names)) + "|", flush=True)
    for size in options.sizes:
        for split in options.splits:
            counts = []
            for index in tqdm(range(options.scenes), desc=f"{size} pixels, {split}", file=sys.stderr):
                scene = draw_scene(FIRST_SEED + index, split, size)
                counts.append(count_scene(pipe, scene, index, text, options.window, encoder))
            scores = scores_of(counts)
            side, of_window = -(-size // patch), -(-min(size, options.window) // patch)
            cells = " | ".join(cell(name, score) for name, score in scores.items())
            print(f"| {side} x {side} | {of_window} x {of_window} | {split} | {options.scenes} | {cells} |", flush=True)
            results["rows"].append({"size": size, "split": split, "scenes": options.scenes, "variants": scores})
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
