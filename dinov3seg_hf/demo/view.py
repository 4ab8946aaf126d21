# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Encodes a segmentation for the viewer of the page, as one JSON object with everything that the viewer can show.

The browser draws opacity, threshold, solo, heat maps and comparison without further requests to the server.
`assets/viewer.js` decodes the object. Arrays are sent as differences of neighboring values, compressed with zlib, in
base64.
"""

import base64
import zlib
from typing import Any

import numpy as np

from .segmentation import Segmentation

MAX_ABSENT = 60  # maximum number of listed labels that were not found

MAX_HEAT_MAPS = 64

MAX_HEAT_VALUES = 2**21


def view_of(segmentation: Segmentation, colors: np.ndarray, facts: dict[str, Any]) -> dict[str, Any]:
    """Returns everything that the page shows of a segmentation.

    Args:
        segmentation: The segmentation from the engine.
        colors: The color of each label, uint8 `(C, 3)`.
        facts: Facts about the model; shown with the times.

    Returns:
        A JSON object: `key` (of the segmentation), `image` (a data URL), `size` ([height, width]), `labels` and
        `levels` (arrays of that size: index in the legend, score in hundredths), `legend` (found labels, the largest
        first, then other labels: `label`, `words`, `color`, `counts` and `sums` at each level, `peak` score, `found`),
        `num_labels` (of the vocabulary), `heat` (`size`, `maps`: indices in the legend, `values`: scores multiplied by
        255) and `facts`.
    """
    vocabulary, photo = segmentation.vocabulary, segmentation.photo
    areas = segmentation.counts.sum(axis=1)
    peaks = segmentation.scores.reshape(len(vocabulary), -1).max(axis=1)
    # A label of a small image can win no pixel of the image itself, but pixels of the enlarged image.
    seen = np.bincount(segmentation.shown_labels.ravel(), minlength=len(vocabulary))
    found = sorted(np.flatnonzero(seen).tolist(), key=lambda index: (-areas[index], -seen[index]))
    absent = sorted(np.flatnonzero(seen == 0).tolist(), key=lambda index: -int(peaks[index]))
    legend = found + absent[:MAX_ABSENT]

    places = np.zeros(len(vocabulary), np.uint8 if len(found) <= 256 else np.uint16)
    places[found] = np.arange(len(found))
    height, width = segmentation.scores.shape[1:]
    num_maps = min(len(legend), MAX_HEAT_MAPS, max(1, MAX_HEAT_VALUES // (height * width)))
    shown_maps = [*range(min(len(found), num_maps)), *range(len(found), len(legend))][:num_maps]
    return {
        "key": segmentation.key,
        "image": "data:image/jpeg;base64," + base64.b64encode(photo.jpeg).decode(),
        "size": list(segmentation.shown_labels.shape),
        "labels": _packed(places[segmentation.shown_labels]),
        "levels": _packed(segmentation.shown_levels),
        "legend": [
            {
                "label": vocabulary.names[index],
                "words": list(vocabulary.synonyms[index]),
                "color": "#" + bytes(colors[index].tolist()).hex(),
                "counts": segmentation.counts[index].tolist() if areas[index] else None,
                "sums": segmentation.sums[index].round(3).tolist() if areas[index] else None,
                "peak": round(int(peaks[index]) / 255, 3),
                "found": bool(seen[index]),
            }
            for index in legend
        ],
        "num_labels": len(vocabulary),
        "heat": {
            "size": [height, width],
            "maps": shown_maps,
            "values": _packed(segmentation.scores[[legend[place] for place in shown_maps]]),
        },
        "facts": {
            **facts,
            "head": segmentation.head,
            "inference": segmentation.inference,
            "refine": segmentation.refine,
            "source_size": list(photo.source_size),
            "own_size": [photo.image.height, photo.image.width],
            "seconds": {what: round(seconds, 4) for what, seconds in segmentation.seconds.items()},
            "num_new_words": segmentation.num_new_words,
        },
    }


def _packed(array: np.ndarray) -> dict[str, Any]:
    flat = np.ascontiguousarray(array).ravel()
    flat = np.diff(flat, prepend=flat.dtype.type(0)).astype(flat.dtype.newbyteorder("<"))  # wraps around
    return {"bytes": flat.itemsize, "data": base64.b64encode(zlib.compress(flat.tobytes(), 6)).decode()}
