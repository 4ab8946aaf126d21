# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The formats of an export: endings of their files and the libraries that they need. Imports nothing heavy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..extras import require_installed
from ..model.checks import checked_flag, quoted

Format = Literal["onnx", "openvino", "torch"]


@dataclass(frozen=True)
class _Facts:
    """What is known about a format.

    Attributes:
        ending: The ending of the file of a graph.
        libraries: The libraries that write and run it, of the extra with the name of the format.
        runtime: The library that `run.py` needs; `None`: there is no `run.py`.
    """

    ending: str
    libraries: tuple[str, ...]
    runtime: str | None


FORMATS: dict[Format, _Facts] = {
    "onnx": _Facts(".onnx", ("onnx", "onnxscript", "onnxruntime"), "onnxruntime"),
    "openvino": _Facts(".xml", ("onnx", "onnxscript", "openvino"), "openvino"),
    "torch": _Facts(".pt2", (), None),
}


def check_format(format: Format, int8: bool = False, require: Callable[..., None] = require_installed) -> None:
    """Checks that there is such an export, and that its libraries are there.

    Args:
        format: The format.
        int8: Whether its weights shall have 8 bits.
        require: What checks the libraries, one of the functions of `extras`.

    Raises:
        ValueError: If not; the message contains the formats or the installation command.
    """
    if not isinstance(format, str) or format not in FORMATS:
        raise ValueError(f"Got the format {quoted(format)}; expected one of {', '.join(FORMATS)}.")
    if checked_flag(int8, "int8") and format != "onnx":
        raise ValueError(f"Got int8 with the format {format}; expected onnx. The other formats have float32 weights.")
    require(format, *FORMATS[format].libraries, what=f"The format {format}")


__all__ = ["FORMATS", "Format", "check_format"]
