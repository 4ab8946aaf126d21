# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The calibration of a vocabulary: below which confidence a pixel shows none of its classes.

`dinov3seg calibrate` makes one; `background.py` uses it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from .checks import checked_choice, quoted
from .inference_settings import Head

if TYPE_CHECKING:
    import torch

KEYS = ("head", "model_fingerprint", "thresholds")


@dataclass(frozen=True)
class Calibration:
    """Bounds of the confidence for one vocabulary, one checkpoint and one head.

    Args:
        thresholds: The bound of each of C classes, at least 0.
        head: The head that made the scores, `"full"` or `"dinotxt"`.
        model_fingerprint: The fingerprint of the model; see `fingerprints.model_fingerprint`.

    Raises:
        ValueError: If a value is invalid.
    """

    thresholds: tuple[float, ...]
    head: Head
    model_fingerprint: str

    def __post_init__(self) -> None:
        checked_choice(self.head, "The head of the calibration", get_args(Head))
        if not isinstance(self.model_fingerprint, str) or not self.model_fingerprint:
            raise ValueError(
                f"The model_fingerprint of the calibration is {quoted(self.model_fingerprint)}; expected text. "
                "Calibrate the vocabulary again."
            )
        for label, bound in enumerate(self.thresholds):
            if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not 0 <= bound < math.inf:
                raise ValueError(f"The threshold of label {label} is {quoted(bound)}; expected a number of at least 0.")
        object.__setattr__(self, "thresholds", tuple(map(float, self.thresholds)))

    @classmethod
    def of(cls, values: Any) -> "Calibration":
        """Returns a calibration unchanged, or creates one from a mapping with its arguments, as in a file.

        Raises:
            ValueError: If `values` is something else, or a value is missing or invalid.
        """
        if isinstance(values, cls):
            return values
        if (
            not isinstance(values, Mapping)
            or set(values) != set(KEYS)
            or not isinstance(values["thresholds"], (list, tuple))
        ):
            found = sorted(values) if isinstance(values, Mapping) else values
            raise ValueError(
                f"calibration is {quoted(found)}; expected {', '.join(KEYS)}, with a list of thresholds. Calibrate the "
                "vocabulary again, or remove the calibration."
            )
        return cls(tuple(values["thresholds"]), values["head"], values["model_fingerprint"])

    def bounds_of(self, labels: "torch.Tensor") -> "torch.Tensor":
        """Returns the bound of each label, float32, for integers of any shape."""
        import torch

        return torch.tensor(self.thresholds, device=labels.device)[labels.long()]

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments as values of JSON."""
        return {**asdict(self), "thresholds": list(self.thresholds)}


__all__ = ["Calibration"]
