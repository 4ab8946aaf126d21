# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Two labeled images on disk: objects with holes, in two parts, of one pixel, and pixels without a label."""

import numpy as np
import pytest
from PIL import Image

from dinov3seg_hf.annotations import AnnotatedImage

NAMES = ("sky & <sun>", "red circle", "Straße", "never found")


def label_map_of(height, width, seed):
    labels = np.full((height, width), -1, np.int32)
    labels[: height // 2] = 0
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 3)
    labels[distance < height / 3] = 1
    labels[distance < height / 6] = 0  # a hole
    labels[-6:-2, -12:-3] = 2
    labels[-6:-2, 2:8] = 2
    labels[-1, -1] = 2  # one pixel
    labels[0, 0] = -1
    return labels


@pytest.fixture
def annotated(tmp_path):
    """A JPEG in a folder and a PNG in its subfolder, with score maps."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    images = []
    for seed, (name, height, width) in enumerate([("first.jpg", 60, 90), ("more/second.png", 70, 50)]):
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / name)
        scores = rng.random((height, width), dtype=np.float32) * 0.4 + 0.3
        images.append(AnnotatedImage(name, label_map_of(height, width, seed), scores, folder / name))
    return images
