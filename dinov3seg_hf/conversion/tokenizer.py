# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Loads CLIP's tokenizer from a folder, a Hub id or the original file of merges."""

import gzip
import zlib
from pathlib import Path

from transformers import CLIPTextConfig, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..model.checks import first_line
from .reading import quiet_library


def load_clip_tokenizer(source: str, text_config: CLIPTextConfig) -> CLIPTokenizer:
    path = Path(source).expanduser()
    if path.is_file():
        return _read_bpe(path, text_config.vocab_size)
    try:
        with quiet_library():
            loaded = CLIPTokenizer.from_pretrained(source)
        if set(loaded.get_vocab()) <= set(loaded.all_special_tokens):  # the result without a vocabulary
            raise ValueError("the vocabulary was not found")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"tokenizer {source} cannot be loaded ({first_line(error)}); expected a file, a folder or a Hub id of a "
            "CLIP tokenizer. Pass openai/clip-vit-large-patch14, bpe_simple_vocab_16e6.txt.gz, or none."
        ) from error
    return loaded


def _read_bpe(path: Path, vocab_size: int) -> CLIPTokenizer:
    """Reads CLIP's original file of merges: a header, then one merge per line. CLIP uses only the first merges."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(
            f"tokenizer {path} is not a readable text file ({first_line(error)}). Download the file again."
        ) from error
    # the tokens: all bytes, all bytes at the end of a word, one token per merge, start and end of text
    symbols = list(bytes_to_unicode().values())
    num_merges = max(vocab_size - 2 * len(symbols) - 2, 0)
    merges = [tuple(line.split()) for line in lines[1 : 1 + num_merges]]
    if len(merges) < num_merges or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"tokenizer {path} does not contain the {num_merges} merges that a vocabulary of {vocab_size} tokens "
            "needs. Pass bpe_simple_vocab_16e6.txt.gz, unchanged."
        )
    endings = [f"{symbol}</w>" for symbol in symbols]
    tokens = [*symbols, *endings, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]  # pairs, as its BPE expects
