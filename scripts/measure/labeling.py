# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures where `dinov3seg label` spends its time: reading, preparing, encoder, head, masks, Parquet.

    python scripts/measure/labeling.py
    python scripts/measure/labeling.py --width 4000 --images 8

CPU time of one thread and its median over the images, which other processes on the machine disturb less than seconds on
the clock; the shares are what to compare. The images are JPEG files that the script draws,
without the files' own reading time from a disk.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("export", "datasets")

import numpy as np
import torch
from PIL import Image, ImageFilter
from tqdm import tqdm

from dinov3seg_hf import TINY, InferenceSettings
from dinov3seg_hf.annotations.image import AnnotatedImage, Cleaned, ExportOptions
from dinov3seg_hf.annotations.parquet import parquet_features, parquet_row, rows_to_parquet
from dinov3seg_hf.drawn_world.names import SEEN
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.model.files import write_atomically
from dinov3seg_hf.model.image_input import open_image
from dinov3seg_hf.model.vocabulary import IGNORE_8_BIT

STAGES = ("read", "prepare", "encoder", "head", "mask", "parquet")


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TINY, help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--inference", choices=("whole", "local-global"), default="whole")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--width", type=int, default=640, help="of the images, in pixels; the height is two thirds")
    parser.add_argument("--labels", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)

    pipe = load_pipeline(options.model, "cpu")
    settings = InferenceSettings(inference=options.inference).resolved(pipe.model.config, pipe.image_processor)
    names = list(SEEN[: options.labels])
    text = pipe.encode_labels(names)
    seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        seconds[stage].append(time.process_time() - start)

    features = parquet_features(names)
    with tempfile.TemporaryDirectory() as folder:
        for index in tqdm(range(options.images + 1), desc="Images", unit="image"):
            content = draw_jpeg(options.width, index)
            with timed("read"):
                image = open_image(content)
            with timed("prepare"):
                prepared = pipe.prepare(image, settings)
            with timed("encoder"):
                encoded = pipe.encode_prepared([prepared], settings)
            with timed("head"):
                (labeled,) = pipe.segment_prepared(encoded, text, settings)
            with timed("mask"):
                annotated = AnnotatedImage("image.jpg", labeled.label_map, labeled.score_map, image=image)
                cleaned = Cleaned(annotated, ExportOptions(), len(names))
                row = parquet_row(cleaned, {"bytes": content, "path": "image.jpg"}, IGNORE_8_BIT)
            with timed("parquet"):
                write_atomically(Path(folder) / "rows.parquet", rows_to_parquet([row], features))
            if index == 0:  # libraries load their code at the first call
                seconds.clear()
    medians = {stage: statistics.median(seconds[stage]) for stage in STAGES}
    total = sum(medians.values())
    print("| stage | CPU seconds per image | share |\n|---|---|---|")
    for stage in STAGES:
        print(f"| {stage} | {medians[stage]:.4f} | {100 * medians[stage] / total:.1f} % |")
    print(f"| all | {total:.4f} | {total * 1e6 / 3600:,.0f} core hours per million images |")


def draw_jpeg(width: int, seed: int) -> bytes:
    """Returns a JPEG that costs what a photograph costs: blurred spots of several sizes, and grain."""
    rng, size = np.random.default_rng(seed), (width, width * 2 // 3)
    picture = Image.new("RGB", size, "gray")
    for blur in (64, 16, 4):
        noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        spots = np.asarray(noise.filter(ImageFilter.GaussianBlur(blur))).astype(np.float32)
        stretched = Image.fromarray(np.clip(128 + (spots - 128) * blur, 0, 255).astype(np.uint8))
        picture = Image.blend(picture, stretched, 0.4)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
