# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Kinds of images and masks, settings, stages of a pipeline, metrics step by step, and collators."""

import functools
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from dinov3seg_hf import InferenceSettings, Vocabulary
from dinov3seg_hf.data import Dinov3SegDataCollator
from dinov3seg_hf.metrics import SegmentationMetrics
from dinov3seg_hf.metrics.mean_iou import MeanIoU
from dinov3seg_hf.model.image_input import read_label_map, read_pixels

from ..outcomes import Case
from ..values import Draw, described
from ..world import WORDS, World

# --- kinds of images --------------------------------------------------------------------------------------------------


def strided(draw: Draw, array: np.ndarray) -> np.ndarray:
    """The same values, stored in another way."""
    wide = np.zeros((array.shape[0] * 2, *array.shape[1:]), array.dtype)
    wide[::2] = array
    return draw.one_of(
        lambda: array,
        lambda: array[::-1].copy()[::-1],
        lambda: wide[::2],
        lambda: np.asfortranarray(array),
        lambda: array.astype(array.dtype.newbyteorder(">")),
        lambda: np.ma.masked_array(array, np.zeros(array.shape, bool)),
    )


def as_file(draw: Draw, world: World, image: Image.Image):
    """An image as a file: a path, text, bytes, or an open file."""
    path = world.folder / "kind.png"
    image.save(path)
    return draw.one_of(path, str(path), path.read_bytes(), lambda: io.BytesIO(path.read_bytes()))


def image_kinds(draw: Draw, world: World) -> Case:
    """The same pixels in all kinds of images give the same pixels."""
    height, width = draw.choice((1, 2, 5, 7)), draw.choice((2, 5, 8))
    gray = draw.chance(0.4)
    shape = (height, width) if gray else (height, width, 3)
    pixels = draw.arrays.integers(0, 256, shape, dtype=np.uint8)
    if draw.chance(0.15):
        pixels = np.where(pixels < 128, 0, 255).astype(np.uint8)
    is_black_and_white = bool(np.isin(pixels, (0, 255)).all())
    array = draw.one_of(
        lambda: strided(draw, pixels),
        lambda: strided(draw, pixels.astype(np.int64)),
        lambda: strided(draw, pixels.astype(np.uint16) * 257),
        lambda: strided(draw, pixels.astype(draw.choice((np.float16, np.float32, np.float64))) / 255),
        lambda: strided(draw, pixels > 0) if is_black_and_white else pixels,
        lambda: pixels[..., None] if gray else np.dstack([pixels, np.full(shape[:2], 255, np.uint8)]),
        lambda: pixels[None] if gray and height > 1 else pixels,
    )
    first = pixels if gray else pixels.transpose(2, 0, 1)
    image = draw.one_of(
        lambda: array,
        lambda: array,
        lambda: torch.from_numpy(np.ascontiguousarray(first)),
        lambda: torch.from_numpy(np.ascontiguousarray(first)).float().div(255).requires_grad_(),
        lambda: (
            torch.from_numpy(pixels if gray else pixels.copy()).permute(*range(pixels.ndim)[::-1]).transpose(-1, -2)
        ),
        lambda: Image.fromarray(pixels),
        lambda: as_file(draw, world, Image.fromarray(pixels)),
    )
    expected = torch.from_numpy(np.ascontiguousarray(np.broadcast_to(first, (3, height, width))))
    return Case(
        f"read_pixels({described([image])})",
        lambda: read_pixels(image),
        lambda read: None if torch.equal(read.cpu(), expected) else "other pixels",
    )


