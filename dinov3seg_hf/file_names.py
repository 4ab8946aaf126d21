# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Names of files that one subpackage writes and another subpackage reads, and endings of images and videos."""

CONVERSION_REPORT = "conversion_report.json"  # next to converted weights
RESULTS = "results.json"  # results of an evaluation
RUN_DESCRIPTION = "run.json"  # in the folder of a training run, and next to the trained model
TRAINED_MODEL = "model"  # folder of the trained model, in the folder of the run
TRAINING_VOCABULARY = "training_vocabulary.json"  # class names of the training, next to the trained model
LICENSES = ("LICENSE.md", "LICENSE.pdf", "LICENSE.txt", "LICENSE")  # the license of the weights, next to them
# the licenses of SAM and AnyUp, if they are part of the weights, by their roles in the conversion
PART_LICENSES = {
    "prior": ("LICENSE-SAM.md", "LICENSE-SAM.pdf"),
    "anyup": ("LICENSE-ANYUP.md", "LICENSE-ANYUP.pdf"),
}
# lossless formats only: JPEG changes labels along every edge
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # what is an image in a folder
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # formats in which pictures are written
# what is a video; more can be read, see `video/reading.py`
VIDEO_ENDINGS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".3gp",
    ".mts",
    ".m2ts",
)
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")  # formats in which videos are written
