# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Image files, folders of checkpoints, conversions, data sets and their rows."""

import io
import json
import shutil

import datasets
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from dinov3seg_hf import Vocabulary
from dinov3seg_hf.conversion import convert
from dinov3seg_hf.data import SegmentationDataset, find_vocabulary, open_dataset
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.model.image_input import open_image, read_label_map

from ..outcomes import Case
from ..values import Draw, as_json, described
from ..world import WORDS, World

# --- image files ------------------------------------------------------------------------------------------------------

IMAGE_FILES = (
    *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    *(("TIFF", mode) for mode in ("RGB", "L", "I;16", "F", "LAB", "CMYK")),
    *(("GIF", "P"), ("BMP", "RGB"), ("PPM", "RGB"), ("TGA", "RGBA"), ("ICO", "RGBA"), ("JPEG2000", "RGB")),
)


def image_bytes(draw: Draw, kind: str, mode: str) -> bytes:
    """A good image file."""
    gray = draw.label_map(200, 18, 23).clip(0).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 99)
    elif mode == "F":
        image = Image.fromarray(gray.astype(np.float32) / 255)
    else:
        colors = np.stack([gray, gray[::-1], gray[:, ::-1]], axis=-1)
        image = Image.fromarray(gray if mode in ("L", "1") else colors).convert(mode)
    options = {"exif": Image.Exif()} if kind in ("PNG", "JPEG", "WEBP") else {}
    if options:
        options["exif"][0x0112] = draw.randint(0, 9)
    if kind == "GIF" and draw.chance(0.5):
        options |= {"save_all": True, "append_images": [image, image]}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def image_file(draw: Draw, world: World) -> Case:
    kind, mode = draw.choice(IMAGE_FILES)
    good = image_bytes(draw, kind, mode)
    data = good if draw.chance(0.1) else draw.mutated_bytes(good)
    path = world.folder / "image.png"
    path.write_bytes(data)
    as_mask = draw.chance(0.4)
    max_pixels = 10**6 if draw.chance(0.9) else draw.anything()

    def check(result) -> str | None:
        if len(data) < len(good) / 2 and good.startswith(data):
            return f"{len(data)} of {len(good)} bytes of a {kind} were read without an error"
        if as_mask:
            return None if result.ndim == 2 and result.numel() else "an empty mask"
        return None if result.mode == "RGB" and min(result.size) > 0 else f"an image of mode {result.mode}"

    return Case(
        f"{'read_label_map' if as_mask else 'open_image'}({kind} {mode}, {len(good)} -> {len(data)} bytes)",
        lambda: (read_label_map if as_mask else open_image)(path, max_pixels=max_pixels),
        check,
    )


# --- folders of checkpoints -------------------------------------------------------------------------------------------

