# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Whole data sets, evaluations, exports, publications, AnyUp, loading, all options of commands, tools of annotation.

What takes seconds when all is right, such as an export, is never all right here.
"""

import argparse
import base64
import contextlib
import functools
import importlib
import importlib.util
import json

import datasets
import numpy as np
import torch
from safetensors import safe_open

from dinov3seg_hf import InferenceSettings, Vocabulary, cli
from dinov3seg_hf.annotations import ExportOptions
from dinov3seg_hf.conversion import convert_anyup
from dinov3seg_hf.data import PairedTransform, SegmentationDataset, open_dataset, segmentation_dataset
from dinov3seg_hf.data.parquet import encode_png
from dinov3seg_hf.dataset_labeling import ShardedRows, label_dataset
from dinov3seg_hf.evaluation import evaluate
from dinov3seg_hf.exporting import export_checkpoint
from dinov3seg_hf.hub.example import Example
from dinov3seg_hf.hub.publish import publish
from dinov3seg_hf.loading import load_model, load_pipeline, load_processor
from dinov3seg_hf.ray import Segmenter

from ..outcomes import Case
from ..values import Draw, as_json, described
from ..world import WORDS, World
from .applications import case_of_command
from .files import IMAGE_FILES, image_bytes
from .model import some_words
from places import FIXTURES

# --- data sets --------------------------------------------------------------------------------------------------------


def some_settings(draw: Draw):
    """Settings of a segmentation, or something else."""
    if draw.chance(0.15):
        return draw.anything()
    return draw.choice((None, None, InferenceSettings("whole"), InferenceSettings(head="dinotxt", threshold=0.4)))


def a_table(draw: Draw, masks: bool = False, num_rows: int = 2) -> datasets.Dataset:
    """A data set of small images; one is damaged from time to time."""
    images = [encode_png(draw.arrays.integers(0, 256, (10, 12, 3), dtype=np.uint8)) for _ in range(num_rows)]
    if draw.chance(0.15):
        images[-1] = draw.mutated_bytes(images[-1])
    columns = {"image": [{"bytes": image, "path": None} for image in images], "word": list(WORDS[:num_rows])}
    features = {"image": datasets.Image(), "word": datasets.Value("string")}
    if masks:
        maps = [draw.label_map(len(WORDS), 10, 12).clip(0).astype(np.uint8) for _ in images]
        columns["mask"] = [{"bytes": encode_png(one), "path": None} for one in maps]
        features["mask"] = datasets.Image()
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def label_rows(draw: Draw, world: World) -> Case:
    table = a_table(draw)
    dataset = draw.one_of(table, table, table, lambda: table.to_iterable_dataset(), lambda: table.select([]))
    if draw.chance(0.1):
        dataset = draw.one_of(draw.anything, lambda: datasets.DatasetDict(train=table))
    of_rows = draw.some(
        {
            "image_column": lambda: draw.choice(("image", "word", None)),
            "keep": lambda: draw.choice((["word"], ("word",), "word", [], ["word", "word"], ["image"])),
            "rows_per_shard": lambda: draw.choice((1, 2, np.int64(1), 100)),
        },
        given=0.2,
    )
    names = draw.one_of(list(WORDS), lambda: Vocabulary(WORDS), lambda: some_words(draw))
    options = draw.some(
        {
            "export": lambda: draw.choice((ExportOptions(min_area=2), ExportOptions(copy_images=False), None)),
            "root": lambda: draw.choice((world.folder, str(world.folder))),
            "source": lambda: {"dataset": "x"},
            "batch_size": lambda: draw.choice((1, 2, 0, -1, np.int64(2))),
            "num_workers": lambda: draw.choice((0, 1, 2)),
            "retry_failed": lambda: draw.chance(0.5),
        },
        given=0.2,
    )
    options["settings"] = some_settings(draw)
    output = world.folder / "labeled" if draw.chance(0.9) else draw.anything()

    def call():
        rows = ShardedRows(dataset, **of_rows)
        with contextlib.suppress(ValueError):  # a wrong start must not harm the next one
            label_dataset(world.pipe, rows, names, output, progress=False, **{**options, "batch_size": 0})
        return label_dataset(world.pipe, rows, names, output, progress=False, **options)

    def check(result) -> str | None:
        if result.num_rows + len(result.failed) != len(table):
            return f"{result.num_rows} rows and {len(result.failed)} errors of {len(table)}"
        return None if len(open_dataset(output, "train")) == result.num_rows else "other rows were written"

    given = {"dataset": dataset, **of_rows, "vocabulary": names, "output": output, **options}
    return Case(f"label_dataset({described(given)})", call, check)


def streamed_rows(draw: Draw, world: World) -> Case:
    """A stream has the rows of the stored data set, also augmented."""
    table, known = a_table(draw, masks=True), Vocabulary(WORDS)
    transform = PairedTransform(8) if draw.chance(0.5) else draw.choice((None, draw.number()))
    dataset = table.to_iterable_dataset() if draw.chance(0.9) else draw.one_of(draw.anything, table)
    first, step = draw.choice(((0, 1), (0, 2), (1, 2), (1, 1), (0, 0)))
    without = () if draw.chance(0.8) else draw.one_of(draw.anything, {0}, [1])
    if draw.chance(0.2):
        first, step = draw.one_of(draw.number, 0), draw.number()
    epoch = draw.choice((0, 1, np.int64(2))) if draw.chance(0.8) else draw.anything()
    skip_bad = draw.chance(0.5)

    def call():
        data = segmentation_dataset(dataset, known, transform=transform, skip_bad=skip_bad)
        data.set_epoch(epoch)
        if transform is None and not isinstance(data, SegmentationDataset):
            return [number for number, _ in data.rows(first, step, without)]
        stored = SegmentationDataset(table, known, transform=transform, skip_bad=skip_bad)
        stored.set_epoch(epoch)
        return list(data), [stored[index] for index in range(len(stored))]

    def check(result) -> str | None:
        if not isinstance(result, tuple):
            wanted = [number for number in range(len(table)) if number % step == first and number not in without]
            return None if result == wanted else f"rows {result}; expected {wanted}"
        for one, other in zip(*result):
            if one["index"] == other["index"] and not np.array_equal(one["image"], other["image"]):
                return "a streamed row is another one than the stored one"
        return None

    given = {
        "dataset": dataset,
        "transform": transform,
        "epoch": epoch,
        "first": first,
        "step": step,
        "without": without,
    }
    return Case(f"segmentation_dataset({described(given)})", call, check)


def augmentation(draw: Draw, world: World) -> Case:
    image, labels = draw.arrays.integers(0, 256, (9, 12, 3), dtype=np.uint8), draw.label_map(4, 9, 12)
    options = {"crop_size": draw.choice((8, (6, 10), [5, 5], np.int64(7), (np.int32(4), 3)))}
    options |= draw.some(
        {
            "crop_size": lambda: draw.choice((True, 0, (3, 4, 5), 2.5, "8")),
            "scale": lambda: draw.choice(((0.5, 2), [1, 1], (1, float("inf")), (np.float32(0.5), 1))),
            **{
                name: lambda: draw.choice((0, 0.4, np.float32(0.2), 1, True))
                for name in ("flip", "color", "brightness", "hue")
            },
            "border": lambda: draw.choice(((0, 0, 0), [1, 2, 3], (0.5, 0.5, 0.5), (300, 0, 0), 5)),
        },
        given=0.2,
    )
    if draw.chance(0.2):
        image = draw.one_of(draw.anything, lambda: draw.array((9, 12, 3)), lambda: image[..., 0], lambda: image[::-1])
    if draw.chance(0.2):
        labels = draw.one_of(draw.anything, lambda: draw.array((9, 12)), lambda: draw.label_map(4, 12, 9))
    rng = np.random.default_rng(0) if draw.chance(0.95) else draw.anything()

    def check(result) -> str | None:
        picture, kept = result
        size = options["crop_size"] if isinstance(options["crop_size"], (tuple, list)) else (options["crop_size"],) * 2
        if picture.shape != (*size, 3) or picture.dtype != np.uint8 or kept.shape != tuple(size):
            return f"a crop of {picture.shape} and {kept.shape} for {size}"
        return None if set(np.unique(kept)) <= {-1, *np.unique(labels)} else "other labels"

    given = {"image": image, "labels": labels, "rng": rng, **options}
    return Case(f"PairedTransform({described(given)})", lambda: PairedTransform(**options)(image, labels, rng), check)


def evaluation(draw: Draw, world: World) -> Case:
    table, known = a_table(draw, masks=True), Vocabulary(WORDS)
    model = world.model if draw.chance(0.95) else draw.anything()
    processor = world.processor if draw.chance(0.95) else draw.anything()
    training = draw.one_of(None, ["star"], ", ".join(WORDS), lambda: Vocabulary(["star"]), draw.anything)
    options = draw.some(
        {
            "vocabulary": lambda: draw.choice((list(WORDS), Vocabulary(WORDS, templates="none"), ["a", "b"])),
            "batch_size": lambda: draw.choice((1, 2, 0)),
            "num_workers": lambda: 0,
            "num_resamples": lambda: draw.choice((0, 10)),
            "resume_from": lambda: world.folder / "log",
            "benchmark": lambda: "mine",
            "model_name": lambda: "tiny",
        },
        given=0.2,
    )
    options = {"num_resamples": 0, **options, "training_vocabulary": training, "settings": some_settings(draw)}
    if isinstance(options.get("num_workers"), int) and not isinstance(options["num_workers"], bool):
        options["num_workers"] = min(options["num_workers"], 0)  # processes take seconds
    if isinstance(options["num_resamples"], int | float):
        options["num_resamples"] = min(options["num_resamples"], 20)
    other = draw.chance(0.05)

    def call():
        data = table if other else SegmentationDataset(table, known, skip_bad=True)
        return evaluate(model, processor, data, progress=False, **options)

    def check(result) -> str | None:
        if training == ", ".join(WORDS) and not np.isnan(result.scores["unseen_mean_iou"]):
            return "words of the training are called unseen"
        json.dumps(result.protocol)
        return None if result.num_images + result.num_skipped == len(table) else f"{result.num_images} images"

    return Case(f"evaluate({described({'model': model, 'processor': processor, **options})})", call, check)


@functools.cache
def segmenter(checkpoint: str) -> Segmenter:
    return Segmenter(list(WORDS), checkpoint, device="cpu")


def stage_of_ray(draw: Draw, world: World) -> Case:
    images = draw.arrays.integers(0, 256, (2, 10, 12, 3), dtype=np.uint8)
    files = [encode_png(image) for image in images]
    column = draw.one_of(
        lambda: images,
        lambda: images,
        lambda: np.array(files, dtype=object),
        lambda: np.array([*files[:1], None], dtype=object),
        lambda: list(images),
        lambda: draw.array((2, 10, 12, 3)),
        draw.anything,
    )
    batch = {"image": column, "id": np.arange(2)}
    if draw.chance(0.15):
        batch = draw.one_of(draw.anything, {"id": [1]}, {**batch, "mask": [1, 2]})
    changed = {}
    if draw.chance(0.15):  # each makes a pipeline
        changed = draw.some(
            {
                "image_column": lambda: draw.choice(("image", "photo")),
                "settings": lambda: some_settings(draw),
                "device": lambda: "cpu",
                "dtype": lambda: draw.choice(("float32", "auto")),
                "labels": lambda: some_words(draw),
            },
            given=0.4,
        )

    def call():
        checkpoint = str(world.checkpoint)
        made = segmenter(checkpoint)
        if changed:
            made = Segmenter(
                changed.get("labels", list(WORDS)), checkpoint, **{k: v for k, v in changed.items() if k != "labels"}
            )
        return made(batch)

    def check(result) -> str | None:
        for mask, error in zip(result["mask"], result["error"], strict=True):
            if bool(mask) == bool(error):
                return "an image has neither a mask nor an error, or both"
        return None if len(result["mask"]) == len(batch["image"]) else f"{len(result['mask'])} masks"

    return Case(
        f"ray.Segmenter({described(changed)})({described(batch if isinstance(batch, dict) else [batch])})", call, check
    )


# --- checkpoints ------------------------------------------------------------------------------------------------------


def loading(draw: Draw, world: World) -> Case:
    name = str(world.checkpoint)
    if draw.chance(0.4):
        name = draw.one_of(draw.anything, "a/b", "embedde", world.folder, lambda: name.encode(), "a/b/c", "~/nothing")
    options = draw.some(
        {
            "device": lambda: draw.choice(("cpu", "cuda:7", "nonsense", torch.device("cpu"), "meta")),
            "dtype": lambda: draw.choice(("float32", "bfloat16", "auto", torch.float32, "float33", "int8")),
        },
        hostile=0.4,
    )
    load = draw.choice((load_pipeline, load_model, load_processor))
    accepted = {load_pipeline: ("device", "dtype"), load_model: ("dtype",), load_processor: ()}[load]
    options = {key: value for key, value in options.items() if key in accepted}

    def check(result) -> str | None:
        return None if name == str(world.checkpoint) or name == "embedded" else f"{result} from {name!r}"

    return Case(f"{load.__name__}({described({'name': name, **options})})", lambda: load(name, **options), check)


def export(draw: Draw, world: World) -> Case:
    output = world.folder / "exported"
    output.mkdir()
    (output / "file").write_text("kept")  # so that nothing is exported
    name = draw.choice((world.checkpoint, str(world.checkpoint))) if draw.chance(0.6) else draw.anything()
    if draw.chance(0.2):  # without a checkpoint, nothing is exported to a place that is free
        name, output = world.folder, draw.one_of(draw.anything, output / "file")
    options = draw.some(
        {
            "format": lambda: draw.choice(("onnx", "torch", "onxn")),  # openvino writes statistics to the home
            "int8": lambda: draw.chance(0.5),
            "templates": lambda: draw.choice(("none", "{}", ["{}", "a {}"])),
            "progress": lambda: False,
        },
        hostile=0.4,
    )
    return Case(
        f"export_checkpoint({described({'name': name, 'output': output, **options})})",
        lambda: export_checkpoint(name, output, **options),
        lambda result: "an export over other files",
    )


def publication(draw: Draw, world: World) -> Case:
    photo, card, output = world.folder / "photo.png", world.folder / "card.md", world.folder / "published"
    photo.write_bytes(image_bytes(draw, "PNG", "RGB"))
    card.write_text("{title}")
    arguments = {
        "model": world.checkpoint,
        "repo_id": "org/name",
        "output": output,
        "card_template": card,
        "example": Example(photo, ", ".join(WORDS)),
        "dry_run": True,
    }
    # a Space without its folder: everything else is checked before, and nothing takes the time of a new process
    more = {
        "space_id": lambda: "org/space",
        "demo": lambda: world.folder,
        "constraints": lambda: card,
        "results": lambda: [card],
        "metadata": lambda: {"license": "mit"},
        "vocabulary": lambda: Vocabulary(WORDS),
        "code_license": lambda: card,
        "private": lambda: True,
        "max_shard_size": lambda: "5MB",
    }
    arguments |= draw.some(more, hostile=0.3, given=0.2)
    arguments[draw.choice(("model", "repo_id", "output", "card_template", "example"))] = draw.one_of(
        draw.anything,
        draw.anything,
        world.folder,
        "x",
        lambda: Example(world.folder / "no.png", "a"),
        lambda: Example(photo, ""),
    )
    return Case(f"publish({described(arguments)})", lambda: publish(**arguments))


@functools.cache
def anyup_tensors() -> dict[str, torch.Tensor]:
    with safe_open(FIXTURES / "anyup_tiny.safetensors", "pt") as file:
        return {key[6:]: file.get_tensor(key) for key in file.keys() if key.startswith("anyup/")}


def anyup(draw: Draw, world: World) -> Case:
    tensors = dict(anyup_tensors())
    good = dict(tensors)
    key = draw.choice(list(tensors))
    match draw.randrange(6):
        case 0:
            del tensors[key]
        case 1:
            tensors[key] = draw.one_of(draw.anything, draw.tensor, lambda: good[key][None], lambda: good[key].numpy())
        case 2:
            tensors[draw.one_of("x", 1, lambda: key + ".x")] = torch.zeros(2)
        case 3:
            tensors[key] = tensors[key] * float("nan")
        case 4:
            tensors = draw.anything()

    def check(result) -> str | None:
        return None if all(value.isfinite().all() for value in result.values()) else "weights that are not finite"

    return Case(
        f"convert_anyup({described(tensors if isinstance(tensors, dict) else [tensors])})"[:500],
        lambda: convert_anyup(tensors),
        check,
    )


# --- all options of all commands --------------------------------------------------------------------------------------


@functools.cache
def actions_of(command: str) -> list[argparse.Action]:
    """The options of a command, except help."""
    parser = importlib.import_module(f"dinov3seg_hf.cli.{command}").make_parser("dinov3seg")
    return [action for action in parser._actions if action.option_strings and "-h" not in action.option_strings]


def options_of_commands(draw: Draw, world: World) -> Case:
    photo, words, out = world.folder / "photo.png", world.folder / "words.txt", world.folder / "out"
    photo.write_bytes(image_bytes(draw, "PNG", "RGB"))
    words.write_text("".join(f"{word}\n" for word in WORDS))
    out.mkdir()
    model, labels = ["--model", str(world.checkpoint)], ["--labels-file", str(words)]
    empty, new = str(world.folder / "empty"), str(out / "x")  # so that nothing long begins
    commands = {
        "segment": [str(photo), *labels, *model, "--output", f"{out}/a.png"],
        "label": ["--dataset", empty, *labels, *model, "--output", new],
        "doctor": [*labels, *model],
        "calibrate": [*labels, *model, "--images", empty, "--write", f"{out}/c.tsv"],
        "convert": ["--backbone", str(photo), "--dinotxt", str(words), "--output", new],
        "demo": [*model],
        "serve": [*model],
        "train": ["--init", empty, "--dataset", empty, "--output", new],
        "evaluate": [*model, "--data", empty, "--output", new],
        "prepare": ["drawn-world", "--output", new, "--scenes", "0"],
        "export": [empty, "--output", new],
        "publish": ["--model", empty, "--repo", "a/b", "--dry-run", "--output", new],
    }
    name = draw.choice(tuple(cli.COMMANDS))
    arguments = [name, *commands[name]]
    for action in draw.sample(actions_of(name), min(draw.choice((1, 1, 2, 3)), len(actions_of(name)))):
        option = draw.choice(action.option_strings)
        if action.nargs == 0:
            arguments.append(option)
            continue
        known = tuple(map(str, action.choices or ("1", "0.5")))
        texts = (str(draw.number()), str(draw.number()), draw.text().replace("\0", ""), draw.choice(known))
        value = draw.choice((*texts, str(photo), str(words), str(out), "1", "2"))
        if value.startswith("/") and not value.startswith(str(world.folder)):
            value = f"{out}{value}"  # a place of the machine is what somebody asked for
        if value == "embedded":
            value = "embedde"
        arguments += [f"{option}={value}"] if draw.chance(0.8) else [option, value]
    if name in ("demo", "serve"):  # which would serve without end
        arguments.append("--max-labels=0")

    return case_of_command(arguments)


# --- annotation tools and the page ------------------------------------------------------------------------------------

INTERFACE = (
    '<View><Image name="img" value="$image"/><{kind} name="tag" toName="img">'
    + "".join(f'<Label value="{word}"/>' for word in WORDS)
    + "</{kind}></View>"
)


def annotation_tools(draw: Draw, world: World) -> Case:
    from .streams import service

    content = image_bytes(draw, *draw.choice(IMAGE_FILES[:12]))
    content = draw.mutated_bytes(content) if draw.chance(0.2) else content
    image = base64.b64encode(content).decode()
    interface = INTERFACE.format(kind=draw.choice(("BrushLabels", "PolygonLabels")))
    if draw.chance(0.2):
        interface = draw.mutated_text(interface)[:5000].decode("utf-8", "replace")
    bodies = {
        "/setup": {"schema": interface, "project": "1.0"},
        "/predict": {
            "tasks": [{"id": 1, "data": {"image": f"data:image/png;base64,{image}"}}],
            "label_config": interface,
        },
        "/v1/predict": {
            "model": "dinov3seg",
            "image": image,
            "params": {"text_prompt": ".".join(WORDS), "conf_threshold": draw.choice((0, 0.3, 1, 2, "a"))},
        },
    }
    path = draw.choice(tuple(bodies))
    body = bodies[path]
    if draw.chance(0.5):
        body = draw.mutated_json(json.loads(as_json(body)), 0.2)
    raw = json.dumps(body).encode()

    def call():
        return service(world.pipe).post(path, content=raw, headers={"Content-Type": "application/json"})

    def check(answer) -> str | None:
        if answer.status_code >= 500 or "/shm" in answer.text or "Traceback" in answer.text:
            return f"{answer.status_code}: {answer.text[:200]}"
        told = answer.json()
        error = told.get("error") or told.get("detail") if isinstance(told, dict) else "no mapping"
        is_ours = error is None or len(as_json(error)) > 15
        return None if is_ours else f"{answer.status_code}: {answer.text[:200]}"

    return Case(f"{path}({described([raw])})", call, check)


def demo_page(draw: Draw, world: World) -> Case:
    from dinov3seg_hf.demo.endpoints import Endpoints

    from .applications import engine

    fragment = draw.one_of(
        None, "", "#labels=a,b&example=1", "labels=cat&head=full&refine=1", "%", "&&==",
        lambda: "labels=" + draw.text(), lambda: f"example={draw.number()}&templates={draw.text()}", draw.anything,
    )  # fmt: skip
    index, way = draw.anything(), draw.randrange(2)

    def call():
        made = Endpoints(engine(world.pipe))
        return made.open_page(fragment) if way == 0 else made.show_example(index)

    return Case(f"the page: {described([fragment, index])}", call, lambda values: None if len(values) else "no values")


FAMILIES = {
    "label-dataset": label_rows,
    "streamed-rows": streamed_rows,
    "augmentation": augmentation,
    "evaluate": evaluation,
    "ray": stage_of_ray,
    "loading": loading,
    "export": export,
    "publish": publication,
    "anyup": anyup,
    "command-options": options_of_commands,
}
if importlib.util.find_spec("fastapi") is not None:
    FAMILIES["annotation-tools"] = annotation_tools
if importlib.util.find_spec("gradio") is not None:
    FAMILIES["demo-page"] = demo_page
