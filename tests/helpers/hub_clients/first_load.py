# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Somebody without this package whose first line is that of the Hub's page: OUTCOMES MODEL REVISION IMAGE LABELS."""

import sys

sys.modules["dinov3seg_hf"] = None  # any import of it fails

from steps import Steps  # noqa: E402 after the line above
from transformers import pipeline  # noqa: E402 likewise

_, _, NAME, REVISION, IMAGE, LABELS = sys.argv
step = Steps()


@step
def first_load():
    pipe = pipeline("image-segmentation", model=NAME, trust_remote_code=True, revision=REVISION or None)
    return pipe(IMAGE, candidate_labels=LABELS, return_label_map=True)["labels"]


step.write()
