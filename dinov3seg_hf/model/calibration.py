# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The calibration of a vocabulary: below which confidence a pixel shows none of its classes.

`dinov3seg calibrate` makes one; `background.py` uses it. A bound means something only for the confidence that it was
measured of, so a calibration has the settings that this depends on; `check` refuses others.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from .checks import checked_choice, quoted
from .inference_settings import Head, Inference, InferenceSettings, PatchSource

if TYPE_CHECKING:
    import torch

KEYS = ("head", "model_fingerprint", "thresholds")
# What else the confidence depends on. The full head has refined features and logits, whatever the settings say.
DECISIVE_OPTIONS: dict[Head, tuple[str, ...]] = {
    "full": ("patch_source",),
    "dinotxt": ("inference", "patch_source", "refine_features", "temperature"),
}
# Temperatures of the same weights in another dtype differ by less.
TEMPERATURE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Calibration:
    """Bounds of the confidence for one vocabulary, one checkpoint and the settings that the confidence depends on.

    Sizes of images and windows are no such settings: they change a confidence a little, but not what it is.

    Args:
        thresholds: The bound of each of C classes, at least 0.
        head: The head that made the scores, `"full"` or `"dinotxt"`.
        model_fingerprint: The fingerprint of the model; see `fingerprints.model_fingerprint`.
        inference: The inference mode. The confidence of the zero-shot head is measured of cosine similarities, and of
            probabilities with `"slide"`. `None`, also for the other options: not known, as in files of earlier
            versions.
        patch_source: The source of the patch tokens.
        refine_features: Whether the zero-shot head used refined features.
        temperature: The temperature of the probabilities.

    Raises:
        ValueError: If a value is invalid.
    """

    thresholds: tuple[float, ...]
    head: Head
    model_fingerprint: str
    inference: Inference | None = None
    patch_source: PatchSource | None = None
    refine_features: bool | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        checked_choice(self.head, "The head of the calibration", get_args(Head))
        if not isinstance(self.model_fingerprint, str) or not self.model_fingerprint:
            raise ValueError(
                f"The model_fingerprint of the calibration is {quoted(self.model_fingerprint)}; expected text. "
                "Calibrate the vocabulary again."
            )
        try:
            InferenceSettings(**{name: getattr(self, name) for name in DECISIVE_OPTIONS["dinotxt"]})
        except ValueError as error:
            raise ValueError(f"In the calibration, {error} Calibrate the vocabulary again.") from error
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
            or not set(KEYS) <= set(values) <= {*KEYS, *DECISIVE_OPTIONS["dinotxt"]}
            or not isinstance(values["thresholds"], (list, tuple))
        ):
            found = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise ValueError(
                f"calibration is {quoted(found)}; expected {', '.join(KEYS)}, with a list of thresholds, and "
                f"optionally {', '.join(DECISIVE_OPTIONS['dinotxt'])}. Calibrate the vocabulary again, or remove the "
                "calibration."
            )
        return cls(**{**values, "thresholds": tuple(values["thresholds"])})

    @classmethod
    def measured(
        cls, thresholds: tuple[float, ...], model_fingerprint: str, settings: InferenceSettings
    ) -> "Calibration":
        """Returns bounds that were measured with these settings, which `check` compares with those of later images.

        Args:
            thresholds: See the class, also for the fingerprint.
            model_fingerprint: The fingerprint of the model.
            settings: The settings, from `resolved_settings` of the pipeline.
        """
        assert settings.head is not None  # resolved
        options = {name: getattr(settings, name) for name in _decisive_options(settings)}
        return cls(thresholds, settings.head, model_fingerprint, **options)

    @property
    def is_complete(self) -> bool:
        """Whether all settings are known that the confidence depends on."""
        return all(getattr(self, name) is not None for name in _decisive_options(self))

    def check(self, settings: InferenceSettings) -> None:
        """Checks that a confidence of these settings can be compared with the bounds, as far as it is known.

        Args:
            settings: The settings in use, from `resolved_settings` of the pipeline.

        Raises:
            ValueError: If the bounds were measured of something else.
        """
        names = ["head"] if self.head != settings.head else [*_decisive_options(self)]
        differing = [name for name in names if self._differs(name, settings)]
        if differing:
            raise ValueError(
                f"The labels are calibrated for {_described(self, differing)}; expected "
                f"{_described(settings, differing)}, which is in use. Calibrate them for this (dinov3seg calibrate), "
                'or pass background="never".'
            )

    def _differs(self, name: str, settings: InferenceSettings) -> bool:
        mine, used = getattr(self, name), getattr(settings, name)
        if mine is None or used is None:
            return False
        if name == "inference":  # whole and local-global have the same kind of confidence
            return (mine == "slide") != (used == "slide")
        return not math.isclose(mine, used, rel_tol=TEMPERATURE_TOLERANCE) if name == "temperature" else mine != used

    def bounds_of(self, labels: "torch.Tensor") -> "torch.Tensor":
        """Returns the bound of each label, float32, for int32 or int64 of any shape."""
        import torch

        # an index of int32 as it is; in brackets, it would become int64
        thresholds = torch.tensor(self.thresholds, device=labels.device)
        return thresholds.index_select(0, labels.flatten()).view(labels.shape)

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments as values of JSON, without those that are not known."""
        values = {**asdict(self), "thresholds": list(self.thresholds)}
        return {name: value for name, value in values.items() if value is not None}


def _described(source: Calibration | InferenceSettings, names: list[str]) -> str:
    values = {name: getattr(source, name) for name in names}
    return " and ".join(
        f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}" for name, value in values.items()
    )


def _decisive_options(source: Calibration | InferenceSettings) -> tuple[str, ...]:
    """The options that the confidence of a head and a mode depends on; only probabilities depend on the temperature."""
    names = DECISIVE_OPTIONS[source.head or "full"]
    return names if source.inference == "slide" else tuple(name for name in names if name != "temperature")


__all__ = ["Calibration"]