def mask_kinds(draw: Draw, world: World) -> Case:
    """The same labels in all kinds of masks give the same labels."""
    labels = draw.label_map(draw.choice((2, 200)), 6, 5).clip(0)
    kind = draw.choice(("uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"))
    labels = labels > 0 if kind == "bool" else labels
    array = strided(draw, labels.astype(kind))
    mask = draw.one_of(
        lambda: array,
        lambda: array,
        lambda: torch.from_numpy(labels.astype(np.int32)),
        lambda: as_file(draw, world, Image.fromarray(labels.astype(np.uint8))),
        lambda: as_file(draw, world, Image.fromarray(labels.astype(np.uint16))),
    )
    hidden = draw.chance(0.1)
    if hidden:
        mask = np.ma.masked_array(labels.astype(np.uint8), labels > 0)
    vocabulary, ignored = (
        Vocabulary([f"word {label}" for label in range(200)], ignore_label=255),
        labels.astype(int) > 0,
    )

    def call():
        read = read_label_map(mask)
        return read, vocabulary.labels_from_raw(
            mask if isinstance(mask, np.ndarray) and kind != "bool" else read.numpy()
        )

    def check(result) -> str | None:
        if hidden and ignored.any():
            return "pixels that are masked have labels"
        for found in result:
            if not np.array_equal(np.asarray(found), labels.astype(int)):
                return "other labels"
        return None

    return Case(f"read_label_map({described([mask])}, of {kind})", call, check)


# --- settings and stages ----------------------------------------------------------------------------------------------

OPTIONS = {
    "inference": ("whole", "local-global", "slide"),
    "head": ("full", "dinotxt"),
    "patch_source": ("head", "backbone"),
    "threshold": (0, 0.5, 1, np.float32(0.5), np.float64(0.25)),
    "temperature": (0.01, 1, np.float32(0.5)),
    "size": ({"height": 16, "width": 24}, {"shortest_edge": np.int64(16)}, {"shortest_edge": 16.0}),
    "window_size": (8, 16, np.int64(8), np.uint8(8)),
    "window_stride": (4, 8, np.int32(4)),
    "refine_features": (True, False, np.bool_(True)),
    "refine": ("pixels", "none"),
    "background": ("auto", "never"),
    "active_classes": ("auto", 1, np.int64(2)),
}


def some_options(draw: Draw, names=tuple(OPTIONS), hostile: float = 0.2, given: float = 0.25) -> dict:
    return draw.some({name: functools.partial(draw.choice, OPTIONS[name]) for name in names}, hostile, given)


def settings(draw: Draw, world: World) -> Case:
    """Settings can be written as JSON, as results and labels of data sets do, and read again."""
    options, more = some_options(draw), some_options(draw, given=0.1)

    def call():
        made = InferenceSettings(**options)
        return made, made.updated(**more), made.resolved(world.model.config, world.processor.image_processor)

    def check(result) -> str | None:
        for made in result:
            if InferenceSettings(**json.loads(json.dumps(made.given()))) != made:
                return f"{made} is read back as other settings"
            if made.threshold is not None and not 0 <= made.threshold <= 1:
                return f"the threshold is {made.threshold}"
        return None

    return Case(f"InferenceSettings({described(options)}).updated({described(more)})", call, check)


ENCODING = ("inference", "head", "patch_source", "refine_features", "size", "window_size", "window_stride")


def stages(draw: Draw, world: World) -> Case:
    """An image that is encoded first, and one that is segmented by its stages, have the labels of a plain call."""
    image = draw.image(20, 28) if draw.chance(0.9) else draw.anything()
    options = some_options(draw, ENCODING, hostile=0.1, given=draw.choice((0, 0.2)))
    later = some_options(draw, ("threshold", "head", "size", "refine", "background"), hostile=0.1, given=0.15)
    way, number = draw.randrange(3), draw.choice((1, 1, 2))
    given = None if draw.chance(0.3) else draw.anything() if draw.chance(0.2) else InferenceSettings(threshold=0.4)
    text = world.embeddings if draw.chance(0.9) else draw.anything()
    pipe = world.pipe

    def plain(**more):
        return pipe(image, world.embeddings, return_label_map=True, return_masks=False, **more)["label_map"]

    def call():
        if way == 0:
            encoded = pipe.encode_image(image, **options)
            found = pipe(encoded, text, return_label_map=True, **later)["label_map"]
            return found, plain(**{**options, **later})
        prepared = [pipe.prepare(image, given) for _ in range(number)]
        if way == 1:
            prepared = pipe.encode_prepared(prepared, pipe.settings if given is None else given)
        labeled = pipe.segment_prepared(prepared, text, given)
        return labeled[-1].label_map, plain(**(given.given() if isinstance(given, InferenceSettings) else {}))

    def check(result) -> str | None:
        one, other = result
        if way == 0 and text is not world.embeddings:  # other words, given in a form that the pipeline takes
            return None
        return None if np.mean(one != other) < 0.02 else f"{np.mean(one != other):.0%} of the labels differ"

    what = {"image": image, **options, **later} if way == 0 else {"image": image, "settings": given, "text": text}
    return Case(f"stages of a pipeline, way {way} ({described(what)})", call, check)


