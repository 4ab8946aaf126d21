# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The metric, annotation writers, the command line, and the engine and the API of the demo."""

import contextlib
import functools
import importlib.util
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from dinov3seg_hf import AnnotatedImage, cli, export_annotations
from dinov3seg_hf.annotations import FORMATS
from dinov3seg_hf.demo.engine import DemoEngine
from dinov3seg_hf.metrics.mean_iou import MeanIoU

from ..outcomes import Case
from ..values import Draw, described
from ..world import WORDS, World
from .files import IMAGE_FILES, image_bytes
from .model import some_words

# --- metric -----------------------------------------------------------------------------------------------------------


def metric(draw: Draw, world: World) -> Case:
    num_labels = 4
    truth, predicted = draw.label_map(num_labels, 8, 9), draw.label_map(num_labels, 8, 9)
    references = [truth if draw.chance(0.8) else draw.one_of(draw.anything, lambda: draw.array((8, 9)))]
    predictions = [predicted if draw.chance(0.8) else draw.one_of(draw.anything, lambda: draw.array((8, 9)))]
    if draw.chance(0.1):
        references = draw.anything()
    if draw.chance(0.05):
        predictions = predictions * 2
    made = draw.some({"num_labels": lambda: num_labels, "label_names": lambda: list("abcd")}, given=0.8)
    later = draw.some(
        {
            "num_labels": lambda: num_labels,
            "ignore_index": lambda: draw.choice((255, -1, 0)),
            "label_names": lambda: list("abcd"),
            "return_confusion_matrix": lambda: draw.chance(0.5),
        },
        given=0.2,
    )
    is_plain = isinstance(references, list) and len(references) == 1 and references[0] is truth
    is_plain = is_plain and len(predictions) == 1 and predictions[0] is predicted and not later
    is_plain = is_plain and made.get("num_labels") is num_labels

    def check(result) -> str | None:
        if not is_plain:
            return None
        ious = []
        for label in range(num_labels):
            if (truth == label).any():
                both = ((truth == label) & (predicted == label)).sum()
                either = ((truth == label) | ((predicted == label) & (truth >= 0))).sum()
                ious.append(both / either)
        return None if np.isclose(result["mean_iou"], np.mean(ious)) else f"mIoU {result['mean_iou']}, {np.mean(ious)}"

    given = {"predictions": predictions, "references": references, **later}
    return Case(
        f"MeanIoU({described(made)}).compute({described(given)})",
        lambda: MeanIoU(**made).compute(predictions=predictions, references=references, **later),
        check,
    )


# --- annotations ------------------------------------------------------------------------------------------------------

ENDINGS = {"cvat": ".xml", "coco": ".json", "coco-panoptic": ".json", "label-studio": ".json"}


def annotations(draw: Draw, world: World) -> Case:
    source = world.folder / "photo.png"
    draw.image(12, 14).convert("RGB").save(source)
    image = {"file_name": "a/photo.png", "label_map": draw.label_map(len(WORDS), 12, 14)}
    image |= draw.some(
        {
            "file_name": lambda: draw.choice(("b.jpg", "../x.png", "/x.png", "a/b/c.png", "photo")),
            "label_map": lambda: draw.label_map(len(WORDS), 12, 14),
            "score_map": lambda: draw.arrays.random((12, 14), dtype=np.float32),
            "source": lambda: draw.choice((source, str(source))),
            "image": lambda: draw.image(12, 14),
        },
        hostile=0.15,
        given=0.5,
    )
    if draw.chance(0.7):
        image.setdefault("source", source)
    options = draw.some(
        {
            "min_area": lambda: draw.choice((0, 3)),
            "tolerance": lambda: draw.choice((0, 1.0, 5)),
            "ignore_below": lambda: draw.choice((0, 0.5, 1)),
            "copy_images": lambda: draw.chance(0.5),
            "image_prefix": lambda: draw.choice(("", "http://x/")),
            "overwrite": lambda: draw.chance(0.5),
        },
        given=0.15,
    )
    names = list(WORDS) if draw.chance(0.7) else some_words(draw)
    kind = draw.choice(tuple(FORMATS)) if draw.chance(0.95) else draw.anything()
    path = world.folder / f"out{ENDINGS.get(kind, '') if isinstance(kind, str) else ''}"
    path = path if draw.chance(0.95) else draw.one_of(draw.anything, world.folder / "no/such/out.json")
    twice = draw.chance(0.1)

    def call():
        made = AnnotatedImage(**image)
        return export_annotations([made, made] if twice else [made], names, path, kind, **options)

    def check(result) -> str | None:
        if result != 1:
            return f"{result} images"
        if options.keys() & {"min_area", "ignore_below"}:
            return None
        labels = np.asarray(image["label_map"])
        if kind == "coco":
            areas = sum(item["area"] for item in json.loads(Path(path).read_text())["annotations"])
            if areas != int((labels >= 0).sum()):
                return f"annotations of {areas} pixels"
        if kind == "png":
            (file,) = (Path(path) / "masks").rglob("*.png")
            stored = np.asarray(Image.open(file)).astype(int)
            if not np.array_equal(np.where(stored == 255, -1, stored), np.maximum(labels, -1)):
                return "the mask is another label map"
        return None

    given = {**image, "names": names, "path": path, "format": kind, **options}
    return Case(f"export_annotations({described(given)})", call, check)


