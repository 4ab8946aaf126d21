# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The versions of what computes labels, for descriptions of results and of labeled data sets."""

import platform

import numpy as np
import torch
import transformers

from .about import __version__


def library_versions() -> dict[str, str]:
    """Returns the versions of this package, of the libraries that results depend on, and of Python, by name."""
    return {
        "dinov3seg_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
