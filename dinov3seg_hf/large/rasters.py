# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Reads regions of image files, and writes label maps as tiled TIFF, with rasterio (GDAL).

Georeference is copied, never changed. GDAL reads TIFF, JPEG 2000, PNG, JPEG, WebP and GIF region by region; an array
`(H, W, C)`, also of `np.memmap` or zarr, is read by slices.

An image of a stranger must not lead to other files of the machine, nor to addresses. GDAL follows them in formats that
name files (VRT, whatever the ending), in overviews and masks beside the image, and in a tag.
"""

import errno
import json
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..extras import require_extra
from ..model.checks import checked_integer, load_json, plain_reason, quoted
from ..model.image_formats import safe_formats
from ..model.image_input import MAX_IMAGE_PIXELS, ImageError, read_pixels
from ..model.vocabulary import IGNORE_8_BIT, IGNORE_16_BIT
from ..model.windows import Box
from ..visualization.colors import NONE_COLOR
from .parts import digest

# The drivers of which nothing leads to another file: formats that name none, read without the files beside an image.
# Other drivers of JPEG 2000 exist, and were not tried. That of BMP always looks for overviews and masks.
DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "WEBP", "GIF")
PLACE_DRIVERS = (*DRIVERS, "BMP")
FORMATS = "TIFF, JPEG 2000, PNG, JPEG, WebP or GIF"
# GDAL keeps decoded blocks in memory, by default 5 % of the memory of the machine.
CACHE_MIB = 64
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_any_size = threading.Lock()  # of the limit of PIL, which holds for the whole process
CLIP = "gdal_translate -ot Byte -scale 0 {} 0 255 INPUT OUTPUT, which clips them."


class Source(Protocol):
    """An image of which regions can be read.

    Attributes:
        size: (height, width) in pixels.
        georeference: Options of a new file at the same place.
    """

    size: tuple[int, int]
    georeference: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the image, as values of JSON."""

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads a region: RGB, uint8 `(h, w, 3)`, and where it has data, bool `(h, w)`; `None`: everywhere."""

    def overview(self, size: tuple[int, int]) -> np.ndarray:
        """Reads the whole image, shrunk to `size`: RGB, uint8 `(*size, 3)`."""


class ArraySource:
    """An array `(H, W, C)` or `(H, W)` that is read by slices."""

    def __init__(self, array: Any):
        if not all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
            raise ImageError(
                f"The image is of type {type(array).__name__}; expected a path, or an array (H, W, C) or (H, W). "
                "Convert it with numpy.asarray."
            )
        if len(array.shape) not in (2, 3) or 0 in array.shape:
            raise ImageError(f"The image has shape {tuple(array.shape)}; expected (H, W, C) or (H, W).")
        self._array = array
        self.size = (int(array.shape[0]), int(array.shape[1]))
        self.georeference: dict[str, Any] = {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Shape, dtype and digest: reads the whole array."""
        return {"array": [*map(int, self._array.shape), str(self._array.dtype), digest(self._array)]}

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
        top, left, height, width = box
        return _rgb(np.asarray(self._array[top : top + height, left : left + width])), None

    def overview(self, size: tuple[int, int]) -> np.ndarray:
        """Averages a band of rows at a time."""
        height, width = self.size
        rows = [(height * row // size[0], max(height * (row + 1) // size[0], 1)) for row in range(size[0])]
        columns = np.array([width * column // size[1] for column in range(size[1])])
        bands = []
        for first, last in rows:
            band = _rgb(np.asarray(self._array[min(first, last - 1) : last])).mean(axis=0)  # (W, 3)
            ends = np.append(np.maximum(columns[1:], columns[:-1] + 1), width)
            sums = np.concatenate([np.zeros((1, 3)), band.cumsum(axis=0)])
            bands.append((sums[np.minimum(ends, width)] - sums[columns]) / (ends - columns)[:, None])
        return np.stack(bands).round().astype(np.uint8)


class FileSource:
    """An image file that GDAL reads.

    Args:
        path: The file.
        bands: The numbers (from 1) of the bands that show red, green and blue, or of the only one. Default: all, of
            files with 1, 3 or 4 bands (gray, RGB, RGBA).

    Raises:
        ValueError: If the file cannot be read, or its bands or its rotation are not supported.
    """

    def __init__(self, path: str | os.PathLike[str], bands: Sequence[int] | None = None):
        import rasterio
        from rasterio.enums import ColorInterp, MaskFlags

        refuse_rotation(path)
        try:
            with open_local(path, beside=True) as described:
                self.georeference, no_data = _place_of(described), described.nodatavals
            self._file = open_local(path)
        except rasterio.errors.RasterioError as error:
            reason = plain_reason(error).rstrip(".")
            raise ImageError(
                f"The image {str(path)!r} cannot be read as {FORMATS} ({reason}). Save it as TIFF."
            ) from error
        file = self._file
        self.size = (file.height, file.width)
        self._path, self._bands = path, _checked_bands(bands) or list(file.indexes)
        is_color = all(file.colorinterp[i - 1] != ColorInterp.alpha for i in self._bands[:3] if 1 <= i <= file.count)
        if (
            not set(self._bands) <= set(file.indexes)
            or len(self._bands) not in (1, 3, 4)
            or not is_color
            or (len(self._bands) == 4 and file.colorinterp[self._bands[3] - 1] != ColorInterp.alpha)
        ):
            raise ImageError(
                f"The image {str(path)!r} has {file.count} bands ({', '.join(c.name for c in file.colorinterp)}) and "
                f"bands is {quoted(bands)}; expected the number of 1 or 3 bands that show gray or red, green and blue. "
                "Pass bands (--bands), for example 1 2 3."
            )
        self._colors = (
            file.colormap(self._bands[0]) if file.colorinterp[self._bands[0] - 1] == ColorInterp.palette else None
        )
        self._has_mask = any(MaskFlags.all_valid not in flags for flags in file.mask_flag_enums)
        # of each band; `None`: the image says itself where it has data, or nothing does
        self._no_data = no_data if not self._has_mask and any(value is not None for value in no_data) else None
        stat = os.stat(path)
        self.identity: dict[str, Any] = {
            "path": str(Path(path).resolve()),
            "bytes": stat.st_size,
            "time": stat.st_mtime_ns,
            "bands": self._bands,
        }

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
        from rasterio.windows import Window

        window = Window(box[1], box[0], box[3], box[2])
        with self._read_errors():
            mask = self._file.dataset_mask(window=window) > 0 if self._has_mask else None
            if self._no_data is not None:
                mask = self._has_data(list(self._file.indexes), window=window).any(axis=0)
            return self._pixels(self._colors_only(self._file.read(self._bands, window=window), window=window)), mask

    def overview(self, size: tuple[int, int]) -> np.ndarray:
        from rasterio.enums import Resampling

        with self._read_errors():
            if self._colors is not None:  # indices cannot be averaged
                return self._pixels(self._file.read(self._bands, out_shape=(1, *size)))
            shape = (len(self._bands), *size)
            # an average would blend values of no data, of which only the file beside the image knows
            how = Resampling.average if self._no_data is None else Resampling.nearest
            bands = self._file.read(self._bands, out_shape=shape, resampling=how)
            return self._pixels(self._colors_only(bands, out_shape=shape))

    def check_values(self) -> None:
        """Reads a file once, whole, if its type has values that are no colors: one of them would end a run of hours.

        Raises:
            ValueError: If there is such a value, or the file is damaged.
        """
        if self._colors is not None or {self._file.dtypes[band - 1] for band in self._bands} <= {"uint8", "uint16"}:
            return
        found: list[np.ndarray] = []  # the lowest and highest value so far, and NaN if there is one
        for _, window in self._file.block_windows(self._bands[0]):
            with self._read_errors():
                bands = self._colors_only(self._file.read(self._bands, window=window), window=window)
            values = np.concatenate([*found, bands.min(keepdims=True).ravel(), bands.max(keepdims=True).ravel()])
            found = [np.array([values.min(), values.max()], bands.dtype)]
        try:
            _rgb(found[0][None])
        except ImageError as error:
            raise ImageError(
                f"{str(self._path)!r} has values that are no colors. {error} For a few values out of range, run: "
                f"{CLIP.format(1 if found[0].dtype.kind == 'f' else 255)}"
            ) from error

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        from rasterio.errors import RasterioError

        try:
            yield
        except RasterioError as error:
            raise ImageError(
                f"The image {str(self._path)!r} cannot be decoded ({plain_reason(error.__cause__ or error)}). It may "
                "be truncated or damaged. Save or download it again."
            ) from error

    def close(self) -> None:
        self._file.close()

    def _colors_only(self, bands: np.ndarray, **place: Any) -> np.ndarray:
        """Replaces values by 0 that say "no data" and are no colors, such as NaN or -9999, which `_rgb` refuses.

        Args:
            bands: `(C, h, w)`; changed.
            place: What the bands were read with.
        """
        has_none = self._has_mask or self._no_data is not None
        if has_none and bands.dtype not in (np.uint8, np.uint16):  # of which all values are colors
            largest = 1 if bands.dtype.kind == "f" else 255
            is_color = (bands >= 0) & (bands <= largest)  # NaN is none
            bands[~is_color & ~self._has_data(self._bands, **place)] = 0
        return bands

    def _has_data(self, bands: list[int], **place: Any) -> np.ndarray:
        """Where each of the bands has data: bool `(C, h, w)`."""
        if self._no_data is None:
            return self._file.read_masks(bands, **place) > 0
        found = self._file.read(bands, **place)
        has_data = np.ones(found.shape, bool)
        for number, band in enumerate(bands):
            value = self._no_data[band - 1]
            if value is not None:
                has_data[number] = ~np.isnan(found[number]) if np.isnan(value) else found[number] != value
        return has_data

    def _pixels(self, bands: np.ndarray) -> np.ndarray:
        """Converts bands `(C, h, w)` to RGB `(h, w, 3)`."""
        if self._colors is not None:
            table = np.zeros((max(self._colors) + 1, 3), np.uint8)
            for index, color in self._colors.items():
                table[index] = color[:3]
            return table[np.minimum(bands[0], len(table) - 1)]
        return _rgb(bands.transpose(1, 2, 0))


def _checked_bands(bands: Any) -> list[int]:
    """Returns the numbers of the bands; an empty list if none are given."""
    if bands is None:
        return []
    if isinstance(bands, (str, bytes)) or not isinstance(bands, Sequence) or not bands:
        raise ValueError(f"bands is {quoted(bands)}; expected a list of the numbers of 1 or 3 bands, from 1.")
    return [checked_integer(band, "A band", least=1) for band in bands]


def open_local(path: str | os.PathLike[str], beside: bool = False) -> Any:
    """Opens a raster of this machine that leads to no other file. Use it inside `quiet_gdal`.

    Args:
        path: The file. rasterio would take `zip:...` and the like for archives and addresses.
        beside: Whether to read the files beside the image that say its place and its value of no data: `.aux.xml`,
            which GDAL calls PAM, and world files. They can also name overviews, so read no pixels and no masks then.

    Raises:
        ValueError: If a tag names another file.
        rasterio.errors.RasterioError: If the file does not exist, or has another format.
    """
    import rasterio
    from rasterio.io import DatasetReader  # `rasterio.open` takes one driver

    if not Path(path).is_file():
        raise rasterio.errors.RasterioIOError("no such file")
    local, drivers = os.path.abspath(path), list(PLACE_DRIVERS if beside else DRIVERS)
    if beside:
        with rasterio.Env(GDAL_PAM_ENABLED=True, GDAL_DISABLE_READDIR_ON_OPEN=False):
            return DatasetReader(local, driver=drivers)
    file = DatasetReader(local, driver=drivers)
    if file.tags(ns="OVERVIEWS"):
        file.close()
        raise ImageError(
            f"{str(path)!r} names another file to read instead of it (tag OVERVIEW_FILE); expected an image that is "
            "whole. Save it again, with overviews inside of it."
        )
    return file


def _place_of(file: Any) -> dict[str, Any]:
    """The transform of an open file, or its ground control points, with the reference system; empty: none.

    The reference system is `None` if the file does not say it: a world file (.tfw, .jgw) is a transform alone.
    """
    if not file.transform.is_identity:
        return {"crs": file.crs, "transform": file.transform}
    return {"gcps": file.gcps[0], "crs": file.gcps[1]} if file.gcps[0] else {}


def georeference_of(image: str | os.PathLike[str] | None, size: tuple[int, int]) -> dict[str, Any]:
    """Returns the place of an image on earth: the options `crs` and `transform`, or `gcps` and `crs`, of a new raster.

    Args:
        image: The file. `None`, and what is no local file, has no place.
        size: (height, width) of the upright image, whose label map gets the place.

    Raises:
        ValueError: If the image has a place, but is stored rotated or in another size.
    """
    if image is None or not Path(image).is_file():
        return {}
    import rasterio

    with quiet_gdal():
        try:
            with open_local(image, beside=True) as file:
                place, stored = _place_of(file), (file.height, file.width)
        except rasterio.errors.RasterioError:  # a format that PIL reads and GDAL does not
            return {}
    if place:
        refuse_rotation(image)
        if stored != size:
            raise ImageError(
                f"The image {str(image)!r} is {stored[0]} x {stored[1]} and its label map {size[0]} x {size[1]} "
                "(height x width); expected one size, because its georeference is copied. Segment it at its own size."
            )
    return place


def _rgb(array: np.ndarray) -> np.ndarray:
    """Converts gray, RGB or RGBA of any supported dtype to uint8 `(h, w, 3)`; see `read_pixels`."""
    array = array[..., None] if array.ndim == 2 else array
    pixels = read_pixels(array, max_pixels=array.shape[0] * array.shape[1], channel_dim="channels_last")
    return pixels.permute(1, 2, 0).numpy()


def refuse_rotation(path: str | os.PathLike[str]) -> None:
    """Raises an error if EXIF says that the image is rotated, which GDAL ignores.

    Raises:
        ValueError: If the image is rotated, or does not exist.
    """
    from PIL import Image

    if not Path(path).is_file():
        raise ImageError(f"The image {str(path)!r} was not found (current directory: {os.getcwd()!r}). Check the path.")
    with _any_size:  # two threads would restore the value of each other
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only the header is read
        try:
            with Image.open(path, formats=safe_formats()) as image:
                # of a PNG, `getexif` decodes all pixels: the tag can stand behind them
                is_small = image.width * image.height <= MAX_IMAGE_PIXELS
                exif = image.getexif() if is_small else Image.Image.getexif(image)
                orientation = exif.get(ORIENTATION, 1)
        except Exception:  # a format that PIL does not know has no such tag
            return
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if orientation != 1:
        raise ImageError(
            f"The image {str(path)!r} is stored rotated (EXIF orientation {orientation}), which is not supported for "
            "tiles. Save it upright, or segment it without tiles."
        )


@contextmanager
def quiet_gdal() -> Iterator[None]:
    """GDAL with little memory, without files beside those that it reads and writes, and without some warnings.

    The warnings are of images without a place on earth.
    """
    import rasterio

    options = {"GDAL_PAM_ENABLED": False, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MIB, **options), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


@contextmanager
def opened_labels(path: str | os.PathLike[str]) -> Iterator[tuple[Any, list[str], int, dict[str, Any]]]:
    """Opens a label map that `describe_labels` has described: its band, names, value of no label and place on earth.

    Raises:
        ValueError: If the file cannot be read, or is no such label map.
    """
    import rasterio

    with quiet_gdal():
        try:
            with open_local(path) as file:
                tags = file.tags()
                if "labels" not in tags or "none" not in tags:
                    raise ImageError(
                        f"{str(path)!r} has no tag `labels` with the names of its values; expected a label map that "
                        "this package has written. Segment the image again."
                    )
                names, none = _names_in(tags, str(path))
                yield rasterio.band(file, 1), names, none, _place_of(file)
        except rasterio.errors.RasterioError as error:
            reason = plain_reason(error).rstrip(".")
            raise ImageError(f"The label map {str(path)!r} cannot be read: {reason}. Check the path.") from error


def _names_in(tags: Mapping[str, str], path: str) -> tuple[list[str], int]:
    """Returns the names of the labels and the value of no label in the tags of a label map."""
    try:
        names, none = load_json(tags["labels"]), int(tags["none"])
    except ValueError:  # somebody else has written the tags
        names, none = None, 0
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ImageError(
            f"The tags of {path!r} are labels={quoted(tags['labels'])} and none={quoted(tags['none'])}; expected a "
            "list of names and a number. Segment the image again."
        )
    return names, none


@contextmanager
def open_source(image: Any, bands: Sequence[int] | None = None) -> Iterator[Source]:
    """Opens a path or an array; see `FileSource` and `ArraySource`.

    Raises:
        ValueError: If the image cannot be read.
    """
    require_extra("large", "rasterio", what="Segmentation by tiles")
    with quiet_gdal():
        if not isinstance(image, (str, os.PathLike)):
            yield ArraySource(image)
            return
        source = FileSource(image, bands)
        try:
            source.check_values()
            yield source
        finally:
            source.close()


def label_dtype(num_labels: int) -> tuple[type[np.unsignedinteger], int]:
    """The dtype of a label map in a file, and its value for none of the labels.

    Raises:
        ValueError: If there are too many labels.
    """
    if num_labels > IGNORE_16_BIT:
        raise ValueError(f"Got {num_labels} labels; expected at most {IGNORE_16_BIT}, because a TIFF has 16 bits.")
    return (np.uint8, IGNORE_8_BIT) if num_labels <= IGNORE_8_BIT else (np.uint16, IGNORE_16_BIT)


@contextmanager
def new_raster(
    path: Path, size: tuple[int, ...], dtype: Any, block: int, georeference: dict[str, Any], nodata: int | None
) -> Iterator[Any]:
    """Opens a new tiled TIFF with one band, lossless, and renames it to `path` when it is complete.

    Raises:
        OSError: If not all of it was written, because the disk is full, for example.
    """
    import rasterio

    temporary = path.with_name(f".{path.name}.writing.tif")
    options = {"driver": "GTiff", "tiled": True, "compress": "deflate", "predictor": 1, "bigtiff": "if_safer"}
    temporary.unlink(missing_ok=True)  # GDAL would follow a link, and write elsewhere
    try:
        with rasterio.open(
            temporary,
            "w",
            height=size[0],
            width=size[1],
            count=1,
            dtype=np.dtype(dtype).name,
            blockxsize=block,
            blockysize=block,
            nodata=nodata,
            **options,
            **georeference,
        ) as file:
            yield file
        _read_back(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_back(path: Path) -> None:
    """Reads all blocks of a file that was written: GDAL tells nobody that a disk was full when it closed the file."""
    import rasterio

    try:
        with open_local(path) as file:
            for _, window in file.block_windows(1):
                file.read(1, window=window)
    except rasterio.errors.RasterioError as error:
        raise OSError(errno.ENOSPC, "not all of it was written; the disk may be full", str(path)) from error


def describe_labels(file: Any, names: Sequence[str], palette: np.ndarray, none_value: int) -> None:
    """Stores the names of the labels in a file and, with up to 255 labels, their colors."""
    file.update_tags(labels=json.dumps(list(names), ensure_ascii=False), none=str(none_value))
    if none_value == IGNORE_8_BIT:
        colors = {index: (*map(int, palette[index]), 255) for index in range(len(names))}
        file.write_colormap(1, {**colors, none_value: (*NONE_COLOR, 255)})
