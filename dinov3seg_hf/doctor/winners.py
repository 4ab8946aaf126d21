# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds classes that win far too many pixels of images, or none: "thieves" and words that nothing is called."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..model.checks import quoted
from ..model.pipeline_inputs import images_of
from ..model.text_embeddings import TextEmbeddings
from ..model.vocabulary import Vocabulary
from .bounds import MIN_IMAGES
from .findings import Finding

# A class that wins a part of at least this share of the images is suspicious if it also wins `THIEF_TIMES` the pixels
# that it would win if all classes that win anything won the same.
THIEF_IMAGES = 0.8
THIEF_TIMES = 4.0
MIN_SHARE = 0.01  # of the pixels of an image; smaller parts are noise


def count_winners(pipe: Any, images: Iterable[Any], text: TextEmbeddings, **options: Any) -> np.ndarray:
    """Segments images and returns the share of pixels that each class wins, float64 `(images, C)`.

    Args:
        pipe: The pipeline.
        images: Images, or one; see the pipeline.
        text: The text embeddings of the vocabulary, or its names.
        options: Options of the pipeline, such as `head`.

    Raises:
        ValueError: If an image cannot be read, or an option is invalid.
    """
    text = text if isinstance(text, TextEmbeddings) else pipe.encode_labels(text)
    shares = []
    for image in images_of(images):
        result = pipe(image, text, return_label_map=True, return_masks=False, **options)
        labels = result["label_map"]
        shares.append(np.bincount(labels[labels >= 0], minlength=len(text)) / labels.size)
    return np.asarray(shares, np.float64).reshape(-1, len(text))


def find_winners(vocabulary: Vocabulary, shares: np.ndarray) -> list[Finding]:
    """Finds classes that win nearly everywhere, and classes that win nowhere.

    Args:
        vocabulary: The vocabulary.
        shares: `(images, C)` from `count_winners`.

    Raises:
        ValueError: If the shares are not those of the classes of the vocabulary.
    """
    given = shares
    shares = np.asarray(given) if isinstance(given, (np.ndarray, list, tuple)) else np.zeros(())
    if shares.ndim != 2 or shares.shape[1] != len(vocabulary) or shares.dtype.kind not in "fiu":
        raise ValueError(
            f"The shares are {quoted(given)}; expected numbers of shape (images, {len(vocabulary)}), one for each "
            "class. Pass those of count_winners with the same vocabulary."
        )
    num_images = len(shares)
    if num_images < MIN_IMAGES:
        return []
    visible = shares >= MIN_SHARE
    num_winners = max(1, int(visible.any(axis=0).sum()))
    findings = []
    for label, name in enumerate(vocabulary.names):
        wins, share = int(visible[:, label].sum()), float(shares[:, label].mean())
        if wins >= THIEF_IMAGES * num_images and share * num_winners >= THIEF_TIMES:
            findings.append(
                Finding(
                    "everywhere",
                    (label,),
                    f"{name!r} wins {100 * share:.0f} % of all pixels and a part of {wins} of {num_images} images. If "
                    "the images do not show that, name it more precisely, or name what it takes.",
                )
            )
        elif wins == 0:
            findings.append(
                Finding(
                    "nowhere",
                    (label,),
                    f"{name!r} wins nothing in {num_images} images. If they show it, try another word or synonyms.",
                )
            )
    return findings
