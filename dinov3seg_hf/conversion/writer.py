# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes the folder of a conversion atomically."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..file_names import CONVERSION_REPORT
from ..model.checks import first_line
from ..model.files import open_folder_atomically
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .license import license_target
from .paths import refuse_full_disk, refuse_output
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
