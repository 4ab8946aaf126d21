# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Run by `model_folder` in a process of its own: loads a folder as people without the package do, and segments.

    python published_check.py FOLDER IMAGE LABELS OUTPUT

Knows transformers only: the package is out of reach, whether it is installed or not. Writes the label map and the
scores of every label to OUTPUT (.npz). What is wrong goes to stderr, with a non-zero exit code.
"""

import sys

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation, AutoProcessor, pipeline


def main(folder: str, image: str, labels: str, output: str) -> None:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model, report = AutoModelForSemanticSegmentation.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report[problem])):
            sys.exit(f"{len(names)} {problem.replace('_', ' ')} in the weights, such as {names[0]}")
    del model
    for auto_class in (AutoImageProcessor, AutoProcessor):
        loaded = type(auto_class.from_pretrained(folder, trust_remote_code=True)).__name__
        if not loaded.startswith("Dinov3Seg"):
            sys.exit(f"{auto_class.__name__} gives a {loaded}")
    (task,) = config.custom_pipelines
    pipe = pipeline(task, model=folder, device="cpu", dtype=torch.float32, trust_remote_code=True)
    result = pipe(image, labels, inference="whole", return_label_map=True, return_scores=True, return_masks=False)
    np.savez(output, label_map=result["label_map"], scores=result["scores"])


if __name__ == "__main__":
    # any import of it fails from here on
    sys.modules["dinov3seg_hf"] = None  # type: ignore[assignment]  # typeshed leaves out that None is allowed
    main(*sys.argv[1:])
