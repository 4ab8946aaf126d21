# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Evaluates a model on a data set: rows -> pipeline -> counts -> results.

This package is allowed to import `model`, `metrics`, `data` and `visualization`.
"""

from .evaluator import evaluate
from .results import EvaluationResult, results_table, seen_classes

__all__ = [
    "EvaluationResult",
    "evaluate",
    "results_table",
    "seen_classes",
]
