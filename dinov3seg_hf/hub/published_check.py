# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Loads a model folder without this package and segments the example; `model_folder` runs this in a new process.

    python published_check.py FOLDER IMAGE LABELS OUTPUT

Uses transformers only; imports of this package fail, whether it is installed or not. Writes the label map and the
scores of all labels to OUTPUT (.npz). Errors go to stderr, with a non-zero exit code.
"""

import sys
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation, AutoProcessor, pipeline


def main(folder: str, image: str, labels: str, output: str) -> None:
    model, report = AutoModelForSemanticSegmentation.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report[problem])):
            sys.exit(f"The weights have {len(names)} {problem.replace('_', ' ')}, for example {names[0]}.")
    del model
    for auto_class in (AutoImageProcessor, AutoProcessor):
        loaded = type(auto_class.from_pretrained(folder, trust_remote_code=True)).__name__
        if not loaded.startswith("Dinov3Seg"):
            sys.exit(f"{auto_class.__name__} loads {loaded}; expected a Dinov3Seg class.")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    (task,) = config.custom_pipelines
    pipe: Any = pipeline(task, model=folder, device="cpu", dtype=torch.float32, trust_remote_code=True)
    if task == "image-segmentation":  # as the page of the model on the Hub offers it, first without labels
        names = pipe(image, return_label_map=True, return_masks=False)["labels"]
        if names != list(pipe.model.config.id2label.values()):
            sys.exit(f"Without labels, the pipeline uses {names[:3]}; expected the names in id2label.")
    result = pipe(image, labels, inference="whole", return_label_map=True, return_scores=True, return_masks=False)
    np.savez(output, label_map=result["label_map"], scores=result["scores"])


if __name__ == "__main__":
    # makes all imports of the package fail
    sys.modules["dinov3seg_hf"] = None  # type: ignore[assignment]  # None is allowed, but missing in typeshed
    main(*sys.argv[1:])
