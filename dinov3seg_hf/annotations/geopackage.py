# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`geopackage`: the parts of all labels as polygons in a GeoPackage, in the reference system of the images.

The layer `labels` has the columns image, label (the name), index (its number), num_pixels and score. Coordinates are
those of the images, never reprojected, so all images of a file have one reference system. Written with pyogrio (GDAL).
"""

import contextlib
import itertools
import json
import os
import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require_extra
from ..large.rasters import georeference_of, opened_labels
from ..model.checks import checked_path, items_of
from ..model.files import FREE_SPACE, disk_errors_as_value_errors
from ..model.vocabulary import Vocabulary
from ..visualization.files import check_writable
from .image import AnnotatedImage, Cleaned, ExportOptions
from .outlines import outline, simplified
from .writer import FileWriter

if TYPE_CHECKING:
    from affine import Affine
    from shapely import Polygon

LAYER = "labels"
FIELDS: dict[str, Any] = {
    "image": object,
    "label": object,
    "index": np.int32,
    "num_pixels": np.int64,
    "score": np.float64,
}
# Polygons that wait in memory until they are written.
CHUNK = 10_000


class GeopackageWriter(FileWriter):
    """Writes one layer with the polygons of all images, in the order in which the images were done."""

    name = "geopackage"
    needs = ("pyogrio", "rasterio", "scipy", "shapely")
    extra = "geo"
    suffixes = (".gpkg",)

    def __init__(self, path: str | os.PathLike, vocabulary: Vocabulary, options: ExportOptions | None = None):
        super().__init__(path, vocabulary, options)
        self._layer = _Layer(self.path)
        self._place: dict[str, Any] = {}  # of the image that is added

    def resume(self, run: Mapping[str, Any], sources: Mapping[str, Any]) -> frozenset[str]:
        """See `AnnotationWriter.resume`; the first image that is done has set the reference system."""
        done = super().resume(run, sources)
        # the same name after a kill, so no second one stays behind; the journal keeps other processes out
        self._layer.temporary = self.path.with_name(f".{self.path.name}.new.gpkg")
        for lists in itertools.islice(self._journal, 1):
            self._layer.begin(*_image_and_place(lists))
        return done

    def _add(self, cleaned: Cleaned) -> None:
        import shapely

        name = cleaned.image.file_name
        self._place = place = georeference_of(cleaned.image.source, cleaned.label_map.shape)
        self._layer.check(name, place)
        polygons = [outline(part.mask, self.options.tolerance) for part in cleaned.parts]
        self.spool("image", [json.dumps((name, place["crs"].to_wkt(), tuple(place["transform"])[:6]))])
        for part, polygon in zip(cleaned.parts, polygons):
            row = (shapely.to_wkb(polygon, hex=True), (part.left, part.top), part.label, part.area, part.score)
            self.spool("polygons", [json.dumps(row)])

    def _note(self, image: AnnotatedImage) -> None:
        super()._note(image)
        self._layer.begin(image.file_name, self._place)  # not of an image that could not be noted

    def _finish(self) -> None:
        import shapely

        self._journal.check()
        self._layer.discard()  # what a killed process has left
        for lists in self._journal:
            self._layer.begin(*_image_and_place(lists))
            for record in lists.get("polygons", ()):
                polygon, origin, label, area, score = json.loads(record)
                self._layer.add(shapely.from_wkb(polygon), (self.labels[label], label, area, score), origin)
        self._layer.finish()
        self._journal.remove()

    def discard(self) -> None:
        """Removes what is not finished, and cannot be finished by another run."""
        super().discard()
        self._layer.discard()


def _image_and_place(lists: dict[str, list[str]]) -> tuple[str, dict[str, Any]]:
    """Returns the name of an image and where it is, from its records."""
    from affine import Affine
    from rasterio.crs import CRS

    name, system, transform = json.loads(lists["image"][0])
    return name, {"crs": CRS.from_wkt(system), "transform": Affine(*transform)}


def vectorize(
    label_maps: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    min_area: int = 0,
    tolerance: float = 1.0,
) -> int:
    """Writes the labels of GeoTIFF files as polygons; see the module for the columns.

    There are no scores, and the column image has the name of the label map.

    The files are those that `segment_large` or the format `geotiff` writes. They are read line by line; memory grows
    with the number of polygons of one file, not with its pixels.

    Args:
        label_maps: The label maps, all in one reference system; one path or several.
        path: The GeoPackage (.gpkg). It is replaced when all polygons are written.
        min_area: Smallest number of pixels of a polygon.
        tolerance: Largest distance in pixels between an outline and its polygon. 0: all corners of all pixels.

    Returns:
        The number of polygons.

    Raises:
        ValueError: If there is no label map, an option is invalid, a file is no label map or has no place on earth,
            reference systems differ, the path cannot be written, or a library is missing (the message names the extra).
    """
    require_extra("geo", *GeopackageWriter.needs, what="vectorize")
    from rasterio.features import shapes
    from shapely.geometry import shape

    options = ExportOptions(min_area=min_area, tolerance=tolerance)
    files = _label_files(label_maps)
    target = Path(checked_path(path, "The path of the GeoPackage"))
    check_writable(target, GeopackageWriter.suffixes)
    layer = _Layer(target)
    try:
        with disk_errors_as_value_errors(repr(str(target))):
            for label_map in files:
                name = Path(label_map).name
                with opened_labels(label_map) as (band, names, none, place):
                    layer.begin(name, place)
                    for geometry, value in shapes(band, connectivity=4):
                        label = int(value)
                        if label == none:
                            continue
                        if not 0 <= label < len(names):
                            raise ValueError(
                                f"{str(label_map)!r} contains {label}; expected labels from 0 to {len(names) - 1}, "
                                f"which have names, or {none} for none. Segment the image again."
                            )
                        exact = _in_pixels(shape(geometry), place["transform"])
                        if exact.area >= options.min_area:
                            row = (names[label], label, round(exact.area), None)
                            layer.add(simplified(exact, options.tolerance), row)
            layer.finish()
    finally:
        layer.discard()
    return layer.num_rows


def _label_files(label_maps: Any) -> list[str]:
    if isinstance(label_maps, (str, os.PathLike)):
        label_maps = [label_maps]
    listed = items_of(label_maps)
    if listed is None:
        raise ValueError(
            f"The label maps are of type {type(label_maps).__name__}; expected a list of paths. Pass the files."
        )
    files = [checked_path(path, "A label map") for path in listed]
    if not files:
        raise ValueError("Got no label maps; expected at least one GeoTIFF file. Pass the files that were written.")
    return files


def _in_pixels(polygon: Any, transform: "Affine") -> "Polygon":
    """Returns a polygon along the edges of pixels in pixels, exactly; GDAL gives it at its place on earth."""
    import shapely

    back = ~transform
    return shapely.transform(polygon, lambda points: np.rint(_moved(points, back)))


def _moved(points: np.ndarray, transform: "Affine") -> np.ndarray:
    """Returns points `(N, 2)` at another place."""
    x, y = points.T
    at = transform
    return np.stack([at.a * x + at.b * y + at.c, at.d * x + at.e * y + at.f], axis=1)


class _Layer:
    """The layer of a GeoPackage that does not exist yet: polygons go in chunks to a temporary file beside it."""

    def __init__(self, path: Path):
        self._path = path
        self.temporary = path.with_name(f".{uuid.uuid4().hex}.tmp.gpkg")
        self._crs: Any = None
        self._first = ""  # the image that has set the reference system
        self._image = ""
        self._transform: Any = None
        self._rows: list[tuple[Any, ...]] = []
        self._polygons: list[Any] = []
        self._is_damaged = False
        self.num_rows = 0

    def check(self, image: str, place: dict[str, Any]) -> None:
        """Checks where an image is.

        Raises:
            ValueError: If the image has no transform or no reference system, or another one than the images before.
        """
        if "transform" not in place or not place["crs"]:
            lacks = "reference system" if "transform" in place else "transform to a place on earth"
            raise ValueError(
                f"{image!r} has no {lacks}, which a GeoPackage needs. Georeference it, or choose another format, such "
                "as coco."
            )
        if self._crs is not None and self._crs != place["crs"]:
            raise ValueError(
                f"{image!r} has the reference system {place['crs']} and {self._first!r} {self._crs}; expected one, "
                "because nothing is reprojected. Write a file for each reference system."
            )

    def begin(self, image: str, place: dict[str, Any]) -> None:
        """Begins the polygons of an image. The first one sets the reference system; see `check`."""
        self.check(image, place)
        if self._crs is None:
            self._crs, self._first = place["crs"], image
        self._image, self._transform = image, place["transform"]

    def add(self, polygon: "Polygon", row: tuple[Any, ...], origin: Sequence[int] = (0, 0)) -> None:
        """Adds a polygon in pixels from `origin` (left, top), and its columns after `image`."""
        import shapely

        self._polygons.append(shapely.transform(polygon, lambda points: _moved(points + origin, self._transform)))
        self._rows.append((self._image, *row))
        self.num_rows += 1
        if len(self._rows) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        import shapely
        from pyogrio import raw

        columns = list(zip(*self._rows)) or [()] * len(FIELDS)
        try:
            raw.write(
                self.temporary,
                shapely.to_wkb(np.array(self._polygons, object)),
                [np.array(column, dtype) for column, dtype in zip(columns, FIELDS.values())],
                list(FIELDS),
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=self._crs.to_wkt(),
                append=self.temporary.exists(),
            )
        except RuntimeError as error:  # of which the errors of pyogrio are: a full disk has several
            self._is_damaged = True
            raise ValueError(f"{str(self._path)!r} cannot be written: {error}. {FREE_SPACE}") from error
        self._rows, self._polygons = [], []

    def finish(self) -> None:
        """Writes the file; without any image, nothing."""
        if self._is_damaged:
            raise ValueError(f"{str(self._path)!r} was not written, because of an error before. Choose another disk.")
        if self._crs is None:
            return
        if self._rows or not self.temporary.exists():
            self._flush()
        if not self._is_complete():
            raise ValueError(f"{str(self._path)!r} cannot be written: its index is missing. {FREE_SPACE}")
        os.replace(self.temporary, self._path)

    def _is_complete(self) -> bool:
        """Whether all rows and their index are there: GDAL writes the index when it closes the file, without errors."""
        with contextlib.closing(sqlite3.connect(self.temporary)) as database:
            (num_rows,) = database.execute(f'SELECT COUNT(*) FROM "{LAYER}"').fetchone()
            index = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"rtree_{LAYER}_geom",)).fetchone()
        return num_rows == self.num_rows and (index is not None or not num_rows)

    def discard(self) -> None:
        """Removes what is not finished."""
        for suffix in ("", "-journal", "-wal", "-shm"):  # of SQLite, which would apply an old journal to a new file
            self.temporary.with_name(self.temporary.name + suffix).unlink(missing_ok=True)