# --- metrics ----------------------------------------------------------------------------------------------------------


def metric_steps(draw: Draw, world: World) -> Case:
    """Label maps that are added in steps, some of them refused, give the counts of those that were accepted."""
    pairs = [(draw.label_map(4, 6, 7), draw.label_map(4, 6, 7)) for _ in range(3)]
    kinds = draw.choice(("int32", "int64", "int16", ">i4"))
    bad = draw.one_of(
        draw.anything,
        lambda: draw.array((6, 7)),
        lambda: draw.label_map(4, 5, 7),
        lambda: np.ma.masked_all((6, 7), int),
    )
    options = draw.some(
        {
            "ignore_index": lambda: draw.choice((0, 2, np.int64(1))),
            "label_map": lambda: draw.choice(({0: 1}, {"0": 2}, {np.int64(3): 0})),
            "reduce_labels": lambda: draw.chance(0.5),
        },
        given=0.15,
    )
    later = draw.some({"nan_to_num": lambda: 0.0, "return_confusion_matrix": lambda: True}, given=0.1)
    first = draw.chance(0.5)

    def accepted(add) -> bool:
        try:
            add()
        except ValueError as error:
            if "xpected" not in str(error):
                raise
            return False
        return True

    def call():
        metric = MeanIoU(num_labels=4, **options)
        truths, predictions = ([one.astype(kinds) for one in side] for side in zip(*pairs))
        metric.add(prediction=predictions[0], reference=truths[0])
        of_bad = {"predictions": [predictions[1], bad], "references": [truths[1], truths[2]]}
        if not first:
            of_bad = {"predictions": predictions[1:], "references": [truths[1], bad]}
        was_good = accepted(lambda: metric.add_batch(**of_bad))
        if not was_good:
            metric.add_batch(predictions=predictions[1:], references=iter(truths[1:]))
        return was_good, metric.compute(**{**later, "return_confusion_matrix": True})

    def check(result) -> str | None:
        was_good, scores = result
        if was_good:
            return None
        if scores["confusion_matrix"].sum() > 3 * 42:
            return f"{scores['confusion_matrix'].sum()} pixels of {3 * 42}"
        if options:
            return None
        correct = sum(int(((truth == one) & (truth >= 0)).sum()) for truth, one in pairs)
        return None if np.diagonal(scores["confusion_matrix"]).sum() == correct else "other counts"

    return Case(f"MeanIoU({described({**options, **later})}) with {described([bad])}", call, check)


def trainer_metrics(draw: Draw, world: World) -> Case:
    names = {number: word for number, word in enumerate(WORDS)}
    labels = np.stack([draw.label_map(4, 8, 9) for _ in range(2)])
    predictions = draw.one_of(
        lambda: draw.arrays.normal(size=(2, 4, 4, 5)).astype(np.float32),
        lambda: np.stack([draw.label_map(4, 8, 9) for _ in range(2)]),
    )
    if draw.chance(0.4):
        strange = (None, {}, {0: "a", 1: "a"}, {1: "a"}, {"0": "a", "1": "b"}, {0: 1, 1: 2}, {0.5: "a"}, list(WORDS))
        names = draw.one_of(draw.anything, *strange)
    if draw.chance(0.3):
        predictions = draw.one_of(
            draw.anything,
            lambda: draw.array((2, 8, 9)),
            lambda: draw.array((2, 4, 4, 5)),
            lambda: draw.arrays.normal(size=(2, draw.choice((1, 3, 5)), 4, 5)).astype(np.float32),
            lambda: torch.full((2, 4, 4, 5), math.nan),
        )
    if draw.chance(0.2):
        labels = draw.one_of(draw.anything, lambda: draw.array((2, 8, 9)))
    options = draw.some(
        {
            "ignore_index": lambda: draw.choice((255, 0, None)),
            "reduce_labels": lambda: draw.chance(0.5),
            "label_map": lambda: {0: 1},
            "nan_to_num": lambda: 0.0,
        },
        given=0.15,
    )

    def check(result) -> str | None:
        number = len(names)
        if len(result) != 5 + 2 * number:
            return f"{len(result)} scores of {number} classes"
        if any(not isinstance(value, float) or not (math.isnan(value) or 0 <= value <= 1) for value in result.values()):
            return None if "nan_to_num" in options else f"scores {result}"
        is_float = isinstance(predictions, np.ndarray) and predictions.dtype.kind == "f"
        if isinstance(predictions, torch.Tensor):
            is_float = predictions.is_floating_point()
        if is_float and not torch.as_tensor(predictions.tolist()).isfinite().all():
            return "scores of logits that are not finite"
        known = isinstance(predictions, np.ndarray) and predictions.ndim == 4 and predictions.dtype == np.float32
        if known and predictions.shape[1] != number:
            return f"scores of {number} classes from {predictions.shape[1]}"
        return None

    given = SimpleNamespace(predictions=predictions, label_ids=labels)
    text = {"id2label": names, "predictions": predictions, "label_ids": labels, **options}
    return Case(f"SegmentationMetrics({described(text)})", lambda: SegmentationMetrics(names, **options)(given), check)


