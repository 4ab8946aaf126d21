# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The flags for the checkpoint and for the inference, which several commands share."""

import argparse
from typing import TYPE_CHECKING

from ..about import DTYPES, EMBEDDED
from .console import ACTIVE_CLASSES, BACKGROUND, REFINE, REFINE_FEATURES, auto_or_positive, share

if TYPE_CHECKING:
    from ..model.inference_settings import InferenceSettings


def add_model(parser: argparse.ArgumentParser, *, settings: bool = True) -> None:
    """Adds the flags `--model`, `--device` and `--dtype` and, with `settings`, those of `settings_of`."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default=EMBEDDED,
        metavar="DIR_OR_HUB_ID",
        help="checkpoint (default: the embedded checkpoint, for drawn scenes)",
    )
    model.add_argument("--device", help='for example "cpu", "cuda" or "cuda:1" (default: an accelerator if available)')
    model.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the weights (default: float32 on the CPU, else the dtype of the checkpoint)",
    )
    if not settings:
        return
    model.add_argument(
        "--inference", choices=("whole", "local-global", "slide"), help="default: the setting of the checkpoint"
    )
    model.add_argument(
        "--head",
        choices=("full", "dinotxt"),
        help="full: the trained head; dinotxt: the zero-shot head (default: the setting of the checkpoint)",
    )
    model.add_argument("--refine-features", action=argparse.BooleanOptionalAction, help=REFINE_FEATURES)
    model.add_argument("--refine", choices=("pixels", "none"), help=REFINE)
    model.add_argument(
        "--threshold",
        type=share,
        metavar="T",
        help='minimum score, 0 to 1; pixels with a lower score are "none of these"',
    )
    model.add_argument("--background", choices=("auto", "never"), help=BACKGROUND)
    model.add_argument("--active-classes", type=auto_or_positive, metavar="K", help=ACTIVE_CLASSES)


def refuse_options_of_other_head(options: argparse.Namespace, head: str | None) -> None:
    """Checks that no option is set that changes the zero-shot head alone, if the head is the full one.

    Args:
        options: The options.
        head: The head; `None` if it is not known yet.

    Raises:
        ValueError: If one is.
    """
    given = {
        "--no-refine-features": getattr(options, "refine_features", None) is False,
        "--temperature": getattr(options, "temperature", None) is not None,
    }
    for flag in [flag for flag, is_given in given.items() if is_given and head == "full"]:
        raise ValueError(
            f"{flag} is for the zero-shot head; the head is full. Add --head dinotxt, or leave {flag} out."
        )


def refuse_windows_without_windows(options: argparse.Namespace, inference: str | None) -> None:
    """Checks that no size of windows is set if the inference mode, `None` if it is not known yet, has none.

    Raises:
        ValueError: If one is.
    """
    for name in ("window_size", "window_stride"):
        if inference == "whole" and getattr(options, name) is not None:
            flag = f"--{name}".replace("_", "-")
            raise ValueError(
                f"{flag} is for windows; the inference mode is whole. Add --inference local-global or slide, or leave "
                f"{flag} out."
            )


def settings_of(options: argparse.Namespace, head: str) -> "InferenceSettings":
    """Returns the settings of the flags of `add_model`.

    Args:
        options: The options.
        head: The head of the checkpoint.

    Raises:
        ValueError: If a value is out of range, or an option is for the other head.
    """
    from ..model.inference_settings import InferenceSettings

    refuse_options_of_other_head(options, options.head or head)
    return InferenceSettings(
        inference=options.inference,
        head=options.head,
        refine_features=options.refine_features,
        refine=options.refine,
        threshold=options.threshold,
        background=options.background,
        active_classes=options.active_classes,
    )
