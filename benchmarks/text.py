# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The text embeddings of many names: prompts of similar lengths together, against prompts padded to 77 tokens.

    python benchmarks/text.py
    python benchmarks/text.py --layers 6 --names 24       # some of the names, a quarter of the tower
    python benchmarks/text.py --device cuda --dtype bfloat16

The text tower has the sizes of dino.txt's and random weights, the names are those of ADE20K-847, a word is one token,
as most are for CLIP. The tower is causal, so padding changes nothing but the last bits. Seconds are of one thread (on a
GPU: on the clock), medians of alternating runs.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm
from transformers import CLIPTextModelWithProjection

from dinov3seg_hf import Dinov3SegConfig, Vocabulary
from dinov3seg_hf.model.dinotxt import encode_prompts
from dinov3seg_hf.model.text_embeddings import encode_classes
from dinov3seg_hf.model.tokenization import stack_prompts, tokenize_prompts

PADDED = 77  # tokens of a prompt of CLIP


class WordTokenizer:
    """A tokenizer for which every word is a token."""

    def __init__(self, begin: int, end: int):
        self.begin, self.end, self.pad_token_id, self.model_max_length = begin, end, end, PADDED
        self.ids: dict[str, int] = {}

    def __call__(self, texts: list[str], **_) -> dict[str, list[list[int]]]:
        rows = [[self.ids.setdefault(word, len(self.ids)) for word in text.split()] for text in texts]
        return {"input_ids": [[self.begin, *row, self.end] for row in rows]}


class TextModel:
    """What `encode_classes` needs of a model: the text tower alone."""

    def __init__(self, text_model: CLIPTextModelWithProjection):
        self.text_model = text_model

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return encode_prompts(self.text_model, input_ids, attention_mask)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=847, help="number of names, evenly from the list (default: 847)")
    parser.add_argument("--layers", type=int, help="number of layers (default: those of dino.txt)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Dinov3SegConfig().text_config
    config.num_hidden_layers = options.layers or config.num_hidden_layers
    tower = CLIPTextModelWithProjection(config).eval().to(options.device, getattr(torch, options.dtype))
    model, tokenizer = TextModel(tower), WordTokenizer(config.bos_token_id, config.eos_token_id)
    every = Vocabulary(Vocabulary.from_preset("ade20k-847").names).prompts()  # one prompt each, without synonyms
    prompts = [every[index * len(every) // options.names] for index in range(options.names)]

    def padded() -> torch.Tensor:
        token_ids = tokenize_prompts(tokenizer, prompts)
        tables = (torch.from_numpy(table) for table in stack_prompts(token_ids, tokenizer.pad_token_id, PADDED))
        chunks = zip(*(table.to(options.device).split(16) for table in tables))
        features = [model.get_text_features(*chunk) for chunk in tqdm(list(chunks), desc="Padded")]
        return torch.cat(features).float().cpu()

    def ours() -> torch.Tensor:
        return encode_classes(model, tokenizer, prompts, progress=True)

    seconds: dict[Callable[[], torch.Tensor], list[float]] = {padded: [], ours: []}
    for _ in range(options.repeats):
        found = {twin: timed(twin, seconds[twin], options.device) for twin in seconds}
    before, after = (statistics.median(times) for times in seconds.values())
    difference = (found[padded] - found[ours]).abs().max()
    print("| names | layers | 77 tokens, s | ours, s | ratio | largest difference |\n|---|---|---|---|---|---|")
    print(
        f"| {len(prompts)} | {config.num_hidden_layers} | {before:.1f} | {after:.1f} | {before / after:.1f} | "
        f"{difference:.0e} |"
    )


@torch.inference_mode()
def timed(function: Callable[[], torch.Tensor], seconds: list[float], device: str) -> torch.Tensor:
    """Calls a function, and appends its seconds."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    result = function()
    seconds.append(clock() - start)
    return result


if __name__ == "__main__":
    main()