# --- command line -----------------------------------------------------------------------------------------------------


def case_of_command(arguments: list[str]) -> Case:
    """A command must end with 0 or 2, without a traceback, and with an error if it is 2."""

    def call():
        written = io.StringIO()
        with contextlib.redirect_stderr(written):
            try:
                code = cli.main(arguments)
            except SystemExit as end:
                code = end.code
        return code, written.getvalue()

    def check(result) -> str | None:
        code, shown = result
        if "Traceback" in shown or code not in (0, 2):
            return f"exit code {code}: {shown[-300:]}"
        return f"exit code 2 without an error: {shown[-200:]}" if code == 2 and "error:" not in shown else None

    return Case(f"dinov3seg {described(arguments)}", call, check)


def command(draw: Draw, world: World) -> Case:
    photo, words, out = world.folder / "photo.png", world.folder / "words.txt", world.folder / "out"
    photo.write_bytes(image_bytes(draw, *draw.choice(IMAGE_FILES[:12])))
    words.write_text("".join(f"{word}\n" for word in WORDS))
    out.mkdir()
    model, labels = str(world.checkpoint), ["--labels-file", str(words)]
    commands = {
        "segment": [str(photo), "--labels", ",".join(WORDS), "--model", model, "--output", f"{out}/a.png"],
        "label": ["--dataset", str(world.folder), *labels, "--model", model, "--output", str(out / "x")],
        "doctor": [*labels, "--model", model, "--images", str(photo)],
        "calibrate": [*labels, "--model", model, "--images", str(photo), "--write", f"{out}/c.tsv"],
        "evaluate": ["--model", model, "--benchmark", "drawn-world", "--images", "1", "--output", str(out)],
        "prepare": ["drawn-world", "--output", str(out), "--scenes", "1", "--size", "32", "--split", "seen"],
        "convert": ["--backbone", str(photo), "--dinotxt", str(words), "--output", str(out / "x")],
        "publish": ["--model", str(world.folder), "--repo", "a/b", "--dry-run", "--output", str(out / "x")],
        "train": ["--init", model, "--dataset", str(world.folder), "--output", str(out / "x"), "--steps", "0"],
    }
    more = (
        *(("--threshold", "0.5"), ("--threshold", "2"), ("--background", "auto"), ("--refine", "pixels")),
        *(("--mask", f"{out}/m.png"), ("--json", f"{out}/j.json"), ("--inference", "slide"), ("--head", "dinotxt")),
        *(("--format", "coco"), ("--original",), ("--annotations", f"{out}/c.json"), ("--skip-existing",)),
        *(("--templates", "none"), ("--templates", "x"), ("--min-area", "-1"), ("--device", "cpu"), ("--seed", "x")),
        *(
            ("--device", "nonsense"),
            ("--active-classes", "auto"),
            ("--active-classes", "0"),
            ("--dtype", "float16"),
            ("--batch-size", "0"),
            ("--preset", "ade20k-150"),
        ),
        *(("--tile", "48"), ("--tile", "0"), ("--mask", f"{out}/m.tif"), ("--overlap", "-1"), ("--scale", "nan")),
        *(("--every", "2"), ("--smoothing", "inf"), ("--format", "geotiff"), ("--rows-per-shard", "0")),
        *(("--output", "/proc/x/y.png"), ("--output", f"{photo}"), ("--mask", "/dev/full"), ("--alpha", "nan")),
    )
    name = draw.choice(("segment",) * 5 + tuple(commands))
    arguments = [name, *commands[name]]
    for _ in range(draw.choice((0, 1, 1, 2))):
        strange = draw.text().replace("\0", "") or "''"
        if strange.startswith("/"):  # a place of the machine is what somebody asked for
            strange = f"{out}{strange}"
        match draw.randrange(4):
            case 0:
                arguments[draw.randrange(1, len(arguments))] = strange
            case 1:
                del arguments[draw.randrange(1, len(arguments))]
            case 2:
                arguments += draw.choice(more)
            case 3:
                arguments.insert(draw.randrange(len(arguments) + 1), strange)

    return case_of_command(arguments)


