# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Segments batches in which an image may fail without spoiling the others. Does not know files or requests."""

from collections.abc import Sequence

from .model.image_stages import EncodedImage, LabeledImage, PreparedImage
from .model.inference_settings import InferenceSettings
from .model.pipeline import OpenVocabularySegmentationPipeline
from .model.text_embeddings import TextEmbeddings

# What an image can be the reason of; other errors are bugs and stop the run.
IMAGE_ERRORS = (ValueError, OSError, MemoryError)


def segment_each(
    pipe: OpenVocabularySegmentationPipeline,
    images: Sequence[PreparedImage | EncodedImage],
    text: TextEmbeddings,
    settings: InferenceSettings,
) -> list[LabeledImage | Exception]:
    """Segments a batch of images; if it fails, one image after the other.

    Args:
        pipe: The pipeline.
        images: Prepared or encoded images, of any sizes.
        text: The labels, from `pipe.encode_labels`.
        settings: The settings that the images were prepared with.

    Returns:
        The result of each image, or its error, one of `IMAGE_ERRORS`.
    """
    if not images:
        return []
    try:
        return list(pipe.segment_prepared(images, text, settings))
    except IMAGE_ERRORS as error:
        if len(images) == 1:
            return [error]
    return [answer for image in images for answer in segment_each(pipe, [image], text, settings)]
