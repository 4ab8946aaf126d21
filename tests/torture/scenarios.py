# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The commands that write: what they are given, and what of their result must be the same."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import datasets
import numpy as np
import rasterio
import torch
from PIL import Image
from pyogrio import raw
from safetensors import safe_open

from dinov3seg_hf.conversion.converter import convert
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.drawn_world.tokenizer import make_tokenizer
from dinov3seg_hf.video import new_video

from places import FIXTURES
from tiny import make_tiny_config, make_tiny_model, make_tiny_processor

LABELS = "red circle, blue square, star"
Snapshot = dict[str, str]


def digests(folder: Path) -> Snapshot:
    """All files, bit by bit; of a GeoPackage, which contains times, its rows."""
    return {
        str(path.relative_to(folder)): sha256(
            polygons(path) if path.suffix == ".gpkg" else path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def polygons(path: Path) -> bytes:
    """The rows of a GeoPackage."""
    _, _, geometry, columns = raw.read(path)
    return repr([geometry.tolist(), *(column.tolist() for column in columns)]).encode()


def trained(folder: Path) -> Snapshot:
    """The losses of all steps, and the model bit by bit; log and description contain times."""
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    weights = digests(folder / "run" / "model")["model.safetensors"]
    return {"losses": json.dumps(losses), "model.safetensors": weights}


@dataclass(frozen=True)
class Scenario:
    """A command.

    Attributes:
        arguments: The arguments; {data}, {out} and {labels} are filled in.
        again: More arguments of the second call.
        snapshot: What must be the same in the end.
        processes: The numbers of processes in which it runs.
    """

    arguments: str
    again: Sequence[str] = ()
    snapshot: Callable[[Path], Snapshot] = digests
    processes: tuple[int, ...] = (1,)

    def command(self, data: Path, out: Path, again: bool = False) -> list[str]:
        """The arguments of a call, the first or the second one."""
        arguments = [part.format(data=data, out=out, labels=LABELS) for part in shlex.split(self.arguments)]
        return [*arguments, *(self.again if again else ())]


SCENARIOS = {
    "segment": Scenario(
        "segment {data}/images --model {data}/model --labels {labels} --output {out}/pictures --mask {out}/masks/ "
        "--json {out}/json"
    ),
    "video": Scenario(
        "segment {data}/clip.mp4 --model {data}/model --labels {labels} --smoothing 0.1 --output {out}/clip.mp4 "
        "--mask {out}/masks --json {out}/json"
    ),
    "tiles": Scenario(
        "segment {data}/large.tif --model {data}/model --labels {labels} --tile 64 --mask {out}/labels.tif "
        "--scores {out}/scores.tif --format geopackage --annotations {out}/labels.gpkg"
    ),
    "annotations": Scenario(
        "segment {data}/images --model {data}/model --labels {labels} --format coco --annotations {out}/coco.json"
    ),
    "label": Scenario(
        "label --dataset {data}/images --model {data}/model --labels {labels} --output {out}/labeled "
        "--rows-per-shard 2",
        processes=(1, 2),
    ),
    "evaluate": Scenario(
        "evaluate --cpu --model {data}/model --benchmark drawn-world --images 24 --num-workers 2 --batch-size 2 "
        "--resamples 50 --output {out}/results",
        processes=(1, 2),
    ),
    "prepare": Scenario("prepare drawn-world --output {out}/prepared --scenes 40 --size 64"),
    "train": Scenario("train --config {data}/recipe.json --output {out}/run", ["--resume"], trained, processes=(1, 2)),
    "calibrate": Scenario(
        "calibrate --model {data}/model --labels {labels} --head dinotxt --images {data}/images "
        "--write {out}/classes.tsv"
    ),
    "convert": Scenario(
        "convert --backbone {data}/backbone.pth --dinotxt {data}/dinotxt.pth --license none --output {out}/converted"
    ),
    "publish": Scenario(
        "publish --model {data}/model --repo org/model --space org/demo --license mit --dry-run --output {out}/built"
    ),
    "export": Scenario("export {data}/model --format torch --output {out}/exported"),
}


def make_data(folder: Path) -> Path:
    """Images, a video, a data set with masks, a tiny random checkpoint, and tiny published files."""
    tokenizer = make_tokenizer()
    make_tiny_model(make_tiny_config(tokenizer)).save_pretrained(folder / "model")
    make_tiny_processor(tokenizer).save_pretrained(folder / "model")
    (folder / "images").mkdir()
    for seed in range(16):
        Image.fromarray(draw_scene(seed).image).save(folder / "images" / f"{seed:02d}.png")
    with new_video(folder / "clip.mp4", frame_rate=Fraction(10)) as video:
        for number in range(12):
            video.add(draw_scene(number).image, number / 10)
    pixels = np.tile(draw_scene(0).image, (3, 3, 1)).transpose(2, 0, 1)
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    shape = {"count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
    with rasterio.open(folder / "large.tif", "w", driver="GTiff", **shape, **place) as file:
        file.write(pixels)
    rng = np.random.default_rng(0)
    columns = {
        "image": [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(16)],
        "mask": [Image.fromarray(rng.integers(0, 3, (32, 32)).astype(np.uint8)) for _ in range(16)],
    }
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder / "rows")
    (folder / "classes.txt").write_text("\n".join(LABELS.split(", ")))
    recipe = {
        "init": str(folder / "model"),
        "dataset": str(folder / "rows"),
        "vocabulary": str(folder / "classes.txt"),
        "num_workers": 2,
        "crop_size": 24,
        "steps": 12,
        "batch_size": 4,
        "warmup_steps": 2,
        "checkpoint_every": 3,
        "log_every": 1,
        "num_overlays": 0,
        "trackers": ["none"],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with safe_open(FIXTURES / "dinotxt_tiny.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    # the published text tower is wider; the command has no flag for it
    convert.__kwdefaults__["text_num_attention_heads"] = 4
    for name in ("backbone", "dinotxt"):
        part = {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
        torch.save(part, folder / f"{name}.pth")
    return folder
