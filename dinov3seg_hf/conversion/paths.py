# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The files that a conversion reads, and the folder that it writes.

Imports no torch, so that the command refuses wrong paths at once.
"""

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..file_names import CONVERSION_REPORT
from ..model.files import recover_folder

Source = str | os.PathLike

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
# Packages whose installation contains `BPE_FILE`: open_clip_torch, and OpenAI's clip.
PACKAGES = ("open_clip", "clip")
# open_clip_torch alone: only its file is read, and what it needs to run could replace torch
INSTALL = "pip install --no-deps open_clip_torch"
REMEDY = f"Pass the path of {BPE_FILE}, or open_clip after `{INSTALL}`."


def means_file(path: Path) -> bool:
    return path.is_file() or (not path.is_dir() and path.suffix in (".pth", ".pt", ".bin", ".safetensors"))


def refuse_missing(sources: Mapping[str, Source | None]) -> None:
    """Checks that files of weights exist; folders and Hub ids are not checked.

    Args:
        sources: The files, folders and Hub ids of the conversion, by their roles.

    Raises:
        ValueError: If a file does not exist.
    """
    for role, source in sources.items():
        if source is None:
            continue
        path = Path(source).expanduser()
        if not path.is_file() and (means_file(path) or role in ("dinotxt", "anyup")):
            raise ValueError(
                f"{role} {path} was not found (current directory: {os.getcwd()!r}); expected a file. Check the path."
            )


def installed_file(package: str) -> Path:
    """Returns the file of merges in an installed package, without importing the package.

    Raises:
        ValueError: If the package is not installed or does not contain the file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(folder) / BPE_FILE).is_file():
            return path
    name = "open_clip_torch" if package == "open_clip" else package
    problem = "is not installed" if spec is None else "does not contain it"
    install = INSTALL if package == "open_clip" else f"pip install --no-deps {name}"
    raise ValueError(
        f"tokenizer {package} is the file {BPE_FILE} of the package {name}, which {problem}. Install it with "
        f"`{install}`, or pass the path of the file."
    )


def refuse_missing_tokenizer(source: str) -> None:
    """Checks that a tokenizer that is named like a file exists, so that the Hub is not asked for it.

    Raises:
        ValueError: If it does not exist, or the package that is named does not have it.
    """
    if source in PACKAGES:
        installed_file(source)
    elif Path(source).suffix in (".gz", ".txt", ".json") or source.startswith(("/", ".", "~")):
        if not Path(source).expanduser().exists():
            raise ValueError(f"tokenizer {source} was not found (current directory: {os.getcwd()!r}). {REMEDY}")


def checked_output(output: str | os.PathLike, overwrite: bool) -> Path:
    """Returns the path of the folder of a conversion, without what a killed conversion left; see `refuse_output`."""
    path = Path(output).expanduser()
    recover_folder(path)
    refuse_output(path, overwrite)
    return path


def refuse_output(output: Path, overwrite: bool) -> None:
    """Checks that the folder of a conversion can be made, or may be replaced.

    Raises:
        ValueError: If the output is a file, a folder with other content or a mounted disk; or an earlier conversion,
            and `overwrite` is false.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {output} is a file; expected a folder. Choose another path.")
    if os.path.ismount(os.path.realpath(output)):
        raise ValueError(
            f"output {output} is where a disk is mounted; expected a folder that can be replaced as a whole. Choose a "
            f"folder inside of it, such as {output / 'checkpoint'}."
        )
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"output {output} is not empty; expected a new or empty folder. Choose another folder, or set overwrite "
            "(--overwrite) to replace an earlier conversion."
        )
    if not (output / CONVERSION_REPORT).is_file():
        raise ValueError(
            f"output {output} is not an earlier conversion ({CONVERSION_REPORT} was not found), so it is not "
            "overwritten. Choose another folder."
        )


def refuse_full_disk(output: Path, needed: float) -> None:
    """Checks that the disk has room for the folder.

    Args:
        output: The folder, which need not exist.
        needed: Its size in bytes.

    Raises:
        ValueError: If the free disk space is too small.
    """
    folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"output {output} needs {size_text(needed)}, but only {size_text(free)} are free. Free disk space, or "
            "choose bfloat16 (--dtype bfloat16)."
        )


def size_text(num_bytes: float) -> str:
    """Formats a size, such as `"3.6 GB"` or `"12 MB"`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
