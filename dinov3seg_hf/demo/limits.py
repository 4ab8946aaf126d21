# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""How much the demo lets be asked and held."""

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[float, str], None]  # is told how far it is, from 0 to 1, and what is being done

SLIDE_VALUES = 2**28  # of the probabilities that sliding windows hold, in fp32: 1 GiB


@dataclass(frozen=True)
class Limits:
    """How much a session may ask for, and how much all of them together may hold.

    Attributes:
        file_bytes: Size of an image file.
        pixels: Larger images are refused before they are decoded.
        side: Images with a longer side are shrunk to it.
        labels, words: Classes, and words with all their synonyms.
        word_length: Letters of a word.
        templates: Prompt templates.
        prompts: Words times templates.
        cache_bytes: What is remembered of all sessions together; what was used last stays longest.
    """

    file_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    side: int = 1600
    labels: int = 1000
    words: int = 3000
    word_length: int = 100
    templates: int = 12
    prompts: int = 10_000
    cache_bytes: int = 768 * 2**20
