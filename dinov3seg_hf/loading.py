# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A checkpoint as people name it, folder or Hub id, to a pipeline, or to an error that says what to do."""

import errno
import os
import re

import torch
from transformers import AutoModelForSemanticSegmentation, pipeline

from . import TASK, OpenVocabularySegmentationPipeline
from .run_files import model_of_run


def load_pipeline(
    model: str, device: str | None = None, dtype: str | None = None
) -> OpenVocabularySegmentationPipeline:
    """Loads a checkpoint.

    Args:
        model: Folder or Hub id; that of a training run stands for the model it trained.
        device: An accelerator if there is one, unless given.
        dtype: The checkpoint's unless given; float32 on the CPU, which computes slowly or badly in others.

    Raises:
        ValueError: It cannot be loaded.
    """
    # a Hub id has an owner and a name; anything else that is no folder is a slip, and not worth asking the network
    if not os.path.isdir(model) and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ValueError(
            f"There is no model folder {model!r} (now in {os.getcwd()!r}). Check the path, or give a Hub id."
        )
    model = model_of_run(model)
    try:
        loaded, report = AutoModelForSemanticSegmentation.from_pretrained(
            model, dtype="auto" if dtype is None else getattr(torch, dtype), output_loading_info=True
        )
        if missing := sorted(report["missing_keys"]):  # the library would go on with random numbers
            raise ValueError(f"its files lack {len(missing)} of the model's tensors, such as {missing[0]}.")
        pipe = pipeline(TASK, model=loaded, processor=model, image_processor=model, device=device)
    except Exception as error:  # the library reports what it does not find or understand in many ways
        if _disk_was_full(error):
            raise ValueError(
                f"The model {model!r} cannot be kept in the cache: No space left on device. Make room, or set HF_HOME "
                "to a folder where there is some; then run the same command again."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"The model {model!r} cannot be loaded: {reason} Expected a folder or Hub id of a dinov3.seg checkpoint."
        ) from error
    if dtype is None and pipe.device.type == "cpu":
        pipe.model.float()
    return pipe


def _disk_was_full(error: BaseException | None) -> bool:
    """Whether that is what the library's error began with."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


__all__ = ["load_pipeline"]
