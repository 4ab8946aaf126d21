# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Segments an image tile by tile: every tile local-global, with the features of the whole image as its global view.

The whole image is shrunk to the size of a tile and encoded once. The patch features of a tile, or of its windows, are
averaged with the features of the whole image at the place of the tile (the paper's local-global inference, where the
global view is the whole image); refinement, correlation and decoder run in the tile.
"""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..about import __version__
from ..model.checks import SeamWarning, check_flags, checked_integer, is_number, is_out_of_memory, quoted
from ..model.fingerprints import weights_fingerprint
from ..model.image_stages import EncodedImage, PreparedImage
from ..model.inference_settings import InferenceSettings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.pipeline_labels import Labels
from ..model.refined_label_maps import REACH
from ..model.text_embeddings import TextEmbeddings
from ..model.windows import sample_region
from ..visualization.colors import label_palette
from ..visualization.files import check_writable
from .parts import Parts, digest
from .rasters import Source, describe_labels, label_dtype, new_raster, open_source
from .tiles import BLOCK_DIVISOR, Tile, plan_tiles

TIFF_ENDINGS = (".tif", ".tiff")
# Scores in files are 16-bit integers; this value is a score of 1.
SCORE_SCALE = 65535


@dataclass(frozen=True)
class LargeResult:
    """What a large image shows.

    Attributes:
        size: (height, width) in pixels.
        num_tiles: The number of tiles.
        num_resumed: How many of them an earlier run had finished.
        num_pixels: The number of pixels of each label found, by name, the most frequent first.
        scores: The mean score of each label found, by name.
        num_none: The number of pixels without a label.
    """

    size: tuple[int, int]
    num_tiles: int
    num_resumed: int
    num_pixels: dict[str, int]
    scores: dict[str, float]
    num_none: int


def segment_large(
    pipe: OpenVocabularySegmentationPipeline,
    image: Any,
    candidate_labels: Labels,
    output: str | os.PathLike[str],
    *,
    scores: str | os.PathLike[str] | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    scale: float = 1.0,
    context: bool = True,
    bands: Sequence[int] | None = None,
    progress: bool = True,
    **options: Any,
) -> LargeResult:
    """Segments an image that may be larger than memory, and writes its label map as a tiled TIFF.

    Memory does not grow with the image. Finished tiles are kept in `<output>.parts` until the run is complete: run it
    again to go on after an interruption.

    Args:
        pipe: The pipeline.
        image: A path that GDAL reads (TIFF, JPEG 2000, PNG, JPEG, ...), or an array `(H, W, C)` or `(H, W)`, also of
            `np.memmap` or zarr, which is read by slices.
        candidate_labels: See the pipeline.
        output: The label map (.tif): uint8 for up to 255 labels (255 is none of these), else uint16 (65535), with the
            georeference of the image, the names of the labels (tag `labels`) and their colors.
        scores: The score of each pixel (.tif): uint16, 65535 is a score of 1. Default: not written.
        tile: Side of a tile in pixels of the image, with its overlap. Default: what the image processor resizes images
            to (its longest edge), divided by `scale`; larger if the default overlap is.
        overlap: Pixels on each side of a tile whose labels are not kept. Default: an eighth of the tile; with
            `refine="pixels"` at least the 80 pixels that it looks around, divided by `scale`.
        scale: Size of a tile for the model, as a multiple of its size in the image: 0.5 halves each side.
        context: Whether the whole image is the global view of each tile. Otherwise, a tile is segmented for itself.
        bands: The bands that show red, green and blue, for files with other bands (numbers from 1).
        progress: Whether to show a progress bar.
        **options: Options of `InferenceSettings` except `size`; `inference` is `"whole"` or `"local-global"`
            (the windows of each tile).

    Returns:
        The labels found.

    Raises:
        ValueError: If an option is invalid, the image cannot be read, a file cannot be written, or unfinished parts
            belong to another image or other settings.
        MemoryError: If a tile needs too much memory.
    """
    files = _checked_files(image, output, scores)
    check_flags(context=context)
    settings = _checked_settings(pipe, options)
    text = pipe.encode_labels(candidate_labels)
    if settings.background == "auto" and settings.head == "dinotxt" and text.calibration is None:
        raise ValueError(
            'background is "auto", whose bound the zero-shot head takes from a whole image; tiles would have different '
            "bounds. Calibrate the labels (dinov3seg calibrate), or leave background out."
        )
    pipe.check_calibration(text, settings)
    with open_source(image, bands) as source:
        reach = REACH if settings.refine == "pixels" else 0
        core, overlap, region = tile_sizes(pipe.image_processor, tile, overlap, scale, reach)
        tiles = plan_tiles(source.size, core, overlap)
        _warn_of_seams(len(tiles), overlap, reach / scale)
        segmenter = _TileSegmenter(pipe, source, text, settings, scale, region, context)
        run = {
            "image": {**source.identity, "overview": digest(segmenter.overview)},
            "labels": [list(text.names), text.fingerprint, text.calibration and text.calibration.to_dict()],
            "model": [weights_fingerprint(pipe.model), __version__],
            "settings": {**asdict(settings), "scale": scale, "context": context},
            "tiles": [core, overlap, region],
        }
        with Parts(files[0], run) as parts:
            done = sum(parts.path(one).exists() for one in tiles)
            for one in tqdm(tiles, desc="Segmenting", unit="tile", disable=not progress):
                if not parts.path(one).exists():
                    parts.save(one, *segmenter.segment(one))
            counts, sums = _write(files, source, tiles, parts, text, core)
            parts.remove()
    return LargeResult(source.size, len(tiles), done, *_by_name(text.names, counts, sums), int(counts[-1]))


def _by_name(names: Sequence[str], counts: np.ndarray, sums: np.ndarray) -> tuple[dict[str, int], dict[str, float]]:
    """Returns the pixels and the mean score of each label found, by name, the most frequent first."""
    found = [index for index in np.argsort(-counts[:-1], kind="stable").tolist() if counts[index]]
    num_pixels = {names[index]: int(counts[index]) for index in found}
    return num_pixels, {names[index]: float(sums[index] / counts[index] / SCORE_SCALE) for index in found}


def tile_sizes(
    image_processor: Any, tile: int | None, overlap: int | None, scale: float, reach: int = 0
) -> tuple[int, int, int]:
    """Returns the side of a core, the overlap on each side, and their sum, the side of a region, in pixels.

    Args:
        image_processor: The image processor, whose size determines the default tile.
        tile: See `segment_large`.
        overlap: See `segment_large`.
        scale: See `segment_large`.
        reach: How many pixels around it a label depends on, in pixels that the model sees. The default overlap is at
            least as large, and the default tile keeps its core.

    Raises:
        ValueError: If a size or the scale is invalid.
    """
    if not is_number(scale, 0, 16) or scale == 0:
        raise ValueError(f"scale is {quoted(scale)}; expected a number above 0 and at most 16.")
    for name, value in (("tile", tile), ("overlap", overlap)):
        if value is not None:
            checked_integer(value, name)
    if is_default := tile is None:
        size = image_processor.size
        longest = size.get("longest_edge") or size.get("height") or size.get("shortest_edge")
        tile = max(round(longest / scale), 4 * BLOCK_DIVISOR)
    margin = tile // 8 if overlap is None else overlap
    core = (tile - 2 * margin) // BLOCK_DIVISOR * BLOCK_DIVISOR
    if grows := overlap is None and (tile - core) // 2 < reach / scale:
        margin = math.ceil(reach / scale)
        tile = core + 2 * margin if is_default else tile
        core = (tile - 2 * margin) // BLOCK_DIVISOR * BLOCK_DIVISOR
    if margin < 0 or core < BLOCK_DIVISOR:
        reason = ', as far as refine="pixels" looks,' if grows else ""
        raise ValueError(
            f"A tile of {tile} pixels with an overlap of {margin} on each side{reason} keeps {tile - 2 * margin}; "
            f"expected at least {BLOCK_DIVISOR}. Choose a larger tile or a smaller overlap."
        )
    margin = (tile - core) // 2
    return core, margin, core + 2 * margin


def _warn_of_seams(num_tiles: int, overlap: int, reach: float) -> None:
    if num_tiles > 1 and overlap < reach:
        warnings.warn(
            f'overlap is {overlap}, but refine="pixels" looks {math.ceil(reach)} pixels of the image around, so tiles '
            "may have seams; leave out the overlap, or pass at least as many pixels.",
            SeamWarning,
            stacklevel=3,
        )


class _TileSegmenter:
    """Segments one tile after the other.

    Attributes:
        overview: The shrunk image, uint8 `(h, w, 3)`.
    """

    def __init__(
        self,
        pipe: OpenVocabularySegmentationPipeline,
        source: Source,
        text: TextEmbeddings,
        settings: InferenceSettings,
        scale: float,
        region: int,
        context: bool,
    ):
        self._pipe, self._source, self._text, self._settings, self._scale = pipe, source, text, settings, scale
        shrink = min(scale, 1.0, region * scale / max(source.size))  # for the model, not larger than a tile
        height, width = (max(1, round(side * shrink)) for side in source.size)
        self.overview = source.overview((height, width))
        self._dtype, self._none = label_dtype(len(text))
        self._context: torch.Tensor | None = None
        if context:
            settings = settings.updated(inference="whole", size=self._size_for_model((height, width), 1.0))
            prepared = self._prepare(self.overview, settings)
            self._context = self._features(prepared, head="dinotxt", refine_features=False).patch_features

    def segment(self, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels and the scores (uint16) of the core."""
        pixels, has_data = self._source.read(tile.region)
        rows, columns = tile.core_in_region
        if has_data is not None and not has_data[rows, columns].any():
            return np.full(tile.core[2:], self._none, self._dtype), np.zeros(tile.core[2:], np.uint16)
        settings = self._settings.updated(size=self._size_for_model(tile.region[2:], self._scale))
        prepared = self._prepare(pixels, settings)
        context = None
        if self._context is not None:
            patch = self._pipe.model.config.vision_config.patch_size
            grid = (math.ceil(prepared.pixels.shape[1] / patch), math.ceil(prepared.pixels.shape[2] / patch))
            context = sample_region(self._context, tile.region, self._source.size, grid)
        features = self._features(
            prepared, head=settings.head, refine_features=settings.refine_features, context_features=context
        )
        encoded = EncodedImage.of(features, prepared, settings, self._pipe.model)
        (labeled,) = self._pipe.segment_prepared([encoded], self._text, settings)
        label_map, score_map = labeled.label_map[rows, columns], labeled.score_map[rows, columns]
        is_none = label_map < 0
        if has_data is not None:
            is_none |= ~has_data[rows, columns]
        labels = np.where(is_none, self._none, label_map).astype(self._dtype)
        return labels, np.where(is_none, 0, (score_map * SCORE_SCALE).round()).astype(np.uint16)

    def _size_for_model(self, size: tuple[int, int], scale: float) -> dict[str, int]:
        divisor = self._pipe.image_processor.size_divisor or 1
        height, width = (max(1, round(side * scale / divisor)) * divisor for side in size)
        return {"height": height, "width": width}

    def _prepare(self, pixels: np.ndarray, settings: InferenceSettings) -> PreparedImage:
        prepared = self._pipe.prepare(pixels, settings)
        assert isinstance(prepared, PreparedImage)  # made from pixels
        return prepared

    def _features(self, prepared: PreparedImage, **options: Any) -> Any:
        def batch(key: str) -> torch.Tensor | None:
            tensor = prepared.tensors.get(key)
            return None if tensor is None else tensor.to(self._pipe.device, self._pipe.model.dtype)

        try:
            with torch.no_grad():
                return self._pipe.model.get_image_features(
                    batch("pixel_values"),  # type: ignore[arg-type]  # always there
                    batch("window_pixel_values"),
                    prepared.tensors.get("window_boxes"),
                    patch_source=self._settings.patch_source,
                    **options,
                )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            height, width = prepared.pixels.shape[1:]
            raise MemoryError(
                f"A tile of {height} x {width} pixels for the model (height x width) needs more memory than available "
                f"on {self._pipe.device}. Choose smaller tiles (--tile), or a smaller scale."
            ) from error


