# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures the time to encode one more word after a vocabulary, with the full-size text tower of dino.txt.

    python scripts/measure/new_word.py

The weights are random, and the vision tower is tiny because no image is encoded. Each repeat encodes one new word with
the pipeline (which stores the fingerprint of its text tower) and one with `Vocabulary.encode` (which reads all weights
to compute the fingerprint).
"""

import argparse
import statistics
import time

import torch

from dinov3seg_hf import (
    Dinov3SegConfig,
    Dinov3SegForSemanticSegmentation,
    Dinov3SegImageProcessorPil,
    Dinov3SegProcessor,
    OpenVocabularySegmentationPipeline,
    Vocabulary,
)
from dinov3seg_hf.drawn_world.tokenizer import make_tokenizer
from dinov3seg_hf.model.configuration_dinov3seg import DINOTXT_TEXT


def make_pipeline() -> OpenVocabularySegmentationPipeline:
    tokenizer = make_tokenizer()
    vision = {"hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16, "intermediate_size": 64}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = Dinov3SegConfig(vision_config=vision, text_config={**DINOTXT_TEXT, **ids}, prior_config=None)
    model = Dinov3SegForSemanticSegmentation(config).eval()
    processor = Dinov3SegProcessor(Dinov3SegImageProcessorPil(), tokenizer)
    return OpenVocabularySegmentationPipeline(model=model, processor=processor, device="cpu")


def seconds_of(function, *arguments) -> float:
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    pipe = make_pipeline()
    numbers = sum(parameter.numel() for parameter in pipe.model.text_model.parameters())
    words = [f"word {index}" for index in range(20)]
    pipe.encode_labels(words)

    cached, whole = [], []
    for repeat in range(repeats):
        cached.append(seconds_of(pipe.encode_labels, [*words, f"new {repeat}"]))
        whole.append(seconds_of(Vocabulary.from_list([f"other {repeat}"]).encode, pipe.model, pipe.processor))
    print(f"text tower of {numbers / 1e6:.0f} M parameters, median of {repeats}, CPU seconds on one thread")
    print(f"another word, pipeline            {statistics.median(cached):.2f}")
    print(f"a word, Vocabulary.encode         {statistics.median(whole):.2f}")


if __name__ == "__main__":
    main()