CHECKPOINT_FILES = (
    *("config.json", "config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    "model.safetensors",
)


def folder(draw: Draw, world: World) -> Case:
    target = world.folder / "checkpoint"
    shutil.copytree(world.checkpoint, target, ignore=shutil.ignore_patterns("*.py"))
    name = draw.choice(CHECKPOINT_FILES)
    file, content = target / name, (target / name).read_bytes()
    if draw.chance(0.1):
        file.unlink()
    elif draw.chance(0.05):
        file.unlink()
        file.mkdir()
    elif name.endswith(".json") and draw.chance(0.6):
        file.write_text(as_json(draw.mutated_json(json.loads(content), 0.3)))
    elif name.endswith(".json"):
        file.write_bytes(draw.mutated_text(content.decode()))
    else:
        file.write_bytes(draw.mutated_bytes(content[:5000]) + content[5000 : -1 if draw.chance(0.3) else None])
    changed = file.read_bytes() if file.is_file() else b""
    source = target if draw.chance(0.95) else draw.anything()
    image = draw.image(16, 16).convert("RGB")

    def call():
        pipe = load_pipeline(source, device="cpu")
        return pipe(image, candidate_labels=list(WORDS), return_label_map=True)

    def check(result) -> str | None:
        return None if np.isfinite(result["score_map"]).all() else "scores that are not finite"

    at = next((place for place, pair in enumerate(zip(content, changed)) if pair[0] != pair[1]), 0)
    return Case(f"load_pipeline({described([source])}), {name} changed: {changed[at : at + 150]!r}", call, check)


# --- conversions ------------------------------------------------------------------------------------------------------


def converter(draw: Draw, world: World) -> Case:
    paths = {name: published_file(draw, world, name) for name in world.published}
    if draw.chance(0.1):
        paths = {"backbone": paths["dinotxt"], "dinotxt": paths["backbone"]}
    license_file = world.folder / "LICENSE.md"
    license_file.write_text("terms\n")
    options = {"progress": False, "license": license_file, "text_num_attention_heads": 4}
    options |= draw.some(
        {
            "tokenizer": lambda: draw.choice(("none", str(world.checkpoint))),
            "prior": lambda: None,
            "anyup": lambda: None,
            "anyup_scale": lambda: draw.choice((1, 2)),
            "license": lambda: "none",
            "dtype": lambda: draw.choice(("float32", "bfloat16")),
            "text_num_attention_heads": lambda: draw.choice((2, 4)),
            "prior_image_size": lambda: 64,
            "seed": lambda: 1,
            "max_shard_size": lambda: "1MB",
            "overwrite": lambda: draw.chance(0.5),
        },
        given=0.1,
    )
    output = world.folder / "out"

    def check(result) -> str | None:
        return None if result.missing == [] and (output / "config.json").is_file() else "an incomplete folder"

    return Case(
        f"convert({described({**paths, **options})})",
        lambda: convert(paths["backbone"], paths["dinotxt"], output, **options),
        check,
    )


def published_file(draw: Draw, world: World, name: str):
    """A published file, often with another tensor, a key too many or too few, or damaged."""
    tensors = dict(world.published[name])
    path = world.folder / f"{name}{draw.choice(('.safetensors', '.pth'))}"
    if draw.chance(0.35):
        key = draw.choice(list(tensors))
        tensor = tensors.pop(key)
        if draw.chance(0.3):
            tensors["x" if draw.chance(0.5) else "blocks.99"] = torch.zeros(2)
        elif draw.chance(0.6):
            tensors[key] = draw.one_of(
                lambda: draw.tensor(tuple(tensor.shape)),
                draw.tensor,
                lambda: tensor[:-1] if tensor.ndim else tensor,
                lambda: tensor[None],
            )
    if path.suffix == ".pth":
        torch.save(draw.one_of(tensors, tensors, tensors, tensors, {"model": tensors}, lambda: [1], {1: 2}), path)
    else:
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    if draw.chance(0.15):
        path.write_bytes(draw.mutated_bytes(path.read_bytes()))
    return path


# --- data sets --------------------------------------------------------------------------------------------------------


# Files of one mask: they give its labels, or are refused.
MASK_FILES = (
    *(("PNG", mode, {}) for mode in ("L", "RGB", "P", "I;16")),
    *(("TIFF", mode, {"compression": "tiff_lzw"}) for mode in ("L", "RGB", "I")),
    *(("WEBP", "RGB", {"lossless": True}), ("WEBP", "RGB", {"quality": 80}), ("WEBP", "RGBA", {"quality": 80})),
    *(("JPEG", "L", {}), ("JPEG", "RGB", {"quality": 100}), ("BMP", "L", {}), ("ICO", "RGBA", {})),
)


def rows(draw: Draw, world: World) -> Case:
    good_mask = draw.label_map(4, 12, 10).clip(0).astype(np.uint8)
    expected: np.ndarray | None = good_mask
    mask = io.BytesIO()
    Image.fromarray(good_mask).save(mask, "PNG")
    stored = {"bytes": mask.getvalue(), "path": None}
    image_kind, mask_kind = draw.choice(IMAGE_FILES), draw.choice(IMAGE_FILES)
    image = image_bytes(draw, *image_kind)
    if draw.chance(0.7):
        fitting = io.BytesIO()
        draw.image(12, 10).convert("RGB").save(fitting, "PNG")
        image = fitting.getvalue()
    if draw.chance(0.2):
        image = draw.mutated_bytes(image)
    if draw.chance(0.3):
        stored = {"bytes": mask_bytes(good_mask, *draw.choice(MASK_FILES)), "path": None}
    elif draw.chance(0.4):
        expected = None  # not known
        stored = draw.one_of(
            None,
            lambda: {"bytes": draw.mutated_bytes(mask.getvalue()), "path": None},
            lambda: {"bytes": image_bytes(draw, *mask_kind), "path": None},
            lambda: {"bytes": None, "path": "nothing.png"},
            lambda: {"bytes": b"", "path": None},
        )
    as_lists = draw.chance(0.2)
    if as_lists:
        strange = ([[1, 2], [3]], [], [[]], [[None, 1]], None, [[2**40, -1]])
        expected = good_mask if draw.chance(0.3) else None
        stored = draw.choice(strange) if expected is None else good_mask.tolist()
    maps = datasets.List(datasets.List(datasets.Value("int64"))) if as_lists else datasets.Image()
    features = datasets.Features({"image": datasets.Image(), "mask": maps})
    values = {"image": [{"bytes": image, "path": None}], "mask": [stored]}
    dataset = datasets.Dataset.from_dict(values, features=features)
    options = draw.some(
        {
            "image_column": lambda: "image",
            "mask_column": lambda: "mask",
            "skip_bad": lambda: draw.chance(0.5),
            "seed": lambda: 3,
            "mask_values": lambda: draw.choice(("labels", "raw_ids")),
            "mask_coding": lambda: draw.choice(("integers", "ade20k-rgb")),
        },
        given=0.15,
    )
    vocabulary = Vocabulary(WORDS, raw_ids={0: 0, 1: 1, 2: 2, 3: 3} if draw.chance(0.3) else None)
    index = 0 if draw.chance(0.9) else draw.anything()

    def check(result) -> str | None:
        labels = result["labels"]
        if labels.shape != result["image"].shape[:2]:
            return f"image {result['image'].shape} with labels {labels.shape}"
        if labels.size and not -1 <= labels.min() <= labels.max() < len(WORDS):
            return "a label is no class"
        if expected is not None and not np.array_equal(labels, expected):
            return f"{(labels != expected).mean():.0%} of the labels are not those of the mask"
        return None

    return Case(
        f"SegmentationDataset({described({'mask': stored, **options})})[{described([index])}]",
        lambda: SegmentationDataset(dataset, vocabulary, **options)[index],
        check,
    )


def mask_bytes(mask: np.ndarray, kind: str, mode: str, options: dict) -> bytes:
    image = Image.fromarray(mask.astype(np.uint16)) if mode == "I;16" else Image.fromarray(mask).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def data_folder(draw: Draw, world: World) -> Case:
    root = world.folder / "data"
    images, masks = root / "images", root / draw.choice(("masks", "annotations", "labels"))
    for place in (images, masks):
        place.mkdir(parents=True)
    for number in range(2):
        draw.image(8, 9).convert("RGB").save(images / f"{number}.{draw.choice(('png', 'jpg'))}")
        Image.fromarray(draw.label_map(4, 8, 9).clip(0).astype(np.uint8)).save(masks / f"{number}.png")
    classes = root / "classes.txt"
    classes.write_text("".join(f"{word}\n" for word in WORDS))
    match draw.randrange(9):
        case 0:
            (masks / "0.png").unlink()
        case 1:
            classes.write_bytes(draw.mutated_text("a\nb\nc\nd\n"))
        case 2:
            (images / "0.bmp").write_bytes(b"x")
        case 3:
            (masks / "1.png").write_bytes(draw.mutated_bytes((masks / "1.png").read_bytes()))
        case 4:
            classes.unlink()
            header = {"class_names": list(WORDS)} if draw.chance(0.5) else {"id2label": dict(enumerate(WORDS))}
            card = f"---\n{as_json(draw.mutated_json(json.loads(as_json(header)), 0.3))}\n---\ntext"
            (root / "README.md").write_bytes(draw.mutated_text(card) if draw.chance(0.5) else card.encode())
        case 5:
            classes.unlink()
            labels = {str(label): word for label, word in enumerate(WORDS)}
            changed = as_json(draw.mutated_json(labels)).encode()
            (root / "id2label.json").write_bytes(draw.mutated_text(json.dumps(labels)) if draw.chance(0.5) else changed)
        case 6:
            (images / "0.png").unlink(missing_ok=True)
            (images / "0.png").symlink_to("0.png")
        case 7:
            shutil.rmtree(masks)
            masks.write_text("a file")
    name = root if draw.chance(0.9) else draw.anything()
    splits = ("train[:1]", "train[1:]", "validation", "train[")
    split = "train" if draw.chance(0.8) else draw.one_of(draw.anything, *splits)
    options = draw.some(
        {"streaming": lambda: draw.chance(0.5), "config_name": lambda: None, "token": lambda: None}, given=0.1
    )

    def call():
        dataset = open_dataset(name, split, **options)
        vocabulary = find_vocabulary(dataset, card=name)
        return SegmentationDataset(dataset, vocabulary)[0]

    def check(result) -> str | None:
        return None if -1 <= result["labels"].min() <= result["labels"].max() < 99 else "a label is no class"

    return Case(f"open_dataset({described({'name': name, 'split': split, **options})})", call, check)


FAMILIES = {
    "image-file": image_file,
    "folder": folder,
    "converter": converter,
    "rows": rows,
    "data-folder": data_folder,
}