def _checked_settings(pipe: OpenVocabularySegmentationPipeline, options: dict[str, Any]) -> InferenceSettings:
    if "size" in options:
        raise ValueError("Got size, which is the size of a whole image; expected tile and scale. Leave size out.")
    settings = pipe.settings.updated(**options).resolved(pipe.model.config, pipe.image_processor)
    if settings.inference == "slide":
        raise ValueError(
            'inference is "slide"; expected "whole" or "local-global", because tiles already are windows of the image.'
        )
    return settings


def _checked_files(image: Any, output: str | os.PathLike[str], scores: str | os.PathLike[str] | None) -> list[Path]:
    """The files to write: labels and, if asked for, scores."""
    given = [output] if scores is None else [output, scores]
    for path in given:
        check_writable(path, TIFF_ENDINGS)
    files = [Path(path) for path in given]
    paths = [*files, *([Path(image)] if isinstance(image, (str, os.PathLike)) else [])]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("The image, output and scores have the same path; expected different ones. Rename one.")
    return files


def _write(
    files: Sequence[Path], source: Source, tiles: Sequence[Tile], parts: Parts, text: TextEmbeddings, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the files from the parts, and counts the pixels and sums the scores of each label, and of none."""
    from rasterio.windows import Window

    dtype, none = label_dtype(len(text))
    kinds = [("labels", dtype, none), ("scores", np.uint16, None)]
    counts, sums = np.zeros(len(text) + 1, np.int64), np.zeros(len(text) + 1)
    for path, (kind, kind_dtype, nodata) in zip(files, kinds):
        with new_raster(path, source.size, kind_dtype, block, source.georeference, nodata) as file:
            if kind == "labels":
                describe_labels(file, text.names, label_palette(text.names), none)
            else:
                file.scales = (1 / SCORE_SCALE,)
            for one in tiles:
                labels, scores = parts.load(one)
                top, left, height, width = one.core
                file.write(labels if kind == "labels" else scores, 1, window=Window(left, top, width, height))
                if kind == "labels":
                    places = np.where(labels == none, len(text), labels).ravel().astype(np.int64)
                    counts += np.bincount(places, minlength=len(counts))
                    sums += np.bincount(places, weights=scores.ravel(), minlength=len(sums))
    return counts, sums
