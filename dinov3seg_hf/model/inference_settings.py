# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The segmentation options that the pipeline, the command line, the evaluation and the demo share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from .checks import check_size, checked_choice, checked_integer, is_number, quoted

Inference = Literal["whole", "local-global", "slide"]
Head = Literal["full", "dinotxt"]
PatchSource = Literal["head", "backbone"]
Refine = Literal["pixels", "none"]
Background = Literal["auto", "never"]
ActiveClasses = int | Literal["auto"]


@dataclass(frozen=True)
class InferenceSettings:
    """Options of a segmentation; `None` keeps the default.

    Args:
        inference: `"whole"`: the whole image. `"local-global"`: also its windows, whose features are merged with those
            of the whole image (the paper). `"slide"`: the model in each window, with averaged results (evaluation of
            dino.txt). Default: `"local-global"` if the image processor of the checkpoint cuts windows
            (`do_windows`), else `"whole"`.
        head: `"full"` or `"dinotxt"` (zero-shot). Default: that of the checkpoint.
        patch_source: Patch tokens after the vision head (`"head"`) or before it (`"backbone"`). Default: that of the
            checkpoint.
        threshold: Minimum score, between 0 and 1. Pixels whose best score is lower get no label. Default: no threshold.
        temperature: Temperature of the softmax of the zero-shot head. Default: `1 / exp(model.logit_scale)`.
        size: Size of the resized image in pixels, `{"shortest_edge": ...}` or `{"height": ..., "width": ...}`. Default:
            that of the image processor.
        window_size, window_stride: Side of a window and step between windows, in pixels. Default: those of the image
            processor; the default stride of `"slide"` is half a window.
        refine_features: Whether the zero-shot head uses the features after early refinement; the full head always does.
            Default: that of the checkpoint.
        refine: `"pixels"`: moves the edges of the result to edges of the image, without any training (see
            `pixel_refinement.py`). A score is then the share of a label among the labels, and among none of them for
            the full head. Default: `"none"`.
        background: `"auto"`: pixels that show none of the labels get no label, without any training (see
            `background.py`; the zero-shot head needs at least three labels). A calibrated vocabulary sets the bounds.
            `"never"`: every pixel gets a label, if `threshold` is not set. Default: `"auto"` for a calibrated
            vocabulary, else `"never"`.
        active_classes: How many classes of each patch the full head refines: `"auto"`, or an integer of at least 1. The
            others cannot win (see `active_classes.py`). Saves most of the time with hundreds of names, and changes a
            few pixels. No effect on the zero-shot head. Default: all classes.

    Raises:
        ValueError: If an option is out of range.
    """

    inference: Inference | None = None
    head: Head | None = None
    patch_source: PatchSource | None = None
    threshold: float | None = None
    temperature: float | None = None
    size: Mapping[str, int] | None = None
    window_size: int | None = None
    window_stride: int | None = None
    refine_features: bool | None = None
    refine: Refine | None = None
    background: Background | None = None
    active_classes: ActiveClasses | None = None

    def __post_init__(self) -> None:
        for name, choices in (
            ("inference", Inference),
            ("head", Head),
            ("patch_source", PatchSource),
            ("refine", Refine),
            ("background", Background),
        ):
            if getattr(self, name) is not None:
                checked_choice(getattr(self, name), name, get_args(choices))
        if self.refine_features is not None and not isinstance(self.refine_features, bool):
            raise ValueError(f"refine_features is {quoted(self.refine_features)}; expected True, False or None.")
        if self.active_classes is not None:
            check_active_classes(self.active_classes)
        if self.size is not None:
            check_size(self.size)
        for name in ("window_size", "window_stride"):
            if getattr(self, name) is not None:
                checked_integer(getattr(self, name), name, least=1)
        if self.threshold is not None and not _is_between(self.threshold, 0, 1):
            raise ValueError(
                f"threshold is {quoted(self.threshold)}; expected a number between 0 and 1, like the scores."
            )
        if self.temperature is not None and not (
            _is_between(self.temperature, 0, float("inf")) and 0 < self.temperature < float("inf")
        ):
            raise ValueError(f"temperature is {quoted(self.temperature)}; expected a positive number.")
        self._make_plain()

    def _make_plain(self) -> None:
        """Replaces the numbers of other libraries, such as numpy, which JSON does not know."""
        for names, plain in (
            (("threshold", "temperature"), float),
            (("window_size", "window_stride", "active_classes"), int),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and type(value) not in (int, float, str):
                    object.__setattr__(self, name, plain(value))
        if self.size is not None:  # a copy, which nobody changes
            object.__setattr__(self, "size", {key: int(side) for key, side in self.size.items()})

    def given(self) -> dict[str, Any]:
        """Returns the options that are not `None`."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def updated(self, **options: Any) -> "InferenceSettings":
        """Returns a copy of these settings with the given options replaced; `None` keeps the current value.

        Raises:
            ValueError: If an option is out of range.
        """
        return replace(self, **{name: value for name, value in options.items() if value is not None})

    def resolved(self, config: Any, image_processor: Any) -> "InferenceSettings":
        """Returns a copy without `None` in `inference`, `head`, `patch_source`, `refine_features` and `refine`.

        The checkpoint provides the missing values.

        Args:
            config: The `Dinov3SegConfig`, with the defaults of `head`, `patch_source` and `refine_features`.
            image_processor: The image processor, whose `do_windows` determines the default of `inference`.

        Raises:
            ValueError: If the head is the full one and was not trained.
        """
        head = choose_head(config, self.head)
        if head == "full" and not config.head_trained:
            raise ValueError(
                'head is "full", but the full head of this checkpoint is not trained; expected "dinotxt". Leave out '
                "head, or train the head first (dinov3seg train; after training of your own, set "
                "model.config.head_trained = True)."
            )
        return replace(
            self,
            inference=default_inference(image_processor) if self.inference is None else self.inference,
            head=head,
            patch_source=choose_patch_source(config, self.patch_source),
            refine_features=config.refine_features if self.refine_features is None else self.refine_features,
            refine="none" if self.refine is None else self.refine,
        )


def checked_settings(settings: Any, default: InferenceSettings) -> InferenceSettings:
    """Returns the settings, or the default if they are `None`.

    Raises:
        ValueError: If they are no `InferenceSettings`.
    """
    if settings is None:
        return default
    # those of the Hub's code are of another class than those of the package
    if not callable(getattr(type(settings), "resolved", None)):
        raise ValueError(
            f"settings is {quoted(settings)} of type {type(settings).__name__}; expected InferenceSettings. Pass, for "
            "example, InferenceSettings(head='dinotxt')."
        )
    return settings


def default_inference(image_processor: Any) -> Inference:
    """Returns the default inference mode of a checkpoint, which depends on its image processor."""
    return "local-global" if image_processor.do_windows else "whole"


def choose_head(config: Any, head: Head | None) -> Head:
    """Returns the given head, or that of the configuration if `head` is `None`.

    Raises:
        ValueError: If the head is unknown.
    """
    return checked_choice(config.head if head is None else head, "head", get_args(Head))


def choose_patch_source(config: Any, patch_source: PatchSource | None) -> PatchSource:
    """Returns the given source of patch tokens, or that of the configuration if `patch_source` is `None`.

    Raises:
        ValueError: If the source is unknown.
    """
    patch_source = config.patch_source if patch_source is None else patch_source
    return checked_choice(patch_source, "patch_source", get_args(PatchSource))


def _is_between(value: Any, low: float, high: float) -> bool:
    return is_number(value) and low <= value <= high


def check_active_classes(value: Any, training: bool = False) -> None:
    """Checks that the value is `"auto"` or an integer of at least 1.

    Raises:
        ValueError: If it is something else, or the model is in training mode.
    """
    if isinstance(value, str) and value != "auto":
        raise ValueError(f'active_classes is {quoted(value)}; expected "auto" or an integer of at least 1.')
    if not isinstance(value, str):
        checked_integer(value, "active_classes", least=1)
    if training:
        raise ValueError("active_classes is set in training mode; expected None. Leave it out, or call eval().")
