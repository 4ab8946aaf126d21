# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Describes everything that affects the scores of an evaluation, except the weights; results store its fingerprint."""

from typing import Any

from ..data.segmentation import SegmentationDataset
from ..data.streamed import StreamedSegmentationDataset
from ..model.fingerprints import sha256_of
from ..model.inference_settings import InferenceSettings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.vocabulary import Vocabulary
from ..versions import library_versions


def describe_protocol(
    pipe: OpenVocabularySegmentationPipeline,
    data: SegmentationDataset | StreamedSegmentationDataset,
    vocabulary: Vocabulary,
    settings: InferenceSettings,
) -> dict[str, Any]:
    """The data, vocabulary, templates, settings, sizes and versions of an evaluation, as JSON values."""
    processor = pipe.image_processor.to_dict()
    image_options = (
        *("size", "size_divisor", "resample", "do_resize", "do_rescale", "rescale_factor", "do_normalize"),
        *("image_mean", "image_std", "window_size", "window_stride"),
    )
    # without background="auto", every pixel gets a label
    calibration = vocabulary.calibration if settings.background == "auto" else None
    return {
        "data": {
            "fingerprint": data.fingerprint,
            "protocol": data.protocol,
            "columns": list(data.columns),
            "masks": data.mask_meaning,
            "num_rows": len(data) if isinstance(data, SegmentationDataset) else None,
        },
        "vocabulary": {
            "num_classes": len(vocabulary),
            "num_scored": len(vocabulary.scored_names),
            "fingerprint": vocabulary.fingerprint,
            "ignore_label": vocabulary.ignore_label,
            "background_from": vocabulary.background_from,
            **({} if calibration is None else {"calibration": sha256_of(calibration.to_dict())}),
        },
        "templates": list(vocabulary.templates),
        "inference": settings.given(),
        "image_processor": {name: _plain(processor[name]) for name in image_options if name in processor},
        "versions": library_versions(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, float, str, type(None))) else int(value)


def describe_view(protocol: dict[str, Any]) -> str:
    """Returns the inference mode and the size of the images in words, such as `"local-global 640, windows 384/128"`.

    Sizes are in pixels: the shorter side of the image (or height x width), and side and step of the windows. Scores
    of the same weights with another mode or size differ.
    """
    inference, processor = protocol["inference"], protocol["image_processor"]
    size = inference.get("size") or processor.get("size") or {}
    if "shortest_edge" in size:
        text = f"{inference['inference']} {size['shortest_edge']}"
    else:
        text = f"{inference['inference']} {size.get('height')}x{size.get('width')}"
    if inference["inference"] != "whole":
        side = inference.get("window_size") or processor.get("window_size")
        # the step of "slide" is half a window by default
        step = inference.get("window_stride") or (
            side // 2 if inference["inference"] == "slide" else processor.get("window_stride")
        )
        text += f", windows {side}/{step}"
    if inference.get("head") == "dinotxt":
        text += ", zero-shot head" + (", refined features" if inference.get("refine_features") else "")
    elif inference.get("active_classes") is not None:
        text += f", active classes {inference['active_classes']}"
    return text + (", refined pixels" if inference.get("refine") == "pixels" else "")
