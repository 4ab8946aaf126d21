# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds the files that a conversion reads, licenses among them, and the folder that it writes.

Imports no torch, so that the command refuses wrong paths at once; `conversion/` uses it, too.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from .file_names import CONVERSION_REPORT, PART_LICENSES
from .model.checks import first_line
from .model.files import recover_folder

Source = str | os.PathLike

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
# Packages whose installation contains `BPE_FILE`: open_clip_torch, and OpenAI's clip.
PACKAGES = ("open_clip", "clip")
# open_clip_torch alone: only its file is read, and what it needs to run could replace torch
INSTALL = "pip install --no-deps open_clip_torch"
REMEDY = f"Pass the path of {BPE_FILE}, or open_clip after `{INSTALL}`."


ENDINGS = (".md", ".txt", "", ".pdf")
LICENSE_NAMES = tuple(f"{name}{ending}" for name in ("LICENSE", "License", "license", "LICENCE") for ending in ENDINGS)
NO_LICENSE = "none"
PARTS = {"prior": ("SAM", "Apache 2.0"), "anyup": ("AnyUp", "CC-BY-4.0")}  # what the model card names


# --- what is read -----------------------------------------------------------------------------------------------------


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


# --- licenses ---------------------------------------------------------------------------------------------------------


def find_licenses(given: Source | None, sources: Mapping[str, Source | None]) -> dict[str, Path | None]:
    """Finds the license files of the weights and of the parts that are given.

    Args:
        given: The license of the weights; see `find_license`. `"none"`: the conversion gets no license file at all.
        sources: The files, folders and Hub ids of the conversion, by their roles.

    Returns:
        The files of "weights" and, if they are given, of "prior" and "anyup"; `None` for a part without one.

    Raises:
        ValueError: See `find_license`.
    """
    given_weights = {role: source for role in ("backbone", "dinotxt", *PARTS) if (source := sources[role]) is not None}
    weights = find_license(given, (given_weights["backbone"], given_weights["dinotxt"]))
    found = {"weights": weights}
    for role in PARTS:
        if weights is not None and role in given_weights:
            others = [other for key, other in given_weights.items() if key != role]
            found[role] = _license_of_part(role, Path(given_weights[role]).expanduser(), weights, others)
    return found


def _license_of_part(role: str, path: Path, weights: Path, others: Iterable[Source]) -> Path | None:
    """Finds the license file of a part under its own name or, in a folder without other weights, under any."""
    if not path.exists():  # a Hub id
        return None
    folder = _folder_of(path)
    stem = Path(PART_LICENSES[role][0]).stem
    own = _license_in(folder, tuple(f"{stem}{ending}" for ending in ENDINGS))
    if own is not None or any(_is_in(Path(other).expanduser(), folder) for other in others):
        return own
    shared = _license_in(folder, LICENSE_NAMES)
    return None if shared is not None and shared.samefile(weights) else shared


def _is_in(path: Path, folder: Path) -> bool:
    return path.exists() and _folder_of(path).samefile(folder)


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _license_in(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Returns the first of the files that is not empty."""
    files = (folder / name for name in names)
    return next((path for path in files if path.is_file() and path.read_bytes().strip()), None)


def find_license(given: Source | None, sources: tuple[Source, ...]) -> Path | None:
    """Finds the license file of the weights.

    Args:
        given: The file. `"none"`: the conversion gets no license file. `None`: the file lies beside one of `sources`.
        sources: The files and folders of the weights.

    Returns:
        The path of the file; `None` if `given` is `"none"`.

    Raises:
        ValueError: If the file is missing or empty, no license lies beside the weights, or the weights are missing.
    """
    if given is not None and os.fspath(given) == NO_LICENSE:
        return None
    if given is not None:
        path = Path(given).expanduser()
        try:
            if path.read_bytes().strip():
                return path
            problem = "it is empty"
        except OSError as error:
            problem = first_line(error)
        raise ValueError(
            f"license {path} cannot be used ({problem}); expected the license file that came with the weights. Check "
            "the path."
        )
    for source in sources:
        path = Path(source).expanduser()
        if means_file(path) and not path.is_file():
            raise ValueError(f"{path} was not found. Check the path.")
        if path.exists() and (found := _license_in(_folder_of(path), LICENSE_NAMES)) is not None:
            return found
    raise ValueError(
        "No license file lies beside the weights, but the DINOv3 License goes with every copy of them, also converted. "
        "Pass the file that came with the weights (--license FILE), or --license none if you keep the result to "
        "yourself."
    )


def license_target(role: str, path: Path) -> str:
    """Returns the name of the copy in the converted folder; `role` is a key of `find_licenses`."""
    text, pdf = ("LICENSE.md", "LICENSE.pdf") if role == "weights" else PART_LICENSES[role]
    return pdf if path.suffix.lower() == ".pdf" else text


def notes_of_licenses(licenses: Mapping[str, Path | None]) -> list[str]:
    """Says which license files of `find_licenses` are missing."""
    if licenses["weights"] is None:
        return ["The folder has no license file. Do not pass it on; convert again with the license to publish it."]
    return [
        f"No license file of {name} was found; the model card names it, {license}. To add it, put it beside {name} as "
        f"{PART_LICENSES[role][0]}, and convert again."
        for role, (name, license) in PARTS.items()
        if role in licenses and licenses[role] is None
    ]


# --- what is written --------------------------------------------------------------------------------------------------


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
