# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Prepares images as `pixel_values` and windows, and turns logits into label maps.

Contains the code that both backends share, and the torchvision backend. The PIL backend, which needs no additional
library, is in `image_processing_pil_dinov3seg.py`. Handles sizes, pixel statistics and window geometry; does not depend
on text or class names.
"""

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, get_args

import numpy as np
import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import is_torchvision_available

from .checks import (
    check_flags,
    check_option_names,
    check_size,
    checked_choice,
    checked_integer,
    is_number,
    load_json,
    quoted,
)
from .image_input import MAX_IMAGE_PIXELS, flatten_images, read_label_map, read_pixels
from .label_maps import ScoreFunction, label_and_score
from .remote_code import attach_remote_code
from .resizing import resized_strips
from .strict_values import strict_errors_as_value_errors
from .tensor_checks import checked_tensor, is_finite
from .windows import cut_windows, plan_windows, size_of

MAX_SIDE = 2**20  # of a label map, in pixels

STATISTICS = ("image_mean", "image_std")
# What files of image processors contain besides options, and transformers passes to the constructor.
FILE_KEYS = ("auto_map", "feature_extractor_type", "image_processor_type", "processor_class")


class Dinov3SegImageProcessorKwargs(ImagesKwargs, total=False):
    r"""Options of the image processor.

    size_divisor (`int`, *optional*, defaults to `self.size_divisor`):
        With `size={"shortest_edge": ...}`, both sides of the resized image are rounded to a multiple of this number
        (the patch size). A fixed `{"height", "width"}` is not rounded.
    do_windows (`bool`, *optional*, defaults to `self.do_windows`):
        Whether to also cut the resized image into overlapping windows, for local-global inference.
    window_size (`int`, *optional*, defaults to `self.window_size`):
        Side of a window in pixels of the resized image.
    window_stride (`int`, *optional*, defaults to `self.window_stride`):
        Step between neighboring windows in pixels of the resized image.
    max_image_pixels (`int`, *optional*, defaults to `self.max_image_pixels`):
        Maximum number of pixels of an image, before and after resizing. Larger images raise an error.
    do_reduce_labels (`bool`, *optional*, defaults to `self.do_reduce_labels`):
        Whether 0 in segmentation maps means no class, as in ADE20K: 0 becomes 255, and all other labels but 255 and
        negative ones are reduced by 1.
    """

    size_divisor: int | None
    do_windows: bool | None
    window_size: int | None
    window_stride: int | None
    max_image_pixels: int | None
    do_reduce_labels: bool | None


class Dinov3SegImageProcessing(BaseImageProcessor):
    """Base class of the two backends: reading, sizes, windows, labels and post-processing.

    The defaults are those of the paper: 640 x 640 pixels, and nine windows of 384 pixels at a stride of 128 pixels.
    """

    valid_kwargs = Dinov3SegImageProcessorKwargs
    do_convert_rgb = True
    do_resize = True
    size = {"height": 640, "width": 640}
    default_to_square = True
    size_divisor = 16
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_windows = True
    window_size = 384
    window_stride = 128
    max_image_pixels = MAX_IMAGE_PIXELS
    do_reduce_labels = False

    def __init__(self, **kwargs: Any):
        """Checks the names of the options; `from_pretrained` and `from_dict` also take those of other versions.

        Raises:
            TypeError: If an option is unknown.
        """
        given = [name for name in kwargs if name not in FILE_KEYS and not name.startswith("_")]
        check_option_names(given, self.valid_kwargs.__annotations__, "the image processor")
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Returns the image processor of a saved dictionary; keys that this version does not know become attributes."""
        known = (*FILE_KEYS, *cls.valid_kwargs.__annotations__)
        other = {name: value for name, value in image_processor_dict.items() if name not in known}
        made = super().from_dict({k: v for k, v in image_processor_dict.items() if k not in other}, **kwargs)
        for name, value in other.items():
            setattr(made[0] if isinstance(made, tuple) else made, name, kwargs.get(name, value))
        return made

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Any:
        """Returns the image processor of a JSON file; see `from_dict`."""
        with open(json_file, encoding="utf-8") as file:
            return cls.from_dict(load_json(file.read()))

    @property
    def model_input_names(self) -> list[str]:  # type: ignore[override]  # depends on the options
        windows = ["window_pixel_values", "window_boxes"] if self.do_windows else []
        return ["pixel_values", *windows]

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Writes the JSON file and copies the code of both backends next to it, for loading without this package."""
        attach_remote_code(self, json_file_path, "image_processor")
        super().to_json_file(json_file_path)

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[Dinov3SegImageProcessorKwargs],
    ) -> BatchFeature:
        """Converts images to the inputs of the model.

        Args:
            images: One image or a (nested) list of images: PIL, numpy, torch, path or URL; see `open_image`. An array
                with four dimensions is a batch.
            segmentation_maps: One map of integer labels for each image, of the size of the image: PIL, numpy, torch or
                path.
            **kwargs: Override the attributes of the processor for this call. `do_rescale=False` keeps the scale of the
                input: [0, 1] for floats, 0..255 for integers.

        Returns:
            A `BatchFeature` with

            - `pixel_values`: float32 `(B, 3, H, W)`;
            - `window_pixel_values`, with `do_windows`: float32 `(B, N, 3, h, w)`, where h = w = `window_size` unless
              the resized image is smaller;
            - `window_boxes`, with `do_windows`: int64 `(N, 4)`: top, left, height, width in pixels of `pixel_values`;
            - `labels`, with `segmentation_maps`: int64 `(B, H, W)`, resized by nearest neighbor.

            Without `return_tensors`, lists with one entry per image (except `window_boxes`, which is always one array).

        Raises:
            ValueError: If an image cannot be read (see `open_image`), labels and image differ in size, or images of
                different sizes would have to be stacked.
            TypeError: If an option is unknown.
        """
        check_option_names(kwargs, self.valid_kwargs.__annotations__, "the image processor")
        if kwargs.get("size") is not None and not isinstance(kwargs["size"], (int, SizeDict)):
            check_size(kwargs["size"])
        if kwargs.get("do_normalize", self.do_normalize):  # before transformers' own checks of the types
            _check_statistics({name: value for name, value in kwargs.items() if name in STATISTICS})
        if kwargs.get("do_resize", self.do_resize):
            _check_resample(kwargs.get("resample", self.resample))
            if kwargs.get("size", self.size) is None:
                check_size(None)
        with strict_errors_as_value_errors():
            return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(  # type: ignore[override]  # transformers' hook for additional inputs
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        *,
        do_convert_rgb: bool | None,
        input_data_format: Any,
        do_resize: bool | None,
        size: SizeDict,
        size_divisor: int | None,
        resample: Any,
        do_rescale: bool | None,
        do_windows: bool | None,
        window_size: int,
        window_stride: int,
        max_image_pixels: int,
        do_reduce_labels: bool | None = None,
        return_tensors: Any,
        device: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        for option in ("do_center_crop", "do_pad"):
            if kwargs.pop(option, None):
                raise ValueError(
                    f"`{option}` is not supported, because it would not apply to labels and windows. Use `size`."
                )
        images = flatten_images(images)
        windows = (window_size, window_stride) if do_windows else (None, None)
        _check_integers(max_image_pixels=max_image_pixels, window_size=windows[0], window_stride=windows[1])
        _check_integers(size_divisor=size_divisor)
        if not images:
            raise ValueError("Got no images; expected at least one.")
        pixels = [read_pixels(image, max_image_pixels, bool(do_convert_rgb), input_data_format) for image in images]
        _check_rescale_factor(kwargs["rescale_factor"] if do_rescale else 1)
        if kwargs.get("do_normalize"):
            for num_channels in {len(array) for array in pixels}:
                _check_statistics({name: kwargs[name] for name in STATISTICS}, num_channels)
        sizes = source_sizes = [size_of(image) for image in pixels]
        if do_resize:
            sizes = [_resized_size(source, size, size_divisor, max_image_pixels) for source in source_sizes]

        prepared = []
        for image, source, (height, width) in zip(images, pixels, sizes, strict=True):
            array = self._to_backend(source, device)
            if do_resize:
                array = self.resize(  # type: ignore[attr-defined]  # defined in both backends, not in their base
                    array, SizeDict(height=height, width=width), resample
                )
            if not do_rescale and _is_float(image):
                array = self.rescale(array, 1 / 255)  # `read_pixels` has converted the image to 8 bits
            prepared.append(array)
        prepared = super()._preprocess(
            prepared,
            do_resize=False,
            size=size,
            resample=resample,
            do_center_crop=False,
            do_pad=False,
            do_rescale=do_rescale,
            return_tensors=None,
            **kwargs,
        )["pixel_values"]
        data = {"pixel_values": prepared}

        if len(set(sizes)) > 1 and (do_windows or return_tensors is not None):
            raise ValueError(
                f"The prepared images have different sizes (height, width) {sorted(set(sizes))} and cannot be stacked. "
                "Set a fixed size={'height': ..., 'width': ...}, or process the images one at a time."
            )
        if do_windows:
            boxes = torch.tensor(plan_windows(sizes[0], window_size, window_stride))
            data["window_pixel_values"] = [
                self._to_backend(cut_windows(torch.as_tensor(image), boxes), device) for image in prepared
            ]
            data["window_boxes"] = self._to_backend(boxes, device)
        if segmentation_maps is not None:
            maps = _prepare_labels(segmentation_maps, source_sizes, sizes, max_image_pixels)
            maps = [_reduced(labels) for labels in maps] if do_reduce_labels else maps
            data["labels"] = [self._to_backend(labels, device) for labels in maps]
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _to_backend(self, tensor: torch.Tensor, device: Any) -> Any:
        raise NotImplementedError

    @torch.no_grad()
    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
        threshold: float | None = None,
        none_label: int = -1,
        score_function: ScoreFunction = "sigmoid",
        temperature: float = 1.0,
        return_scores: bool = False,
        return_segmentation_scores: bool = False,
    ) -> list[Any]:
        """Turns logits into label maps at the size of the original images.

        Resizes the logits bilinearly, one strip of rows at a time: all classes at full size are never in memory at
        once.

        Args:
            outputs: Model outputs with `logits` `(B, C, h, w)`.
            target_sizes: (height, width) in pixels for each image. Default: the size of the logits.
            threshold: Minimum score, in [0, 1]. Pixels whose best score is lower get `none_label`.
            none_label: The label of pixels below `threshold`. The default is outside every vocabulary, unlike 255.
            score_function: How to turn logits into scores: `"sigmoid"` for each class (full head), `"softmax"` over the
                classes (zero-shot head), or `"none"` if the logits are already scores.
            temperature: Divisor of the logits, applied before the score function. The logits of the zero-shot head are
                cosine similarities; pass `1 / model.logit_scale.exp()` for it.
            return_scores: Whether to also return the score of the winning class of each pixel.
            return_segmentation_scores: Whether to also return the resized logits of all classes, as other transformers
                models do. This needs memory for all classes at full size.

        Returns:
            For each image, an int32 label map `(height, width)`. If `return_scores` or `return_segmentation_scores` is
            set, an object with `segmentation` (the label map) and the requested `scores` (float32 `(height, width)` in
            [0, 1]) and `segmentation_scores` (float32 `(C, height, width)`).

        Raises:
            ValueError: If a shape, a size, the threshold, the temperature or the score function is invalid.
        """
        logits = _checked_logits(outputs, score_function, temperature, threshold, none_label)
        check_flags(return_scores=return_scores, return_segmentation_scores=return_segmentation_scores)

        results: list[Any] = []
        for image_logits, size in zip(logits, _target_sizes(target_sizes, logits)):
            labels, scores = label_and_score(image_logits, size, score_function, temperature)
            if threshold is not None:
                labels = labels.masked_fill(scores < threshold, none_label)
            if not (return_scores or return_segmentation_scores):
                results.append(labels)
                continue
            data = {"segmentation": labels}
            if return_scores:
                data["scores"] = scores
            if return_segmentation_scores:
                strips = [strip for _, strip in resized_strips(image_logits, size)]
                data["segmentation_scores"] = torch.cat(strips, dim=1)
            results.append(SemanticSegmentationPostProcessorOutput(data=data))
        return results


class Dinov3SegImageProcessor(Dinov3SegImageProcessing, TorchvisionBackend):
    """Image processor of dinov3.seg on torchvision. Works on tensors, with `device="cuda"` also on a GPU.

    See `Dinov3SegImageProcessorKwargs` for the parameters.

    Raises:
        ImportError: If torchvision cannot be imported.
    """

    def __init__(self, **kwargs: Unpack[Dinov3SegImageProcessorKwargs]):
        if not is_torchvision_available():
            raise ImportError(
                "Dinov3SegImageProcessor needs torchvision, which was not found. Install torchvision, or use "
                "Dinov3SegImageProcessorPil, which gives the same results up to rounding."
            )
        super().__init__(**kwargs)

    def _to_backend(self, tensor: torch.Tensor, device: Any) -> torch.Tensor:
        return tensor.to(device) if device is not None else tensor


def _is_float(image: Any) -> bool:
    if isinstance(image, torch.Tensor):
        return image.is_floating_point()
    return getattr(getattr(image, "dtype", None), "kind", "") == "f" or getattr(image, "mode", "") == "F"


def _resized_size(
    source_size: tuple[int, int], size: SizeDict, size_divisor: int | None, max_image_pixels: int
) -> tuple[int, int]:
    edges_are_positive = all(edge > 0 for edge in (size.shortest_edge, size.longest_edge) if edge)
    if size.height and size.width:
        resized = (size.height, size.width)
    elif size.shortest_edge and edges_are_positive and not size.height and not size.width:
        scale = size.shortest_edge / min(source_size)
        if size.longest_edge:
            scale = min(scale, size.longest_edge / max(source_size))
        divisor = size_divisor or 1
        patches = [max(1, int(side * scale / divisor + 0.5)) for side in source_size]
        if size.longest_edge:  # the limit applies after rounding, too
            patches = [min(count, max(1, size.longest_edge // divisor)) for count in patches]
        resized = (patches[0] * divisor, patches[1] * divisor)
    else:
        raise ValueError(
            f"size is {dict(size)}; expected the keys 'height' and 'width', or 'shortest_edge' and optionally "
            "'longest_edge', with positive values."
        )
    if min(resized) < 1 or resized[0] * resized[1] > max_image_pixels:
        raise ValueError(
            f"An image of {source_size[0]} x {source_size[1]} pixels would be resized to {resized[0]} x {resized[1]}; "
            f"expected 1 to {max_image_pixels} pixels. Set a 'longest_edge', or a fixed height and width."
        )
    return resized


def _prepare_labels(
    segmentation_maps: Any,
    source_sizes: list[tuple[int, int]],
    sizes: list[tuple[int, int]],
    max_image_pixels: int,
) -> list[torch.Tensor]:
    maps = [read_label_map(item, max_image_pixels) for item in flatten_images(segmentation_maps, num_dims=2)]
    if len(maps) != len(sizes):
        raise ValueError(f"Got {len(maps)} segmentation maps for {len(sizes)} images; expected one per image.")
    resized = []
    for labels, source_size, (height, width) in zip(maps, source_sizes, sizes, strict=True):
        if tuple(labels.shape) != source_size:
            raise ValueError(
                f"A segmentation map is {labels.shape[0]} x {labels.shape[1]} and its image is {source_size[0]} x "
                f"{source_size[1]} (height x width); expected the same size. Resize the map by nearest neighbor, or "
                "check for a rotated image."
            )
        # nearest neighbor by index, because PIL and `F.interpolate` would convert labels to bytes or floats
        rows = torch.arange(height, device=labels.device)
        columns = torch.arange(width, device=labels.device)
        rows = (2 * rows + 1) * labels.shape[0] // (2 * height)
        columns = (2 * columns + 1) * labels.shape[1] // (2 * width)
        resized.append(labels[rows[:, None], columns])
    return resized


def _reduced(labels: torch.Tensor) -> torch.Tensor:
    """Returns labels that count from 0, where 0 and 255 become 255; negative labels have a meaning (see `loss`)."""
    if labels.numel() and labels.max() > 255:
        raise ValueError(
            f"A segmentation map contains {int(labels.max())}, and do_reduce_labels is true; expected at most 255, "
            "because 255 marks ignored pixels. Reduce these labels yourself, and ignore pixels with -1."
        )
    return torch.where((labels == 0) | (labels == 255), 255, torch.where(labels > 0, labels - 1, labels))


def _check_integers(**values: Any) -> None:
    for name, value in values.items():
        if value is not None:
            checked_integer(value, name, least=1)


def _check_resample(resample: Any) -> None:
    """Raises an error for an unknown filter: PIL refuses some, and transformers takes a bilinear one for others."""
    is_filter = isinstance(resample, Integral) and resample in tuple(PILImageResampling)
    # torchvision's own enum, which is imported with torchvision only
    if not is_filter and type(resample).__name__ != "InterpolationMode":
        raise ValueError(
            f"resample is {quoted(resample)}; expected a filter of PIL, such as PIL.Image.Resampling.BICUBIC, or its "
            "number from 0 to 5."
        )


def _check_rescale_factor(factor: Any) -> None:
    if not is_number(factor):
        raise ValueError(f"rescale_factor is {quoted(factor)}; expected a number, such as 1/255.")


def _check_statistics(statistics: dict[str, Any], num_channels: int | None = None) -> None:
    """Raises an error for a mean or a standard deviation that would make pixels infinite, or is of other channels.

    The number of channels is that of the images: 3, or what they have if they are not converted to RGB.
    """
    for name, given in statistics.items():
        values = given if isinstance(given, (list, tuple)) else [given]
        if not values or not all(is_number(value) for value in values):
            raise ValueError(
                f"{name} is {quoted(given)}; expected one finite number, or one for each channel. Pass the {name} that "
                "the model was trained with."
            )
        if name == "image_std" and min(values) <= 0:
            raise ValueError(
                f"{name} is {quoted(given)}; expected finite numbers, all positive. Pass the {name} of the model."
            )
        if num_channels and len(values) not in (1, num_channels):
            raise ValueError(
                f"{name} has {len(values)} numbers; expected 1 or {num_channels}, the channels of the image. Convert "
                f"the image (do_convert_rgb), or pass a {name} that fits."
            )


def _checked_logits(
    outputs: Any, score_function: Any, temperature: Any, threshold: Any, none_label: Any
) -> torch.Tensor:
    logits = checked_tensor(getattr(outputs, "logits", None), "outputs.logits", "floats")
    checked_choice(score_function, "score_function", get_args(ScoreFunction))
    if not is_number(temperature, 1e-30):
        raise ValueError(f"`temperature` is {quoted(temperature)}; expected a positive number.")
    if threshold is not None and not is_number(threshold, 0, 1):
        raise ValueError(
            f"`threshold` is {quoted(threshold)}; expected a number in [0, 1], because scores are in [0, 1]."
        )
    if not -(2**31) <= checked_integer(none_label, "none_label") < 2**31:
        raise ValueError(f"`none_label` is {none_label}; expected a 32-bit integer, because label maps are int32.")
    if logits.ndim != 4 or 0 in logits.shape[1:]:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; expected (B, C, h, w) with C, h, w >= 1.")
    if not is_finite(logits):  # else they would get labels
        raise ValueError(
            "logits contain NaN or infinity; expected finite numbers. Load the model in float32 or bfloat16; "
            "float16 overflows."
        )
    return logits


def _target_sizes(target_sizes: Any, logits: torch.Tensor) -> list[tuple[int, int]]:
    if target_sizes is None:
        return [size_of(logits)] * len(logits)
    sizes = target_sizes.tolist() if isinstance(target_sizes, (torch.Tensor, np.ndarray)) else target_sizes
    if not isinstance(sizes, (list, tuple)) or not all(isinstance(size, (list, tuple)) for size in sizes):
        raise ValueError(
            f"target_sizes is {quoted(target_sizes)}; expected a list of (height, width), one per image. Pass the "
            "sizes of the original images."
        )
    if len(sizes) != len(logits):
        raise ValueError(
            f"Got {len(sizes)} target sizes for {len(logits)} images; expected one (height, width) per image."
        )
    for size in sizes:
        if len(size) != 2 or any(not is_number(side, 1, MAX_SIDE) or side != int(side) for side in size):
            raise ValueError(
                f"A target size is {quoted(tuple(size))}; expected (height, width) in whole pixels, at least 1. "
                "Round the size."
            )
    return [(int(height), int(width)) for height, width in sizes]


__all__ = ["Dinov3SegImageProcessor", "Dinov3SegImageProcessorKwargs"]
