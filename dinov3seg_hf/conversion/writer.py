# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes the folder of a conversion atomically."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..file_names import CONVERSION_REPORT
from ..model.checks import first_line
from ..model.files import open_folder_atomically, recover_folder
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .license import license_target
from .reading import quiet_library
from .report import ConversionReport


def write_checkpoint(
    model: Dinov3SegForSemanticSegmentation,
    processor: Any,
    report: ConversionReport,
    output: Path,
    max_shard_size: str,
    licenses: Mapping[str, Path | None],
    overwrite: bool,
) -> None:
    """Writes a temporary folder next to `output`, then renames it to `output`. The licenses go with the weights.

    Raises:
        ValueError: If the folder cannot be written or the free disk space is too small; or see `refuse_output`.
    """
    needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    try:
        refuse_full_disk(output, needed)
        with open_folder_atomically(output) as folder:
            with quiet_library():
                model.save_pretrained(folder, max_shard_size=max_shard_size)
                processor.save_pretrained(folder)
            for role, path in licenses.items():
                if path is not None:
                    shutil.copyfile(path, folder / license_target(role, path))
            kept = {name: value for name, value in report.to_dict().items() if name != "output"}
            (folder / CONVERSION_REPORT).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            refuse_output(output, overwrite)  # again: what others wrote there meanwhile stays
    except (OSError, SafetensorError) as error:
        raise ValueError(f"output {output} cannot be written ({first_line(error)}). Choose another folder.") from error


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
            f"output {output} is not empty; expected a new or empty folder. Choose another folder, or set overwrite to "
            "replace an earlier conversion."
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
            "choose bfloat16."
        )


def size_text(num_bytes: float) -> str:
    """Formats a size, such as `"3.6 GB"` or `"12 MB"`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
