# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Annotations in memory, pictures, polygons, the doctor and calibrations."""

import importlib.util
import json
import math

import numpy as np
import torch
from PIL import Image

from dinov3seg_hf import AnnotatedImage, InferenceSettings, Vocabulary
from dinov3seg_hf.annotations import to_detections, to_fiftyone, vectorize
from dinov3seg_hf.doctor import (
    apply_findings,
    count_winners,
    find_similar,
    find_spelling,
    find_winners,
    verify_active_classes,
)
from dinov3seg_hf.doctor.calibration import calibrate, labels_of_mask, measure
from dinov3seg_hf.visualization import overlay, regions_of, save_mask, segments_as_json, with_legend

from ..outcomes import Case
from ..values import Draw, described
from ..world import WORDS, World

# --- annotations in memory, polygons and pictures ---------------------------------------------------------------------


def objects(draw: Draw, world: World) -> Case:
    labels = draw.label_map(4, 8, 9)
    kinds = ("int64", "uint8", ">i4", "uint64", "bool", "float32")
    strange = draw.one_of(
        lambda: labels.astype(np.int64) + draw.choice((2**32, -(2**32), 2**40)),
        lambda: labels.clip(0).astype(draw.choice(kinds)),
        lambda: np.ma.masked_array(labels, labels == 1),
        lambda: labels.tolist(),
        lambda: torch.from_numpy(labels),
        lambda: labels[::-1, ::-1],
    )
    label_map = strange if draw.chance(0.5) else labels
    score_map = draw.one_of(
        None,
        lambda: draw.arrays.random((8, 9), dtype=np.float32),
        lambda: draw.arrays.random((8, 9)).tolist(),
        lambda: torch.rand(8, 9, requires_grad=True),
        lambda: draw.array((8, 9)),
        lambda: np.full((8, 9), draw.choice((math.nan, 1.5, -0.5)), np.float32),
    )
    image = {"file_name": "a.png", "label_map": label_map, "score_map": score_map}
    options = draw.some({"min_area": lambda: 2, "ignore_below": lambda: 0.5}, given=0.3)
    convert = draw.choice((to_detections, to_fiftyone))

    def call():
        made = AnnotatedImage(**image)
        try:
            convert(made, list(WORDS), **options)
        except ValueError as error:
            if "pip install" not in str(error):  # these libraries are too large for the tests
                raise
        return made

    def check(made) -> str | None:
        given = np.ma.filled(np.ma.masked_array(np.asarray(label_map), np.ma.getmask(label_map)), -1).astype(object)
        if not all((one == other) or (one < 0 and other < 0) for one, other in zip(given.flat, made.label_map.flat)):
            return "the label map is another one"
        scores = made.score_map
        if scores is not None and not (np.asarray(scores) >= 0).all() | (np.asarray(scores) > 1.001).any():
            return "a score is not between 0 and 1"
        return None

    return Case(f"{convert.__name__}({described({**image, **options})})", call, check)


def pictures(draw: Draw, world: World) -> Case:
    image = draw.image(8, 9).convert("RGB") if draw.chance(0.9) else draw.anything()
    labels = draw.label_map(4, 8, 9) if draw.chance(0.8) else draw.one_of(draw.anything, lambda: draw.array((8, 9)))
    names = list(WORDS) if draw.chance(0.85) else draw.anything()
    options = draw.some(
        {
            "alpha": lambda: draw.choice((0, 0.5, 1, np.float32(0.5))),
            "palette": lambda: draw.choice(
                (
                    np.full((4, 3), 200, np.uint8),
                    np.full((4, 3), 0.5),
                    [[255, 0, 300]] * 4,
                    [(1, 2, 3)] * 4,
                    np.full((4, 4), 200, np.uint8),
                )
            ),
        },
        given=0.25,
    )
    path = world.folder / "labels.png" if draw.chance(0.9) else draw.anything()
    palette = options.get("palette")

    def call():
        picture = overlay(image, labels, **options)
        regions = regions_of(labels, names)
        save_mask(path, labels, len(names), palette=palette)
        segments = segments_as_json(labels, regions)
        return with_legend(picture, regions, palette=palette), regions, segments

    def check(result) -> str | None:
        _, regions, segments = result
        json.dumps(segments)
        if sum(region.num_pixels for region in regions) != np.asarray(labels).size:
            return "the regions are not the image"
        if palette is not None and not np.array_equal(np.asarray(palette), np.asarray(palette, np.uint8)):
            return "a palette of other numbers than 0 to 255"
        stored = np.asarray(Image.open(path)).astype(int)
        return (
            None
            if np.array_equal(np.where(stored == 255, -1, stored), np.maximum(np.asarray(labels).astype(int), -1))
            else "other labels"
        )

    given = {"image": image, "label_map": labels, "names": names, "path": path, **options}
    return Case(f"overlay, legend and mask({described(given)})", call, check)