# --- batches of transformers' Trainer ---------------------------------------------------------------------------------


def collator(draw: Draw, world: World) -> Case:
    masked = draw.choice((True, True, False))
    rows = [
        {"image": draw.image(16, 16).convert("RGB"), **({"label": draw.label_map(4, 16, 16)} if masked else {})}
        for _ in range(2)
    ]
    if draw.chance(0.3):
        rows = [
            {"pixel_values": torch.rand(3, 16, 16), "labels": torch.from_numpy(draw.label_map(4, 16, 16))} for _ in rows
        ]
    good = True
    for _ in range(draw.choice((0, 1, 1, 2))):
        good, row = False, draw.choice(rows)
        key = draw.choice(list(row) or ["image"])
        match draw.randrange(4):
            case 0:
                row[key] = draw.anything()
            case 1:
                row.pop(key, None)
            case 2:
                row[key] = draw.array((16, 16)) if key.startswith("label") else torch.rand(3, 8, 16)
            case 3:
                row["label" if "image" in row else "labels"] = draw.label_map(4, 8, 8)
    rows = rows if draw.chance(0.95) else draw.anything()
    options = draw.some(
        {
            "image_column": lambda: "image",
            "mask_column": lambda: "label",
            "size": lambda: {"height": 16, "width": 24},
            "do_reduce_labels": lambda: draw.chance(0.5),
            "vocabulary": lambda: draw.choice((list(WORDS), ", ".join(WORDS), Vocabulary(WORDS))),
        },
        given=0.15,
    )
    processor = world.processor if draw.chance(0.95) else draw.anything()

    def check(batch) -> str | None:
        has_masks = [any(row.get(name) is not None for name in ("label", "labels")) for row in rows]
        if any(has_masks) and "labels" not in batch and "mask_column" not in options:
            return "the masks are left out"
        if len(batch["pixel_values"]) != len(rows) or batch["pixel_values"].dtype != torch.float32:
            return f"pixels {batch['pixel_values'].dtype} {tuple(batch['pixel_values'].shape)} of {len(rows)} rows"
        if "labels" in batch and batch["labels"].shape[-2:] != batch["pixel_values"].shape[-2:]:
            return f"labels {tuple(batch['labels'].shape)} of pixels {tuple(batch['pixel_values'].shape)}"
        return None if not good or not options or batch["pixel_values"].isfinite().all() else "pixels are not finite"

    return Case(
        f"Dinov3SegDataCollator({described(options)})({described(rows if isinstance(rows, list) else [rows])})",
        lambda: Dinov3SegDataCollator(processor, **options)(rows),
        check,
    )


FAMILIES = {
    "image-kinds": image_kinds,
    "mask-kinds": mask_kinds,
    "settings": settings,
    "stages": stages,
    "metric-steps": metric_steps,
    "trainer-metrics": trainer_metrics,
    "collator": collator,
}
