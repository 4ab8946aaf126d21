# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds the license files of the weights. Imports no torch, like `paths.py`."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..file_names import PART_LICENSES
from ..model.checks import first_line
from .paths import Source, means_file

ENDINGS = (".md", ".txt", "", ".pdf")
LICENSE_NAMES = tuple(f"{name}{ending}" for name in ("LICENSE", "License", "license", "LICENCE") for ending in ENDINGS)
NO_LICENSE = "none"
PARTS = {"prior": ("SAM", "Apache 2.0"), "anyup": ("AnyUp", "CC-BY-4.0")}  # what the model card names


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
