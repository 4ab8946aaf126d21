# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Large images, videos, the default vocabulary of a model, and the HTTP service."""

import functools
import importlib.util
import itertools
import json
from collections.abc import Callable, Mapping

import numpy as np

from dinov3seg_hf import Vocabulary, segment_large, segment_video
from dinov3seg_hf.serving.limits import Limits

from ..outcomes import Case
from ..values import Draw, described
from ..world import WORDS, World
from .files import IMAGE_FILES, image_bytes
from .model import some_words

LABELS = ", ".join(WORDS)
SETTINGS = {
    "inference": ("whole", "local-global"),
    "head": ("full", "dinotxt"),
    "refine": ("none",),
    "threshold": (0.3, 0),
    "background": ("never",),
    "active_classes": ("auto", 2),
}


def some_settings(draw: Draw, more: Mapping[str, Callable], given: float = 0.15) -> dict:
    """Settings of a segmentation, and more options, good or not."""
    known = {name: functools.partial(draw.choice, values) for name, values in SETTINGS.items()}
    return draw.some({**known, **more}, given=given)


def large(draw: Draw, world: World) -> Case:
    path = world.folder / "large.tif"
    draw.image(40, 60).convert("RGB").save(path)
    if draw.chance(0.2):
        path.write_bytes(draw.mutated_bytes(path.read_bytes()))
    image = path
    if draw.chance(0.4):
        image = draw.one_of(draw.anything, lambda: draw.arrays.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    labels = list(WORDS) if draw.chance(0.8) else some_words(draw)
    output = world.folder / "labels.tif" if draw.chance(0.9) else draw.one_of(draw.anything, world.folder / "x.png")
    options = some_settings(
        draw,
        {
            "scores": lambda: world.folder / "scores.tif",
            "tile": lambda: draw.choice((32, 48, 64)),
            "overlap": lambda: draw.choice((0, 8)),
            "scale": lambda: draw.choice((0.5, 1.0, 2)),
            "context": lambda: draw.chance(0.5),
            "bands": lambda: draw.choice(([1, 2, 3], [3, 2, 1], [1])),
        },
        given=0.2,
    )

    def check(result) -> str | None:
        if sum(result.num_pixels.values()) + result.num_none != result.size[0] * result.size[1]:
            return f"{result.num_pixels} of {result.size}"
        return None if all(np.isfinite(list(result.scores.values()))) else "a score is not finite"

    given = {"image": image, "labels": labels, "output": output, **options}
    return Case(
        f"segment_large({described(given)})",
        lambda: segment_large(world.pipe, image, labels, output, progress=False, **options),
        check,
    )


@functools.cache
def clip() -> bytes:
    """A good video of six frames."""
    import tempfile
    from pathlib import Path

    from dinov3seg_hf.video import new_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with new_video(path) as video:
            for number in range(6):
                video.add(np.full((32, 48, 3), 40 * number, np.uint8), number / 10)
        return path.read_bytes()


def video(draw: Draw, world: World) -> Case:
    path = world.folder / "clip.mp4"
    path.write_bytes(draw.mutated_bytes(clip()) if draw.chance(0.4) else clip())
    source = path if draw.chance(0.9) else draw.anything()
    labels = list(WORDS) if draw.chance(0.8) else some_words(draw)
    options = some_settings(
        draw,
        {
            "every": lambda: draw.choice((1, 2, 100)),
            "smoothing": lambda: draw.choice((0, 0.1, 5)),
            "batch_size": lambda: draw.choice((1, 4)),
        },
    )

    def check(frames) -> str | None:
        times = [result.frame.time for result in frames]
        if times != sorted(times) or not np.isfinite(times).all():
            return f"times {times}"
        wrong = [r.labeled.label_map for r in frames if r.labeled.label_map.shape != r.frame.pixels.shape[:2]]
        return f"a label map {wrong[0].shape}" if wrong else None

    def call():
        frames = segment_video(world.pipe, source, labels, progress=False, **options)
        return list(itertools.islice(frames, 20))

    return Case(f"segment_video({described({'video': source, 'labels': labels, **options})})", call, check)


def written_video(draw: Draw, world: World) -> Case:
    """Pictures that are written can be read, as many as were written."""
    from dinov3seg_hf.video import new_video, open_video

    path = world.folder / f"made{draw.choice(('.mp4', '.mkv'))}" if draw.chance(0.85) else draw.anything()
    pictures = [draw.arrays.integers(0, 256, (16, 18, 3), dtype=np.uint8) for _ in range(3)]
    times = [0.0, 0.1, np.float32(0.3)]
    good = draw.chance(0.5)
    if not good:
        place = draw.randrange(3)
        if draw.chance(0.3):
            times[place] = draw.anything()
        else:
            shape = draw.choice(((16, 18, 3), (16, 20, 3), (16, 18), (16, 18, 4), (0, 18, 3)))
            pictures[place] = draw.one_of(draw.anything, lambda: draw.array(shape), lambda: pictures[place][::-1])
    every = 1 if draw.chance(0.8) else draw.number()

    def call():
        with new_video(path) as video:
            for picture, time in zip(pictures, times):
                video.add(picture, time)
        with open_video(path) as video:
            return list(video.frames(every))

    def check(frames) -> str | None:
        return None if len(frames) == len(range(0, 3, int(every))) else f"{len(frames)} frames"

    given = {"path": path, "pictures": pictures, "times": times, "every": every}
    return Case(f"new_video({described(given)})", call, check)


def default_vocabulary(draw: Draw, world: World) -> Case:
    names = draw.one_of(list(WORDS), lambda: some_words(draw), lambda: Vocabulary(WORDS), draw.anything)
    processor = world.processor if draw.chance(0.8) else draw.anything()
    model = world.model

    def call():
        before = dict(model.config.id2label), model.config.default_vocabulary
        try:
            model.set_vocabulary(names, processor)
            return len(model.config.id2label), model.config.default_vocabulary
        finally:
            model.config.id2label, model.config.default_vocabulary = before
            model.config.label2id = {name: index for index, name in before[0].items()}

    def check(result) -> str | None:
        size, stored = result
        if isinstance(names, Vocabulary) or names == list(WORDS):
            return None if size == len(WORDS) else f"{size} classes"
        return None if json.dumps(stored) else "nothing was stored"

    return Case(f"model.set_vocabulary({described({'names': names, 'processor': processor})})", call, check)


FAMILIES = {"large": large, "video": video, "written-video": written_video, "default-vocabulary": default_vocabulary}
for _name, _library in (("large", "rasterio"), ("video", "av"), ("written-video", "av")):
    if importlib.util.find_spec(_library) is None:
        del FAMILIES[_name]


# --- the HTTP service -------------------------------------------------------------------------------------------------


@functools.cache
def service(pipe):
    """A client of the service, whose worker ends with this process."""
    from fastapi.testclient import TestClient

    from dinov3seg_hf.serving.api import build_app
    from dinov3seg_hf.serving.engine import SegmentationEngine

    engine = SegmentationEngine(pipe, Limits(file_bytes=2**16, labels=6))
    client = TestClient(build_app(engine, "tiny", Vocabulary(WORDS)), raise_server_exceptions=False)
    return client.__enter__()


PATHS = ("/vocabularies", "/vocabularies/ade20k-150", "/health", "/setup", "/predict", "/v1/predict", "/v1/models")


def http_service(draw: Draw, world: World) -> Case:
    content = image_bytes(draw, *draw.choice(IMAGE_FILES[:12]))
    content = draw.mutated_bytes(content) if draw.chance(0.2) else content
    fields = {"labels": LABELS}
    good = {
        "labels": lambda: draw.choice((LABELS, "a|b, c", "")),
        "vocabulary": lambda: draw.choice(("ade20k-150", "x")),
        "templates": lambda: draw.choice(("none", "{}\na {}")),
        "format": lambda: draw.choice(("json", "png", "rle")),
        **{name: functools.partial(draw.choice, values) for name, values in SETTINGS.items()},
    }
    for name, make in good.items():
        if draw.chance(0.2):
            fields[name] = str(draw.one_of(draw.text, draw.number) if draw.chance(0.3) else make())
    fields = {name: text.encode("utf-8", "replace").decode() for name, text in fields.items()}
    body = draw.json_value()
    path = draw.choice(PATHS) if draw.chance(0.25) else "/segment"
    raw = json.dumps(body, default=str).encode() if draw.chance(0.8) else draw.mutated_text('{"tasks": []}')

    def call():
        client = service(world.pipe)
        if path == "/segment":
            return client.post(path, files={"image": ("a.png", content)}, data=fields)
        if draw.chance(0.3):
            return client.get(path)
        return client.post(path, content=raw, headers={"Content-Type": "application/json"})

    def check(answer) -> str | None:
        if answer.status_code >= 500:
            return f"{answer.status_code}: {answer.text[:200]}"
        if answer.status_code == 200 or path != "/segment":
            return None
        detail = answer.json()["detail"]
        told = detail if isinstance(detail, str) else detail[0]["msg"]  # a wrong type is refused by FastAPI
        return None if len(told) > 15 and "/" + "shm" not in told else f"{answer.status_code}: {answer.text[:200]}"

    return Case(f"{path}({described({**fields, 'body': raw, 'image': content})})", call, check)


if importlib.util.find_spec("fastapi") is not None:
    FAMILIES["service"] = http_service
