# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""How an image is segmented: the options that pipeline, command line, evaluation and demo share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from .checks import checked_choice, quoted

Inference = Literal["whole", "local-global", "slide"]
Head = Literal["full", "dinotxt"]
PatchSource = Literal["head", "backbone"]


@dataclass(frozen=True)
class InferenceSettings:
    """Options of a segmentation; `None` leaves a choice to the checkpoint.

    Args:
        inference: `"whole"`: the image at once. `"local-global"`: its windows as well, merged as features (the paper).
            `"slide"`: the model in each window, probabilities averaged (dino.txt's evaluation). By default
            `"local-global"` if the checkpoint's image processor cuts windows (`do_windows`), else `"whole"`.
        head: `"full"` or `"dinotxt"` (zero-shot).
        patch_source: Patch tokens after the vision head (`"head"`) or before it (`"backbone"`).
        threshold: Pixels whose best score is lower are none of the labels; between 0 and 1.
        temperature: Of the zero-shot head's softmax; `1 / exp(model.logit_scale)` unless given.
        size: In place of the image processor's: `{"shortest_edge": ...}` or `{"height": ..., "width": ...}` in pixels.
        window_size, window_stride: In place of the image processor's, in pixels. The stride of `"slide"` is half a
            window unless given.

    Raises:
        ValueError: An option is out of its range.
    """

    inference: Inference | None = None
    head: Head | None = None
    patch_source: PatchSource | None = None
    threshold: float | None = None
    temperature: float | None = None
    size: Mapping[str, int] | None = None
    window_size: int | None = None
    window_stride: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("inference", Inference), ("head", Head), ("patch_source", PatchSource)):
            if getattr(self, name) is not None:
                checked_choice(getattr(self, name), name, get_args(choices))
        if self.threshold is not None and not _is_between(self.threshold, 0, 1):
            raise ValueError(f"threshold is {quoted(self.threshold)}; scores lie between 0 and 1, choose one of these.")
        if self.temperature is not None and not (
            _is_between(self.temperature, 0, float("inf")) and 0 < self.temperature < float("inf")
        ):
            raise ValueError(f"temperature is {quoted(self.temperature)}; choose a positive number.")

    def given(self) -> dict[str, Any]:
        """The options that are not `None`."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def updated(self, **options: Any) -> "InferenceSettings":
        """These settings with some options in place of their own; `None` changes nothing.

        Raises:
            ValueError: An option is out of its range.
        """
        return replace(self, **{name: value for name, value in options.items() if value is not None})

    def resolved(self, config: Any, image_processor: Any) -> "InferenceSettings":
        """These settings with the choices of a checkpoint in place of `None`.

        Args:
            config: `Dinov3SegConfig`: says `head` and `patch_source`.
            image_processor: Says whether windows are cut.
        """
        return replace(
            self,
            inference=default_inference(image_processor) if self.inference is None else self.inference,
            head=choose_head(config, self.head),
            patch_source=choose_patch_source(config, self.patch_source),
        )


def default_inference(image_processor: Any) -> Inference:
    """What is done where nobody says: what the checkpoint's image processor is set to."""
    return "local-global" if image_processor.do_windows else "whole"


def choose_head(config: Any, head: Head | None) -> Head:
    """The head that is meant: the one given, else the configuration's.

    Raises:
        ValueError: There is no such head.
    """
    return checked_choice(config.head if head is None else head, "head", get_args(Head))


def choose_patch_source(config: Any, patch_source: PatchSource | None) -> PatchSource:
    """The patch tokens that are meant: those given, else the configuration's.

    Raises:
        ValueError: There are no such tokens.
    """
    patch_source = config.patch_source if patch_source is None else patch_source
    return checked_choice(patch_source, "patch_source", get_args(PatchSource))


def _is_between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
