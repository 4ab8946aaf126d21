# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Loads CLIP's tokenizer from a folder, a Hub id, an installed package or the original file of merges.

Finding the source comes before gigabytes of weights are read; building the tokenizer needs the size of the text tower.
"""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import CLIPTextConfig, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..hub_connection import ask_hub
from ..model.checks import first_line
from .paths import BPE_FILE, PACKAGES, REMEDY, installed_file, refuse_missing_tokenizer
from .reading import quiet_library

# Of the file of merges, without compression.
MAX_CHARACTERS = 32 * 10**6

TokenizerOf = Callable[[CLIPTextConfig], CLIPTokenizer]


def find_tokenizer(source: str) -> TokenizerOf:
    """Finds a tokenizer and reads its files.

    Args:
        source: `"open_clip"` or `"clip"`: the file in the installed package. Or the path of `BPE_FILE`, a folder or a
            Hub id that `CLIPTokenizer` loads.

    Returns:
        A function that makes the tokenizer for the configuration of a text tower.

    Raises:
        ValueError: If the source does not exist, cannot be read, or cannot be downloaded.
    """
    path = installed_file(source) if source in PACKAGES else Path(source).expanduser()
    if path.is_file():
        lines = _read_lines(path)
        return lambda text_config: _tokenizer_of(lines, path, text_config.vocab_size)
    try:
        loaded = _load(source, local_files_only=True)  # a folder, or a download of an earlier run
    except (OSError, ValueError, TypeError) as error:
        if path.exists():
            raise ValueError(
                f"tokenizer {source} cannot be loaded ({first_line(error)}); expected a file, a folder or a Hub id of "
                f"a CLIP tokenizer. {REMEDY}"
            ) from error
        _require_repository(source)
        try:
            loaded = _load(source)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"tokenizer {source} cannot be loaded from the Hub ({first_line(error)}); expected a repository with a "
                f"CLIP tokenizer. {REMEDY}"
            ) from error
    return lambda text_config: loaded


def _load(source: str, local_files_only: bool = False) -> CLIPTokenizer:
    with quiet_library():
        loaded = CLIPTokenizer.from_pretrained(source, local_files_only=local_files_only)
    if set(loaded.get_vocab()) <= set(loaded.all_special_tokens):  # the result without a vocabulary
        raise ValueError("the vocabulary was not found")
    return loaded


def _require_repository(source: str) -> None:
    """Asks the Hub once whether the repository exists, because the library would try again for minutes.

    Raises:
        ValueError: If the repository does not exist, or the Hub cannot be reached; the message says which.
    """
    refuse_missing_tokenizer(source)
    try:
        problem = ask_hub(source)
    except (HfHubHTTPError, HFValidationError) as error:
        raise ValueError(
            f"tokenizer {source} was not found ({first_line(error)}); expected a file, a folder or a Hub id of a CLIP "
            f"tokenizer. {REMEDY}"
        ) from error
    if problem is not None:
        raise ValueError(
            f"tokenizer {source} is no file, folder or earlier download, and {problem}; expected a file, a folder or a "
            f"Hub id of a CLIP tokenizer. {REMEDY}"
        )


def _read_lines(path: Path) -> list[str]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(
            f"tokenizer {path} is not a readable text file ({first_line(error)}). Download the file again."
        ) from error
    if len(text) > MAX_CHARACTERS:  # a small compressed file can have gigabytes
        raise ValueError(
            f"tokenizer {path} has more than {MAX_CHARACTERS // 10**6} million characters; expected {BPE_FILE}, which "
            "has 3 million. Download the file again."
        )
    return text.split("\n")


def _tokenizer_of(lines: list[str], path: Path, vocab_size: int) -> CLIPTokenizer:
    """Makes the tokenizer of CLIP's original file: a header, then one merge per line; CLIP uses the first merges."""
    # the tokens: all bytes, all bytes at the end of a word, one token per merge, start and end of text
    symbols = list(bytes_to_unicode().values())
    num_merges = max(vocab_size - 2 * len(symbols) - 2, 0)
    merges = [tuple(line.split()) for line in lines[1 : 1 + num_merges]]
    if len(merges) < num_merges or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"tokenizer {path} does not contain the {num_merges} merges that a vocabulary of {vocab_size} tokens "
            f"needs. Pass {BPE_FILE}, unchanged."
        )
    endings = [f"{symbol}</w>" for symbol in symbols]
    tokens = [*symbols, *endings, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]  # pairs, as its BPE expects