# --- demo -------------------------------------------------------------------------------------------------------------


@functools.cache
def engine(pipe) -> DemoEngine:
    return DemoEngine(pipe)


def demo(draw: Draw, world: World) -> Case:
    path = world.folder / "photo.png"
    data = image_bytes(draw, *draw.choice(IMAGE_FILES[:12]))
    path.write_bytes(draw.mutated_bytes(data) if draw.chance(0.2) else data)
    image = path if draw.chance(0.9) else draw.anything()
    labels = ", ".join(WORDS) if draw.chance(0.5) else some_words(draw)
    options = draw.some(
        {
            "inference": lambda: draw.choice(("whole", "local-global", "slide")),
            "head": lambda: draw.choice(("full", "dinotxt")),
            "templates": lambda: draw.choice(("scene", "none", "{}\na {}", ["{}"])),
            "refine": lambda: draw.choice(("pixels", "none")),
        },
        given=0.2,
    )
    session, threshold = draw.choice((None, "a", "b")), draw.one_of(0, 0.5, draw.number)

    def call():
        result = engine(world.pipe).segment(session, image, labels, **options)
        return result.label_map(threshold), result

    def check(answer) -> str | None:
        labels_found, result = answer
        if labels_found.shape != (result.photo.image.height, result.photo.image.width):
            return f"a label map {labels_found.shape} for {result.photo.image.size}"
        return None if labels_found.max() < len(result.vocabulary) else "a label is no class"

    given = {"image": image, "labels": labels, "threshold": threshold, **options}
    return Case(f"DemoEngine.segment({described(given)})", call, check)


SHARED = ("image", "labels", "inference", "head", "templates")
ENDPOINTS = {
    "segment": (*SHARED, "threshold", "refine"),
    "overlay": (*SHARED, "threshold", "opacity", "refine"),
    "label_map": (*SHARED, "threshold", "refine"),
    "heat_map": ("image", "labels", "label", *SHARED[2:]),
    "run": (*SHARED, "refine"),
}


def demo_api(draw: Draw, world: World) -> Case:
    import gradio as gr

    from dinov3seg_hf.demo.endpoints import Endpoints

    world.uploads.mkdir(exist_ok=True)
    path = world.uploads / "photo.png"
    path.write_bytes(image_bytes(draw, *draw.choice(IMAGE_FILES[:12])))
    photo = {"path": str(path), "orig_name": draw.text() if draw.chance(0.3) else "a b.png"}
    if draw.chance(0.15):
        photo = draw.one_of(draw.anything, {"path": "/etc/passwd"}, {"path": str(world.uploads / "..")})
    values = {
        "image": photo,
        "labels": ", ".join(WORDS),
        "inference": draw.choice((None, "whole", "local-global")),
        "head": None,
        "templates": draw.choice((None, "scene")),
        "threshold": 0.3,
        "opacity": 0.5,
        "refine": False,
        "label": WORDS[0],
    }
    for _ in range(draw.choice((0, 1, 1, 2))):
        values[draw.choice(list(values)[1:])] = draw.json_value()  # what a request can contain
    name, session = draw.choice(tuple(ENDPOINTS)), draw.choice((None, "c"))
    arguments = [values[key] for key in ENDPOINTS[name]]

    def call():
        endpoints = Endpoints(engine(world.pipe))
        try:
            return getattr(endpoints, name)(*arguments, SimpleNamespace(session_hash=session))
        except gr.Error as error:
            return {"told": error.message}

    def check(result) -> str | None:
        if isinstance(result, dict) and "went wrong" in result.get("error", ""):
            return f"the page says: {result['error']}"
        return None

    return Case(f"/{name}({described(arguments)})", call, check)


FAMILIES = {"metric": metric, "annotations": annotations, "command": command, "demo": demo}
if importlib.util.find_spec("gradio") is not None:
    FAMILIES["demo-api"] = demo_api
