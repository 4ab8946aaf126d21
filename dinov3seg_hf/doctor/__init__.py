# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Examines and calibrates a vocabulary: words that a model does not know, confuses, or gives to everything.

`spelling` looks at the words, `similarity` at their embeddings, `winners` at what they win in images; `findings` holds
what they find and applies the proposals. `calibration` measures when a pixel shows none of the classes, at the `points`
of images; `rejection` measures what `active_classes` changes. This package may import `model` only.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .findings import Finding, apply_findings
    from .rejection import Disagreement, verify_active_classes
    from .similarity import find_similar
    from .spelling import find_spelling
    from .winners import count_winners, find_winners
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".findings": ("Finding", "apply_findings"),
            ".rejection": ("Disagreement", "verify_active_classes"),
            ".similarity": ("find_similar",),
            ".spelling": ("find_spelling",),
            ".winners": ("count_winners", "find_winners"),
        },
    )

__all__ = [
    "Disagreement",
    "Finding",
    "apply_findings",
    "count_winners",
    "find_similar",
    "find_spelling",
    "find_winners",
    "verify_active_classes",
]