def polygons(draw: Draw, world: World) -> Case:
    import rasterio

    path = world.folder / "map.tif"
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(2, 0, 10, 0, -2, 20)} if draw.chance(0.9) else {}
    labels, tags = draw.label_map(4, 6, 7), {"labels": json.dumps(list(WORDS)), "none": "255"}
    if draw.chance(0.2):
        strange = ("", "a", "[]", "[1, 2, 3, 4]", "{}", "-1", "1" * 5000, "[" * 5000, '["a"]')
        tags[draw.choice(("labels", "none"))] = draw.choice(strange)
    with rasterio.open(path, "w", "GTiff", 7, 6, 1, dtype="uint8", nodata=255, **place) as file:
        file.write(np.where(labels < 0, 255, labels).astype(np.uint8), 1)
        file.update_tags(**tags)
    maps = draw.one_of([path], [path], [str(path)], (path,), path, str(path), lambda: [], lambda: iter([path]))
    if draw.chance(0.15):
        maps = draw.one_of(draw.anything, lambda: [draw.anything()])
    target = world.folder / "out.gpkg" if draw.chance(0.85) else draw.anything()
    options = draw.some({"min_area": lambda: 2, "tolerance": lambda: draw.choice((0, 1.5))}, given=0.2)

    def check(number) -> str | None:
        if not target.is_file():
            return "no file was written"
        return None if number or options.get("min_area") or (labels < 0).all() else "no polygon"

    given = {"label_maps": maps, "path": target, **options}
    return Case(f"vectorize({described(given)})", lambda: vectorize(maps, target, **options), check)


# --- the doctor -------------------------------------------------------------------------------------------------------


def doctor(draw: Draw, world: World) -> Case:
    image = draw.image(12, 16).convert("RGB")
    images = draw.one_of([image], lambda: [image] * 2, image, lambda: np.asarray(image), lambda: iter([image]), "a.png")
    text = draw.one_of(world.embeddings, world.embeddings, list(WORDS), lambda: ", ".join(WORDS), draw.anything)
    vocabulary = Vocabulary(WORDS) if draw.chance(0.8) else Vocabulary(WORDS[: draw.randint(1, 3)])
    options = draw.some(
        {
            "active_classes": lambda: draw.choice(("auto", 1, 2, np.int64(1))),
            "head": lambda: draw.choice(("full", "dinotxt")),
            "inference": lambda: "whole",
        },
        given=0.3,
    )
    similarity = draw.choice((0.95, -1, 0.5)) if draw.chance(0.7) else draw.anything()
    shares = draw.one_of(
        lambda: draw.arrays.random((6, 4)), lambda: draw.arrays.random((6, 4)).tolist(), draw.anything,
        lambda: draw.arrays.random((6, draw.choice((1, 3, 7)))),
    )  # fmt: skip
    way = draw.randrange(5)
    known = isinstance(images, list) and (text is world.embeddings or text == list(WORDS))

    def call():
        if way == 0:
            return verify_active_classes(world.pipe, images, text, **options)
        if way == 1:
            counted = count_winners(world.pipe, images, text, **options)
            return counted, find_winners(vocabulary, counted)
        if way == 2:
            return find_winners(vocabulary, shares)
        if way == 3:
            findings = find_similar(vocabulary, text, similarity) + find_spelling(vocabulary, world.tokenizer)
            return findings, apply_findings(vocabulary, findings)
        return None

    def check(result) -> str | None:
        if way == 0 and (not result or any(not 0 <= one.share <= 1 for one in result)):
            return f"disagreements {result}"
        if way == 0 and isinstance(images, Image.Image | np.ndarray) and len(result) != 1:
            return f"{len(result)} results of one image"
        if way == 1 and known and not (result[0].sum(axis=1) <= 1 + 1e-9).all():
            return "the shares are more than the image"
        if way == 3 and similarity == -1 and text is world.embeddings and len(vocabulary) < 4:
            return "other words than those of the embeddings were compared"
        if way == 2 and np.shape(shares) != () and np.shape(shares)[-1:] != (len(vocabulary),):
            return f"shares of {np.shape(shares)} were taken for {len(vocabulary)} classes"
        return None

    given = {"images": images, "text": text, "similarity": similarity, "shares": shares, **options}
    return Case(f"doctor, way {way}, {len(vocabulary)} classes ({described(given)})", call, check)


def calibration(draw: Draw, world: World) -> Case:
    image = draw.image(12, 16).convert("RGB") if draw.chance(0.9) else draw.anything()
    head = draw.choice(("full", "dinotxt"))
    mask = draw.one_of(
        None,
        lambda: draw.label_map(4, 12, 16),
        lambda: draw.label_map(4, 12, 16),
        lambda: draw.label_map(4, 6, 8),
        lambda: draw.array((12, 16)),
        draw.anything,
    )
    chosen = InferenceSettings(head=head) if draw.chance(0.9) else draw.anything()
    number, text = draw.choice((0, 1, 2)), world.embeddings if draw.chance(0.9) else draw.anything()

    def call():
        truth = None if mask is None else labels_of_mask(Vocabulary(WORDS), mask)
        return calibrate((measure(world.pipe, image, text, chosen, truth) for _ in range(number)), text)

    def check(result) -> str | None:
        if not all(math.isfinite(bound) and 0 <= bound <= 1.001 for bound in result.thresholds):
            return f"bounds {result.thresholds}"
        if isinstance(mask, np.ndarray) and mask.shape != (12, 16) and isinstance(image, Image.Image):
            return f"a mask of {mask.shape} was taken for an image of (12, 16)"
        return None

    given = {"image": image, "mask": mask, "settings": chosen, "text": text, "images": number}
    return Case(f"calibrate({described(given)})", call, check)


FAMILIES = {
    "objects": objects,
    "pictures": pictures,
    "polygons": polygons,
    "doctor": doctor,
    "calibration": calibration,
}
if not all(map(importlib.util.find_spec, ("rasterio", "pyogrio", "shapely"))):
    del FAMILIES["polygons"]
